import BlockIO
import Geometry
import TestSupport
import Testing

@testable import DiskImage

/// A disk in a folder of its own, and what it should hold.
final class ModelDisk {
    let folder: TemporaryFolder
    let fs: any FileSystem = LinuxFileSystem()
    var path: String { folder.file("disk") }
    var bytes: [UInt8]

    init(byteCount: UInt64, clusterSize: ClusterSize = .standard) throws {
        folder = try TemporaryFolder()
        bytes = [UInt8](repeating: 0, count: Int(byteCount))
        try createDisk(at: path, options: CreateOptions(byteCount: byteCount, clusterSize: clusterSize), in: fs)
    }

    func open(_ options: DiskOptions = .standard) throws -> Disk { try Disk.open(path, in: fs, options: options) }

    func write(_ disk: Disk, at offset: UInt64, _ data: [UInt8], durable: Bool = false) throws {
        try data.withUnsafeBytes { try disk.write(at: offset, from: $0, durable: durable) }
        bytes.replaceSubrange(Int(offset)..<Int(offset) + data.count, with: data)
    }

    func zero(_ range: ByteRange) {
        for index in Int(range.offset)..<Int(range.end) { bytes[index] = 0 }
    }
}

extension Disk {
    func bytes(at offset: UInt64, count: Int) throws -> [UInt8] {
        var result = [UInt8](repeating: 0xEE, count: count)
        try result.withUnsafeMutableBytes { try read(at: offset, into: $0) }
        return result
    }
}

@Suite struct EngineBasicTests {
    @Test("what is written is read, also after closing and opening", arguments: [true, false])
    func readsBack(direct: Bool) throws {
        let model = try ModelDisk(byteCount: 20 << 20)
        var options = DiskOptions.standard
        options.direct = direct
        var random = SeededRandom("readsBack")
        let disk = try model.open(options)
        #expect(disk.byteCount == 20 << 20)
        for _ in 0..<200 {
            let offset = random.below(UInt64(20 << 20) - 70000) & ~511
            let count = (random.below(128) + 1) * 512
            try model.write(disk, at: offset, random.bytes(count), durable: random.oneIn(20))
            if random.oneIn(10) { try disk.flush() }
        }
        #expect(try disk.bytes(at: 0, count: 20 << 20) == model.bytes)
        try disk.close()
        try expectTool("ploop", "check", model.path + "/root.hds")
        try expectTool("ploop", "check", "-f", "-c", model.path + "/root.hds")
        try expectTool("qemu-img", "check", "-f", "parallels", model.path + "/root.hds")
        let again = try model.open(options)
        #expect(!again.repairedOnOpen)
        #expect(try again.bytes(at: 0, count: 20 << 20) == model.bytes)
        try again.close()
    }

    @Test("discarded clusters read as zeros and give their space back")
    func discards() throws {
        let model = try ModelDisk(byteCount: 32 << 20)
        var random = SeededRandom("discards")
        let disk = try model.open()
        try model.write(disk, at: 0, random.bytes(32 << 20))
        try disk.flush()
        for start in [3, 9, 10, 20] {
            let range = ByteRange(offset: UInt64(start) << 20, count: 1 << 20)
            try disk.discard(range)
            model.zero(range)
        }
        try disk.flush()
        #expect(try disk.bytes(at: 0, count: 32 << 20) == model.bytes)
        try disk.close()
        try expectTool("ploop", "check", "-f", "-c", model.path + "/root.hds")
        let file = try model.fs.open(model.path + "/root.hds", .read)
        #expect(try file.size() == 29 << 20)
        let again = try model.open()
        #expect(try again.bytes(at: 0, count: 32 << 20) == model.bytes)
        try again.close()
    }

    @Test("a snapshot keeps what was there")
    func snapshots() throws {
        let model = try ModelDisk(byteCount: 16 << 20)
        var random = SeededRandom("snapshots")
        let disk = try model.open()
        try model.write(disk, at: 1000 * 512, random.bytes(3 << 20))
        let frozenBytes = model.bytes
        let prepared = try disk.prepareSnapshot()
        let committed = try disk.commitSnapshot(prepared)
        try model.write(disk, at: 2 << 20, random.bytes(4096))
        try model.write(disk, at: (9 << 20) + 512, random.bytes(1024))
        #expect(disk.deltaCount == 2)
        #expect(try disk.bytes(at: 0, count: 16 << 20) == model.bytes)
        let frozen = try FrozenState.open(model.path, snapshot: committed.guid, in: model.fs)
        var seen = [UInt8](repeating: 1, count: 16 << 20)
        try seen.withUnsafeMutableBytes { try frozen.read(at: 0, into: $0) }
        #expect(seen == frozenBytes)
        var runs: [Range<UInt64>] = []
        try frozen.forEachChangedRun(since: nil) { (run: Range<UInt64>) throws(DiskError) in
            runs.append(run)
            return true
        }
        #expect(runs == [0..<4])
        try disk.close()
        try expectTool("ploop", "check", "-f", "-c", model.path + "/root.hds")
        let again = try model.open()
        #expect(!again.repairedOnOpen)
        #expect(try again.bytes(at: 0, count: 16 << 20) == model.bytes)
        try again.close()
    }
}
