import AgentAPI
import BlockIO
@testable import DeviceServer
import DiskImage
import Geometry
import TestSupport
import Testing

@Suite struct DeviceServerTests {
    @Test func requestsReachTheDisk() throws {
        let disk = try ServedDisk()
        try disk.write(7, at: 1 << 20, count: 4096)
        #expect(try disk.read(at: 1 << 20, count: 4096) == [UInt8](repeating: 7, count: 4096))
        try disk.server.flush()
        try disk.server.writeZeroes(at: 1 << 20, count: 4096, mayDiscard: true, durable: true)
        #expect(try disk.read(at: 1 << 20, count: 4096).allSatisfy { $0 == 0 })
        let extents = try disk.server.extents(at: 0, count: 16 << 20, limit: 100)
        #expect(extents.first?.isZero == true)
        #expect(try disk.server.byteCount() == 16 << 20)
    }

    @Test(arguments: [(0, 100), (1, 512), (511, 1), (512, 513)] as [(UInt64, Int)])
    func whatIsNotWholeSectorsIsRefused(_ request: (UInt64, Int)) throws {
        let disk = try ServedDisk()
        #expect(throws: DeviceFault.self) { try disk.write(1, at: request.0, count: request.1) }
        let fault = #expect(throws: DeviceFault.self) { try disk.read(at: request.0, count: request.1) }
        #expect(fault?.number == DeviceFault.invalidArgument)
    }

    @Test func aDiscardIsCutToWholeSectors() throws {
        let disk = try ServedDisk()
        try disk.write(9, at: 0, count: 1024)
        try disk.server.discard(at: 1, count: 600, durable: true)
        #expect(try disk.read(at: 0, count: 1024).filter { $0 == 9 }.count >= 512)
    }

    @Test func whatLiesBeyondTheEndIsRefused() throws {
        let disk = try ServedDisk()
        #expect(throws: DeviceFault.self) { try disk.read(at: 16 << 20, count: 512) }
        #expect(throws: DeviceFault.self) { try disk.write(1, at: UInt64.max - 511, count: 512) }
        #expect(throws: DeviceFault.self) {
            try disk.server.writeZeroes(at: 16 << 20, count: 512, mayDiscard: true, durable: false)
        }
    }

    @Test func afterTheStopRequestsFailForGood() throws {
        let disk = try ServedDisk()
        try disk.write(3, at: 0, count: 512)
        try disk.server.stop()
        let fault = #expect(throws: DeviceFault.self) { try disk.read(at: 0, count: 512) }
        #expect(fault?.number == DeviceFault.shutdownNumber)
        #expect(throws: ControlError.self) { try disk.client() }
        // Closed properly: nothing to repair, and nobody's any more.
        let again = try Disk.open(disk.path, in: LinuxFileSystem())
        #expect(!again.repairedOnOpen)
        try again.close()
    }

    @Test func aSecondServerIsToldThatTheDiskIsInUse() throws {
        let disk = try ServedDisk()
        let error = #expect(throws: DiskError.self) {
            try DeviceServer.start(DeviceConfiguration(disk: disk.path, controlSocket: disk.folder.file("other")))
        }
        #expect(error?.code == .inUse)
        // Its failure leaves the first one's socket alone.
        #expect(try disk.client().status().folder == disk.path)
    }

    @Test func stoppingWaitsForRequestsUnderWay() throws {
        let disk = try ServedDisk()
        let writers = try (0..<8).map { index in
            try Background {
                var offset = UInt64(index) << 20
                while (try? disk.write(1, at: offset, count: 65536)) != nil { offset = (offset + 65536) % (16 << 20) }
            }
        }
        try disk.write(5, at: 0, count: 512)
        try disk.server.stop()
        for writer in writers { writer.join() }
        let again = try Disk.open(disk.path, in: LinuxFileSystem())
        #expect(!again.repairedOnOpen)
        try again.close()
    }
}
