import BlockIO
import DeviceControl
import DiskImage
import Geometry
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

private let hasDriver = isRoot && Driver.isLoaded

/// Every call of the driver's interface, on devices of the driver itself. They are here because images are made by a
/// module that DeviceControl must not know.
@Suite(
    .enabled(if: hasDriver, "the ploop driver is not loaded: kernel/tests runs this suite in a virtual machine"),
    .serialized)
struct DriverTests {
    /// Some attached disks in a folder of their own; all goes with it.
    private final class Devices {
        let folder: TemporaryFolder
        let driver: Driver
        private(set) var devices: [DeviceIndex] = []

        init(count: Int, byteCount: UInt64 = 64 << 20) throws {
            folder = try TemporaryFolder()
            driver = try Driver()
            for number in 0..<count {
                var options = CreateOptions(byteCount: byteCount)
                options.clusterSize = try #require(ClusterSize(bytes: 64 << 10))
                try createDisk(at: folder.file("\(number)"), options: options, in: LinuxFileSystem())
                let image = try openDescriptor(folder.file("\(number)/root.hds"), writable: true)
                var settings = AttachSettings()
                settings.cookie = "test \(number)"
                devices.append(
                    try driver.attach([StackFile(descriptor: image.number, format: .expandable)], settings))
            }
        }

        deinit { for device in devices { try? driver.detach(device, force: true) } }

        /// Writes whole granules of 4 KiB, past the page cache, and flushes.
        func write(_ byte: UInt8, at offset: UInt64, count: Int, on number: Int = 0) throws {
            let file = try LinuxFileSystem().open(devices[number].path, OpenMode(writable: true, direct: true))
            let buffer = AlignedBuffer(byteCount: count)
            buffer.memory.initializeMemory(as: UInt8.self, repeating: byte)
            try file.write(at: offset, from: UnsafeRawBufferPointer(buffer.memory))
            try file.synchronize()
        }

        func byte(at offset: UInt64, on number: Int = 0) throws -> UInt8 {
            let file = try LinuxFileSystem().open(devices[number].path, OpenMode(writable: false, direct: true))
            let buffer = AlignedBuffer(byteCount: 4096)
            try file.read(at: offset, into: buffer.memory)
            return buffer.memory[0]
        }

        /// An empty image that fits on a device's top.
        func newTop(_ number: Int) throws -> OwnedDescriptor {
            let status = try driver.status(of: devices[number])
            let name = "top-\(number)-\(status.levels)"
            var options = CreateOptions(byteCount: status.deviceBytes)
            options.clusterSize = try #require(ClusterSize(bytes: status.clusterBytes))
            try createDisk(at: folder.file(name), options: options, in: LinuxFileSystem())
            return try openDescriptor(folder.file(name + "/root.hds"), writable: true)
        }

        func snapshot(freezesFor milliseconds: UInt64? = 10_000, bitmap: String? = nil) throws {
            var items: [SnapshotItem] = []
            var open: [CInt] = []
            for number in devices.indices {
                let top = try newTop(number).release()
                open.append(top)
                items.append(SnapshotItem(device: devices[number], newTop: top))
            }
            defer { for top in open { _ = OwnedDescriptor(adopting: top) } }
            try driver.snapshot(items, freezesFor: milliseconds, bitmap: bitmap.map { ($0, 4096) })
        }
    }

    @Test func aStackIsAttachedAndTold() throws {
        let world = try Devices(count: 1)
        let device = world.devices[0]
        try world.write(1, at: 0, count: 1 << 20)
        let status = try world.driver.status(of: device)
        #expect(status.isRunning && !status.isReadOnly && !status.isAborted && !status.isOutOfSpace)
        #expect(status.deviceBytes == 64 << 20 && status.clusterBytes == 64 << 10 && status.levels == 1)
        #expect(status.version == 2 && status.cookie == "test 0")
        #expect(status.writtenBytes >= 1 << 20 && status.allocations == 16 && status.flushes > 0)
        let stack = try #require(try AttachedStack.of(device))
        #expect(stack.files == [world.folder.file("0/root.hds")] && stack.isRunning && stack.cookie == "test 0")
        try world.driver.setLimits(of: device, deltaBytesMax: 1 << 30, reserveBytes: 4096)
        #expect(try world.driver.status(of: device).deltaBytesMax == 1 << 30)
        try world.driver.detach(device)
        #expect(try AttachedStack.of(device) == nil)
        #expect { try world.driver.detach(DeviceIndex(9999)) } throws: { ($0 as? DriverError)?.code == .noDevice }
    }

    @Test func anOpenDeviceIsBusy() throws {
        let world = try Devices(count: 1)
        do {
            let held = try openDescriptor(world.devices[0].path, writable: false)
            #expect { try world.driver.detach(world.devices[0]) } throws: { ($0 as? DriverError)?.code == .busy }
            _ = held.number
        }
        try world.driver.detach(world.devices[0])
    }

    @Test func aBitmapTellsWhatWasWritten() throws {
        let world = try Devices(count: 1)
        let device = world.devices[0]
        try world.driver.createBitmap("b", of: device, granuleBytes: 4096)
        #expect { try world.driver.createBitmap("b", of: device, granuleBytes: 4096) } throws: {
            ($0 as? DriverError)?.code == .exists
        }
        try world.write(1, at: 8192, count: 4096)
        try world.write(2, at: 1 << 20, count: 64 << 10)
        #expect(try world.driver.bitmaps(of: device).map(\.markedBytes) == [68 << 10])
        let all = ByteRange(offset: 0, count: 64 << 20)
        let look = try world.driver.readBitmap("b", of: device, in: all, limit: 100, clear: false)
        #expect(look.ranges == [ByteRange(offset: 8192, count: 4096), ByteRange(offset: 1 << 20, count: 64 << 10)])
        #expect(look.coveredTo == 64 << 20)
        let first = try world.driver.readBitmap("b", of: device, in: all, limit: 1, clear: true)
        #expect(first.ranges == [ByteRange(offset: 8192, count: 4096)] && first.coveredTo <= 1 << 20)
        #expect(try world.driver.bitmaps(of: device).map(\.markedBytes) == [64 << 10])
        try world.driver.clearBitmap("b", of: device)
        #expect(try world.driver.readBitmap("b", of: device, in: all, limit: 9, clear: true).ranges.isEmpty)
        try world.driver.deleteBitmap("b", of: device)
        #expect { try world.driver.deleteBitmap("b", of: device) } throws: {
            ($0 as? DriverError)?.code == .notFound
        }
    }

    @Test func severalDevicesAreSwitchedAtOnce() throws {
        let world = try Devices(count: 3)
        let events = try DriverEvents(of: nil)
        for number in 0..<3 { try world.write(1, at: 0, count: 64 << 10, on: number) }
        try world.snapshot(bitmap: "since")
        for number in 0..<3 {
            #expect(try world.driver.status(of: world.devices[number]).levels == 2)
            try world.write(2, at: 64 << 10, count: 4096, on: number)
            let extents = try world.driver.blockStatus(
                of: world.devices[number], in: ByteRange(offset: 0, count: 1 << 20), limit: 16)
            #expect(extents.extents.map(\.level) == [0, 1, nil] && extents.coveredTo == 1 << 20)
            #expect(try world.driver.bitmaps(of: world.devices[number]).map(\.markedBytes) == [4096])
        }
        let switched = try events.next(waitMilliseconds: 10_000).filter { $0.kind == .switched(level: 1) }
        #expect(Set(switched.map(\.device)) == Set(world.devices))
    }

    @Test func aFreezeEndsAtItsDeadline() throws {
        let world = try Devices(count: 1)
        let device = world.devices[0]
        try expectTool("mkfs.ext4", "-q", device.path)
        let point = world.folder.file("mnt")
        try LinuxFileSystem().createFolder(point)
        try expectTool("mount", device.path, point)
        defer { try? unmountFileSystem(at: point) }
        #expect(try FrozenDevices([device], deadlineMilliseconds: 30_000).thaw() == false)
        let events = try DriverEvents(of: device)
        let frozen = try FrozenDevices([device], deadlineMilliseconds: 3_000)
        #expect(try events.next(waitMilliseconds: 20_000).map(\.kind) == [.thawed])
        #expect(try frozen.thaw() == true)
        // One that is dropped thaws as well, or the write would hang.
        do { _ = try FrozenDevices([device], deadlineMilliseconds: 60_000) }
        try expectTool("touch", point + "/file", deadlineMilliseconds: 20_000)
    }

    @Test func aMergePausesGoesOnAndIsCancelled() throws {
        let world = try Devices(count: 1)
        let device = world.devices[0]
        try world.write(1, at: 0, count: 1 << 20)
        try world.snapshot(freezesFor: nil)
        for offset in 0..<16 { try world.write(2, at: UInt64(offset) << 20, count: 1 << 20) }
        // Slow enough to be caught at it.
        try world.driver.start(.merge(level: 1), on: device, bytesPerSecond: 1 << 20)
        #expect(try world.driver.job(of: device).isActive)
        #expect { try world.driver.start(.compact, on: device) } throws: { ($0 as? DriverError)?.code == .busy }
        try world.driver.pauseJob(of: device)
        try world.driver.resumeJob(of: device)
        try world.driver.cancelJob(of: device)
        let cancelled = try world.driver.awaitJob(of: device)
        #expect(cancelled.state == .cancelled)
        #expect(try world.driver.status(of: device).levels == 2)
        #expect(try world.byte(at: 3 << 20) == 2)
        let events = try DriverEvents(of: device)
        try world.driver.start(.merge(level: 1), on: device)
        #expect(try world.driver.awaitJob(of: device).state == .done)
        #expect(try events.next(waitMilliseconds: 10_000).contains { $0.kind == .jobEnded })
        #expect(try world.driver.status(of: device).levels == 1)
        #expect(try world.byte(at: 3 << 20) == 2)
        #expect(try world.byte(at: 0) == 2)
    }

    @Test func aDeviceGrowsAndIsCompacted() throws {
        let world = try Devices(count: 1)
        let device = world.devices[0]
        try world.write(1, at: 0, count: 32 << 20)
        try world.driver.start(.grow(bytes: 128 << 20), on: device)
        #expect(try world.driver.awaitJob(of: device).state == .done)
        #expect(try world.driver.status(of: device).deviceBytes == 128 << 20)
        try expectTool("blkdiscard", "-o", "0", "-l", "\(24 << 20)", device.path)
        try world.driver.start(.compact, on: device)
        #expect(try world.driver.awaitJob(of: device).state == .done)
        #expect(try world.driver.status(of: device).fileBytes < 12 << 20)
        #expect(try world.byte(at: 30 << 20) == 1)
        #expect(try world.byte(at: 1 << 20) == 0)
    }

    @Test func abortedWritesFail() throws {
        let world = try Devices(count: 1)
        try world.write(1, at: 0, count: 4096)
        try world.driver.setAborted(true, world.devices[0])
        #expect(try world.driver.status(of: world.devices[0]).isAborted)
        #expect(throws: SystemError.self) { try world.write(2, at: 0, count: 4096) }
        #expect(try world.byte(at: 0) == 1)
        try world.driver.setAborted(false, world.devices[0])
        try world.write(2, at: 0, count: 4096)
        #expect(try world.byte(at: 0) == 2)
    }
}
