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
        try held.proveOwned()
        try begin(.track)
        let number = state.change { state in
            state.lastTracker += 1
            return state.lastTracker
        }
        let name = "\(Self.trackerPrefix)\(number)"
        do throws(DriverError) {
            try driver.createBitmap(name, of: device, granuleBytes: granuleBytes)
        } catch {
            end(.track)
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
            disk.end(.track)
        }
    }

    // MARK: holding back

    /// What was written through the device's page cache is on the disk first. Who goes on writing so is refused: to
    /// read such a block is to wait for a write that is held.
    func holdWrites(milliseconds: UInt64) throws(DiskError) {
        try refuseCachedWriters()
        do throws(SystemError) { try LinuxFileSystem().open(device.path, .read).synchronize() } catch {
            throw DiskError(error, path: held.path)
        }
        let deadline = min(milliseconds, Driver.deadlineMillisecondsMax)
        let devices = try asking { () throws(DriverError) in
            try FrozenDevices([device], holdingWrites: true, deadlineMilliseconds: deadline)
        }
        frozen.withLock { $0 = devices }
    }

    func letWritesGo() { _ = thaw() }

    /// - Returns: whether the writes were held up to now.
    private func thaw() -> Bool {
        let devices = frozen.withLock { frozen in frozen.take() }
        guard let devices else { return false }
        return (try? devices.thaw()) == false
    }

    var location: String { held.path }
    func isGivenAway() throws(DiskError) -> Bool { try held.isGivenAway() }

    /// First the writes are made to fail, and then those that were held go on: if the deadline was not earlier, none
    /// came in between. The driver holds nothing without a deadline, so what is held fails already here.
    func beginRelease() throws(DiskError) {
        try held.proveInPlace()
        try abort.begin()
        if thaw() {
            state.change { $0.isReleased = true }
            return
        }
        abort.lift()
        throw DiskError(.busy, "\(held.path): the freeze ended by itself at its deadline", path: held.path)
    }

    func finishRelease() {}

    func cancelRelease() {
        state.change { $0.isReleased = false }
        abort.lift()
    }

    private func refuseCachedWriters() throws(DiskError) {
        let writers: [String]
        do throws(SystemError) {
            let all = try LinuxFileSystem().list("/sys/block/\(device.name)")
            let parts = all.filter { $0.begins(with: device.name + "p") }
            writers = try processesWritingCached(to: [device.path] + parts.map { "/dev/\($0)" })
        } catch {
            throw DiskError(error, path: held.path)
        }
        guard let first = writers.first else { return }
        throw DiskError(
            .busy,
            "process \(first) has \(device.path) open to write through the page cache, without O_DIRECT: stop it first",
            path: held.path)
    }
}
