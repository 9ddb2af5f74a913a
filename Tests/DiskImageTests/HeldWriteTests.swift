import BlockIO
import ChangeTracking
import Geometry
import LinuxSystem
import TestSupport
import Testing

@testable import DiskImage

@Suite struct HeldWriteTests {
    @Test("a write is marked once it has happened, so that no round leaves it out", .timeLimit(.minutes(5)))
    func marks() throws {
        let folder = try TemporaryFolder()
        let fs = HoldingFileSystem()
        let path = folder.file("disk")
        try createDisk(at: path, options: CreateOptions(byteCount: 8 << 20), in: LinuxFileSystem())
        let disk = try Disk.open(path, in: fs)
        let old = [UInt8](repeating: 1, count: 4096)
        try old.withUnsafeBytes { try disk.write(at: 0, from: $0) }
        let tracker = try disk.startTracking()
        fs.state.change { $0.isHolding = true }
        let writer = try OwnThread(name: "held write") {
            try? [UInt8](repeating: 2, count: 4096).withUnsafeBytes { try disk.write(at: 0, from: $0) }
        }
        fs.state.await { state -> Void? in state.isHeld ? () : nil }
        let all = ByteRange(offset: 0, count: 8 << 20)
        // Whoever takes now and reads has the old bytes.
        _ = tracker.take(in: all, limit: 10)
        fs.state.change { $0.isHolding = false }
        writer.join()
        #expect(tracker.take(in: all, limit: 10).runs == [ByteRange(offset: 0, count: 65536)])
        disk.stopTracking(tracker)
        try disk.close()
    }
}
