import Backup
import BackupStore
import BlockIO
import ChunkTree
import Codecs
import DiskImage
import Foundation
import Geometry
import TestSupport
import Testing

/// A store in a folder, and a disk in memory.
struct Bench {
    let folder: TemporaryFolder
    let fs = LinuxFileSystem()
    let store: LocalStore
    let disk: MemorySource
    var base: BackupJob.Base?
    var time: UInt64 = 1_700_000_000_000_000_000

    init(byteCount: Int, clusterBytes: Int = 1 << 20, chunkBytes: UInt32 = 65536) throws {
        folder = try TemporaryFolder()
        try LocalStore.create(at: folder.file("store"), uuid: newUUID(), chunkBytes: chunkBytes, in: fs)
        store = try LocalStore(opening: folder.file("store"), in: fs)
        disk = MemorySource(byteCount: byteCount, clusterBytes: clusterBytes)
    }

    mutating func backup(incremental: Bool = true) throws -> BackupJob.Outcome {
        time += 1_000_000_000
        let snapshot = disk.freeze()
        let job = BackupJob(
            disk: "disk-1", name: "test", snapshot: snapshot, time: time, base: incremental ? base : nil)
        let outcome = try job.run(source: disk, store: store)
        base = BackupJob.Base(point: outcome.point, snapshot: snapshot)
        return outcome
    }

    func restored(_ point: RestorePoint) throws -> [UInt8] {
        let path = folder.file("out.raw")
        let statistics = try RestoreJob(point: point, target: .raw(file: path)).run(store: store, in: fs)
        #expect(statistics.rootDigest == point.content.root.digest.description)
        defer { try? fs.remove(path) }
        return [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
    }
}

@Suite struct RoundTripTests {
    @Test("random incrementals of random disks restore as they were", arguments: 1...6)
    func model(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let cluster = [32 << 10, 64 << 10, 1 << 20][random.below(3)]
        let chunk: UInt32 = [4096, 65536, 65536, 1 << 20][random.below(4)]
        var bench = try Bench(byteCount: 6 << 20 + 512 * random.below(4000), clusterBytes: cluster, chunkBytes: chunk)
        var points: [(RestorePoint, [UInt8])] = []
        for round in 0..<6 {
            for _ in 0..<random.below(12) {
                let count = 1 + random.below(300_000)
                let offset = random.below(Int(bench.disk.byteCount) - count)
                let bytes =
                    switch random.below(3) {
                    case 0: [UInt8](repeating: 0, count: count)
                    case 1: [UInt8](repeating: UInt8(random.below(256)), count: count)
                    default: random.bytes(count)
                    }
                bench.disk.write(bytes, at: offset)
            }
            if random.oneIn(4) { bench.disk.grow(to: Int(bench.disk.byteCount) + 512 * random.below(3000)) }
            let outcome = try bench.backup(incremental: !random.oneIn(4))
            #expect(outcome.statistics.isIncremental == (outcome.point.content.parent != nil), "round \(round)")
            points.append((outcome.point, bench.disk.content))
        }
        for (point, content) in points { #expect(try bench.restored(point) == content, "seed \(seed)") }
        // The same content has the same digest, however it came about.
        let full = try bench.backup(incremental: false)
        #expect(full.point.content.root == points.last?.0.content.root)
        #expect(full.statistics.chunksNew == 0)
        let report = try VerifyJob().run(store: bench.store)
        #expect(report.isSound, "\(report.problems)")
        #expect(report.points == points.count + 1)
    }

    @Test(
        "a restored disk is whole for qemu-img and holds the same bytes", .enabled(if: hasTool("qemu-img")),
        arguments: [15, 16, 20])
    func disk(shift: Int) throws {
        var bench = try Bench(byteCount: 24 << 20)
        var random = SeededRandom(seed: 7)
        for _ in 0..<20 { bench.disk.write(random.bytes(70_000), at: random.below(23 << 20)) }
        let point = try bench.backup().point
        let target = bench.folder.file("disk")
        let size = try #require(ClusterSize(bytes: 1 << UInt64(shift)))
        _ = try RestoreJob(point: point, target: .disk(folder: target, clusterSize: size)).run(
            store: bench.store, in: bench.fs)
        let raw = bench.folder.file("raw")
        try Data(bench.disk.content).write(to: URL(fileURLWithPath: raw))
        try expectTool("qemu-img", "compare", "-f", "parallels", "-F", "raw", target + "/root.hds", raw)
        try expectTool("qemu-img", "check", "-f", "parallels", target + "/root.hds")
    }

    @Test("equal chunks are stored once, within a disk, between points and between disks") func deduplication() throws {
        var bench = try Bench(byteCount: 16 << 20)
        var random = SeededRandom("deduplication")
        let chunk = random.bytes(65536)
        for place in [0, 3, 100, 255] { bench.disk.write(chunk, at: place * 65536) }
        let first = try bench.backup().statistics
        #expect(first.chunksNew == 1 && first.bytesNew == 65536)
        bench.disk.write(chunk, at: 200 * 65536)
        #expect(try bench.backup().statistics.chunksNew == 0)
        // Another disk, of another size and layout.
        let other = MemorySource(byteCount: 9 << 20, clusterBytes: 32 << 10)
        other.write(chunk, at: 70 * 65536)
        other.write(random.bytes(65536), at: 71 * 65536)
        let job = BackupJob(disk: "disk-2", name: "other", snapshot: other.freeze(), time: bench.time + 1)
        let outcome = try job.run(source: other, store: bench.store)
        #expect(outcome.statistics.chunksNew == 1)
        #expect(try bench.restored(outcome.point) == other.content)
    }

    @Test("each point is whole by itself: without those before it, it restores the same") func syntheticFull() throws {
        var bench = try Bench(byteCount: 8 << 20)
        var random = SeededRandom("synthetic full")
        var last: (point: RestorePoint, content: [UInt8])?
        for _ in 0..<4 {
            bench.disk.write(random.bytes(100_000), at: random.below(7 << 20))
            last = (try bench.backup().point, bench.disk.content)
        }
        let (point, content) = try #require(last)
        for object in try bench.store.list(.point) where object.name != point.id {
            try bench.fs.remove(bench.folder.file("store/points/" + object.name))
        }
        #expect(try bench.store.points() == [point])
        #expect(try bench.restored(point) == content)
        let report = try VerifyJob().run(store: bench.store)
        #expect(report.isSound, "\(report.problems)")
    }

    @Test("an incremental backup reads and writes what changed, and nothing else") func incremental() throws {
        var bench = try Bench(byteCount: 64 << 20)
        var random = SeededRandom(seed: 3)
        bench.disk.write(random.bytes(64 << 20), at: 0)
        let full = try bench.backup()
        #expect(full.statistics.bytesNew == 64 << 20 && full.statistics.clustersChanged == 64)
        bench.disk.write(random.bytes(100), at: 5 << 20)
        bench.disk.write(random.bytes(65536), at: 40 << 20)
        let next = try bench.backup().statistics
        #expect(next.isIncremental && next.clustersChanged == 2 && next.bytesRead == 2 << 20)
        #expect(next.chunksNew == 2)
        #expect(next.metadataBytesWritten < 64 << 10)
        let same = try bench.backup().statistics
        #expect(same.clustersChanged == 0 && same.bytesRead == 0 && same.chunksNew == 0)
    }
}
