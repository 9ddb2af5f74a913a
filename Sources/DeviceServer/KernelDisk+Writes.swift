internal import BlockIO
internal import DeviceControl
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// What concerns the writes of whoever uses the device: recording them, holding them back, ending them.
extension KernelDisk {
    // MARK: tracking

    static let trackerPrefix = "godwit-"

    func startTracking(granuleBytes: UInt64) throws(DiskError) -> any ChangeTracker {
        let number: UInt64? = state.change { state in
            guard !state.isGrowing else { return nil }
            state.trackers += 1
            state.lastTracker += 1
            return state.lastTracker
        }
        guard let number else { throw isBusy }
        let name = "\(Self.trackerPrefix)\(number)"
        do throws(DriverError) {
            try driver.createBitmap(name, of: device, granuleBytes: granuleBytes)
        } catch {
            state.change { $0.trackers -= 1 }
            throw DiskError(error, path: held.path)
        }
        return Tracker(disk: self, name: name)
    }

    private final class Tracker: ChangeTracker {
        private let disk: KernelDisk
        private let name: String
        init(disk: KernelDisk, name: String) {
            self.disk = disk
            self.name = name
        }

        func take(in range: ByteRange, limit: Int) throws(DiskError) -> (runs: [ByteRange], coveredTo: UInt64) {
            let taken = try disk.asking { () throws(DriverError) in
                try disk.driver.readBitmap(name, of: disk.device, in: range, limit: limit, clear: true)
            }
            return (taken.ranges, taken.coveredTo)
        }

        func dirtyBytes() throws(DiskError) -> UInt64 {
            let all = try disk.asking { () throws(DriverError) in try disk.driver.bitmaps(of: disk.device) }
            guard let bitmap = all.first(where: { $0.name == name }) else {
                throw DiskError(.notFound, "\(disk.held.path): the map of changes is gone", path: disk.held.path)
            }
            return bitmap.markedBytes
        }

        func stop() {
            try? disk.driver.deleteBitmap(name, of: disk.device)
            disk.state.change { $0.trackers -= 1 }
        }
    }

    // MARK: holding back

    /// The driver holds back what file systems write, by freezing them, and no more: so nobody else may be writing.
    func holdWrites(milliseconds: UInt64) throws(DiskError) {
        try refuseOtherWriters()
        let deadline = min(milliseconds, Driver.deadlineMillisecondsMax)
        let devices = try asking { () throws(DriverError) in
            try FrozenDevices([device], deadlineMilliseconds: deadline)
        }
        frozen.withLock { $0 = devices }
        do throws(SystemError) {
            try LinuxFileSystem().open(device.path, .read).synchronize()
        } catch {
            letWritesGo()
            throw DiskError(error, path: held.path)
        }
    }

    func letWritesGo() { _ = thaw() }

    /// - Returns: whether the writes were held up to now.
    private func thaw() -> Bool {
        let devices = frozen.withLock { frozen in frozen.take() }
        guard let devices else { return false }
        return (try? devices.thaw()) == false
    }

    /// First the writes are made to fail, and then the file systems thaw: if the deadline was not earlier, none of
    /// their writes came in between.
    func release() throws(DiskError) {
        try asking { () throws(DriverError) in try driver.setAborted(true, device) }
        if thaw() {
            state.change { $0.isReleased = true }
            return
        }
        try asking { () throws(DriverError) in try driver.setAborted(false, device) }
        throw DiskError(.busy, "\(held.path): the freeze ended by itself at its deadline", path: held.path)
    }

    private func refuseOtherWriters() throws(DiskError) {
        let writers: [String]
        do throws(SystemError) { writers = try DeviceWriters.of(device) } catch {
            throw DiskError(error, path: held.path)
        }
        guard let first = writers.first else { return }
        throw DiskError(
            .busy,
            "\(device.path) is written to by \(first): the driver holds back file systems only, so stop it first",
            path: held.path)
    }
}

/// Who may write to a device without a file system that can be frozen.
private enum DeviceWriters {
    /// Processes and stacked devices, in words.
    static func of(_ device: DeviceIndex) throws(SystemError) -> [String] {
        let files = LinuxFileSystem()
        let folder = "/sys/block/\(device.name)"
        let partitions = try files.list(folder).filter { $0.hasPrefix(device.name + "p") }
        var found: [String] = []
        for part in [folder] + partitions.map({ "\(folder)/\($0)" }) {
            found += try files.list("\(part)/holders").map { "the device \($0) on it" }
        }
        let nodes = Set([device.path] + partitions.map { "/dev/\($0)" })
        for process in try files.list("/proc") where process.allSatisfy(\.isNumber) {
            // Processes and their files may go while they are looked at.
            for number in (try? files.list("/proc/\(process)/fd")) ?? [] {
                guard let target = try? files.resolve("/proc/\(process)/fd/\(number)"), nodes.contains(target),
                    let info = try? kernelText("/proc/\(process)/fdinfo/\(number)"), isWritable(info)
                else { continue }
                found.append("process \(process)")
            }
        }
        return found
    }

    /// `flags:` has the open flags in octal; the access mode is in the lowest two bits.
    private static func isWritable(_ info: String) -> Bool {
        for line in info.split(separator: "\n") where line.hasPrefix("flags:") {
            guard let flags = UInt64(line.dropFirst("flags:".count).filter { !$0.isWhitespace }, radix: 8) else {
                return true
            }
            return flags & 3 != 0
        }
        return true
    }
}
