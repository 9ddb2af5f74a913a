import Backup
import BackupStore
import BlockIO
import ChunkTree
import Codecs
import Glibc
import TestSupport
import Testing

extension StoreBackend {
    /// All restore points, oldest first; the first one that is damaged is an error.
    func points() throws -> [RestorePoint] {
        var failure: StoreError?
        let points = try points { _, error in failure = failure ?? error }
        if let failure { throw failure }
        return points
    }
}

/// Equality of large arrays at the C library's speed.
func isSame(_ a: [UInt8], _ b: [UInt8]) -> Bool { a.count == b.count && memcmp(a, b, a.count) == 0 }

/// A store on a file system that can lose its power or fail at any call, a disk in memory, and what the store's points
/// must hold.
struct StoreWorld {
    struct Kept {
        var point: RestorePoint
        var content: [UInt8]
    }
    struct Mismatch: Error, CustomStringConvertible {
        var description: String
    }

    static let path = "/backups/store"
    static let rawPath = "/out.raw"
    /// One leaf of the tree and a second that begins.
    static let diskBytes = 1 << 20 | 512

    var fs = SimulatedFileSystem()
    let disk = MemorySource(byteCount: diskBytes, clusterBytes: 32 << 10)
    var kept: [Kept] = []
    var base: BackupJob.Base?
    var time: UInt64 = 1_700_000_000_000_000_000
    /// What the last backup stored.
    var bytesNew: UInt64 = 0

    init() throws {
        try fs.createFolder("/backups")
        try fs.synchronizeFolder("/")
    }

    /// With a store and some backups of a disk that changed in between; the disk has changed since the last.
    init(backups: Int, seed: UInt64 = 1) throws {
        try self.init()
        try create()
        var random = SeededRandom(seed: seed)
        disk.write(random.bytes(60_000), at: 5000)
        disk.write([UInt8](repeating: 7, count: 90_000), at: 700_000)
        for _ in 0..<backups {
            _ = try backup()
            change(&random)
        }
    }

    /// Some clusters of the disk: new bytes, bytes that are elsewhere already, and zeros.
    func change(_ random: inout SeededRandom) {
        disk.write(random.bytes(9000), at: random.below(1_000_000))
        disk.write([UInt8](repeating: 7, count: 8192), at: 720_896 + 4096 * random.below(20))
        disk.write([UInt8](repeating: 0, count: 6000), at: random.below(60_000))
        disk.write(random.bytes(512), at: Self.diskBytes - 512)
    }

    func create() throws(StoreError) {
        try LocalStore.create(at: Self.path, uuid: "uuid-1", chunkBytes: 4096, in: fs)
    }

    /// Small packs, and an index file for each few of them: a backup has several of each.
    func open() throws(StoreError) -> LocalStore {
        var options = LocalStore.Options()
        options.unindexedPacksMax = 2
        return try LocalStore(opening: Self.path, options: options, in: fs)
    }

    func job() -> BackupJob {
        BackupJob(
            disk: "disk-1", name: "test", snapshot: disk.freeze(), time: time, base: base,
            options: BackupJob.Options(workers: 1, packBytesTarget: 12_000))
    }

    /// Backs up what the disk holds now, and keeps in mind what the point must hold.
    mutating func backup() throws(BackupError) -> RestorePoint {
        time += 1_000_000_000
        let job = job()
        let store: LocalStore
        do throws(StoreError) { store = try open() } catch { throw BackupError(error) }
        defer { store.close() }
        let outcome = try job.run(source: disk, store: store)
        let point = outcome.point
        bytesNew = outcome.statistics.bytesNew
        kept.append(Kept(point: point, content: disk.content))
        base = BackupJob.Base(point: point, snapshot: job.snapshot)
        return point
    }

    /// The same on a copy of the file system.
    func duplicate() -> StoreWorld {
        var copy = self
        copy.fs = fs.duplicate()
        return copy
    }

    /// What a new start finds after a power cut; of a backup that had not returned nothing is expected.
    func afterPowerCut(_ survival: Survival) -> StoreWorld {
        var copy = self
        copy.fs = fs.afterPowerCut(survival)
        return copy
    }

    /// How many calls of these kinds were made.
    func calls(_ kinds: Set<FaultPlan.Call> = FaultPlan.Call.changes) -> Int {
        fs.counts.filter { kinds.contains($0.key) }.values.reduce(0, +)
    }

    func restored(_ point: RestorePoint, _ store: any StoreBackend) throws(BackupError) -> [UInt8] {
        // One of an earlier look may have come back with a power cut.
        try? fs.remove(Self.rawPath)
        var job = RestoreJob(point: point, target: .raw(file: Self.rawPath))
        job.workers = 1
        _ = try job.run(store: store, in: fs)
        return try contents(of: Self.rawPath)
    }

    private func contents(of path: String) throws(BackupError) -> [UInt8] {
        do {
            let file = try fs.open(path, .read)
            return try file.readBytes(at: 0, count: Int(try file.size()))
        } catch { throw BackupError(.io, "\(error)") }
    }

    /// Where the pack with the last point's top lies, and a folder that is the wrong one for it, which is made.
    func packToMisplace() throws -> (pack: String, path: String, wrong: String) {
        let store = try open()
        defer { store.close() }
        let pack = try #require(try store.locate([kept[kept.count - 1].point.content.root.top])[0]).pack.description
        let folder = "\(Self.path)/packs/\(pack.hasPrefix("ff") ? "ee" : "ff")"
        if try !fs.exists(folder) { try fs.createFolder(folder) }
        return (pack, "\(Self.path)/packs/\(pack.prefix(2))/\(pack)", folder)
    }

    /// The store opens and is sound, all points that it must have are there, and any other one is whole, too.
    func expectSound() throws {
        let store = try open()
        defer { store.close() }
        var report = VerifyJob()
        report.workers = 1
        let found = try report.run(store: store)
        guard found.isSound else { throw Mismatch(description: "damaged: \(found.problems)") }
        let points = try store.points()
        for one in kept where !points.contains(where: { $0.id == one.point.id }) {
            throw Mismatch(description: "point \(one.point.id) is lost")
        }
        guard points.count <= kept.count + 1 else { throw Mismatch(description: "\(points.count) points") }
        for point in points {
            // A point of an unfinished backup holds what the disk held.
            let content = kept.first { $0.point.id == point.id }?.content ?? disk.content
            // Verifying has read the older ones.
            guard point.id == points.last?.id || !kept.contains(where: { $0.point.id == point.id }) else { continue }
            guard isSame(try restored(point, store), content) else {
                throw Mismatch(description: "point \(point.id) holds something else")
            }
        }
    }
}
