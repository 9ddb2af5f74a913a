import BlockIO
import Geometry
import LinuxSystem
import Synchronization
import TestSupport
import Testing

@testable import DiskImage

/// Real threads: two that maintain the disk, readers of all sizes, writers that know what they wrote, and readers of
/// frozen states. Whatever excludes each other is told so, and nothing is ever wrong.
@Suite struct MaintenanceStressTests {
    private static let clusterSize = ClusterSize.smallest
    /// Never written after the start: the readers' part.
    private static let stillBytes = UInt64(40 << 20)
    /// Blocks with a writer each.
    private static let writtenBytes = UInt64(16 << 20)
    /// Written and trimmed, so that there is something to move.
    private static let trimmedBytes = UInt64(8 << 20)
    private static let byteCount = stillBytes + writtenBytes + trimmedBytes

    private final class Run: Sendable {
        let disk: Disk
        let path: String
        let fs = LinuxFileSystem()
        let failures = Mutex<[String]>([])
        let isOver = Atomic<Bool>(false)
        let guids = Mutex<[String]>([])
        let counts = Mutex<[String: Int]>([:])

        init(_ disk: Disk, _ path: String) {
            self.disk = disk
            self.path = path
        }

        func thread(_ name: String, _ body: @escaping @Sendable (Run) throws -> Void) throws -> OwnThread {
            try OwnThread(name: name) { [self] in
                do { try body(self) } catch {
                    failures.withLock { $0.append("\(name): \(error)") }
                    isOver.store(true, ordering: .relaxed)
                }
            }
        }

        /// Runs `body`; that it is excluded by something else is no failure.
        func attempt(_ what: String, _ body: () throws -> Void) throws {
            do {
                try body()
                counts.withLock { $0[what, default: 0] += 1 }
            } catch let error as DiskError where error.code == .busy || error.code == .notFound {
                counts.withLock { $0[what + " refused", default: 0] += 1 }
            }
        }
    }

    private static func still(_ offset: UInt64) -> UInt8 { UInt8(truncatingIfNeeded: offset / 4096 % 251 + 1) }

    private static func checkStill(
        _ offset: UInt64, _ count: Int, _ read: (UInt64, UnsafeMutableRawBufferPointer) throws -> Void
    ) throws {
        var data = [UInt8](repeating: 0xEE, count: count)
        try data.withUnsafeMutableBytes { try read(offset, $0) }
        for position in stride(from: 0, to: count, by: 512)
        where data[position] != still(offset + UInt64(position))
            || data[position + 511] != still(offset + UInt64(position))
        {
            throw DiskModel.Mismatch(description: "byte \(offset + UInt64(position)) holds \(data[position])")
        }
    }

    private static func reader(_ number: Int, _ seed: UInt64) -> @Sendable (Run) throws -> Void {
        { run in
            var random = SeededRandom(seed: seed &+ UInt64(number))
            while !run.isOver.load(ordering: .relaxed) {
                let size = [512, 4096, 70 * 512, 1 << 20, 9 << 20, 32 << 20][random.below(6)]
                let offset = random.below(stillBytes - UInt64(size) + 1) & ~511
                try checkStill(offset, size) { try run.disk.read(at: $0, into: $1) }
                if random.oneIn(20) { try run.disk.flush() }
            }
        }
    }

    /// Every writer has blocks of its own in every cluster, and knows what they hold.
    private static func writer(_ number: Int, _ seed: UInt64) -> @Sendable (Run) throws -> Void {
        { run in
            var random = SeededRandom(seed: seed &+ UInt64(number))
            var last: [UInt64: UInt8] = [:]
            func check(_ offset: UInt64, _ tag: UInt8) throws {
                guard try run.disk.bytes(at: offset, count: 4096).allSatisfy({ $0 == tag }) else {
                    throw DiskModel.Mismatch(description: "block at \(offset) is not \(tag)")
                }
            }
            while !run.isOver.load(ordering: .relaxed) {
                let offset = stillBytes + (random.below(writtenBytes / 4096 / 2) * 2 + UInt64(number)) * 4096
                let tag = UInt8(random.below(255) + 1)
                try [UInt8](repeating: tag, count: 4096).withUnsafeBytes {
                    try run.disk.write(at: offset, from: $0, durable: random.oneIn(100))
                }
                last[offset] = tag
                if random.oneIn(4), let (offset, tag) = last.randomElement(using: &random) { try check(offset, tag) }
            }
            for (offset, tag) in last { try check(offset, tag) }
        }
    }

    private static func trimmer(_ seed: UInt64) -> @Sendable (Run) throws -> Void {
        { run in
            var random = SeededRandom(seed: seed)
            while !run.isOver.load(ordering: .relaxed) {
                let cluster = clusterSize.bytes
                let range = ByteRange(
                    offset: stillBytes + writtenBytes + random.below(trimmedBytes / cluster / 8) * 8 * cluster,
                    count: 8 * cluster)
                if random.oneIn(2) {
                    try [UInt8](repeating: 7, count: Int(range.count)).withUnsafeBytes {
                        try run.disk.write(at: range.offset, from: $0)
                    }
                } else {
                    try run.disk.discard(range)
                }
            }
        }
    }

    private static func snapshots(_ rounds: Int, _ seed: UInt64) -> @Sendable (Run) throws -> Void {
        { run in
            var random = SeededRandom(seed: seed)
            var done = 0
            var hasDeleted = false
            // A compaction, or a reader, may be in the way of each delete for a while.
            while done < rounds || !hasDeleted, !run.isOver.load(ordering: .relaxed) {
                let before = done
                if done < rounds {
                    try run.attempt("snapshot") {
                        let guid = try run.disk.commitSnapshot(try run.disk.prepareSnapshot()).guid
                        run.guids.withLock { $0.append(guid) }
                        done += 1
                    }
                }
                // Excluded by something that takes its time: so does this.
                if done == before { _ = try run.disk.bytes(at: 0, count: 8 << 20) }
                let guids = run.guids.withLock { $0 }
                guard guids.count > 2, let guid = guids.randomElement(using: &random) else { continue }
                let stopsAfter = random.oneIn(3) ? random.below(64) : UInt64.max
                try run.attempt("delete") {
                    guard try run.disk.deleteSnapshot(guid, progress: { done, _ in done < stopsAfter }) else { return }
                    run.guids.withLock { $0.removeAll { $0 == guid } }
                    hasDeleted = true
                }
            }
            run.isOver.store(true, ordering: .relaxed)
        }
    }

    private static func others(_ seed: UInt64) -> @Sendable (Run) throws -> Void {
        { run in
            var random = SeededRandom(seed: seed)
            var size = byteCount
            while !run.isOver.load(ordering: .relaxed) {
                switch random.below(4) {
                case 0: try run.attempt("compact") { _ = try run.disk.compactNow { _, _ in true } }
                case 1:
                    try run.attempt("grow") {
                        try run.disk.grow(to: size + clusterSize.bytes)
                        size += clusterSize.bytes
                    }
                default:
                    guard let guid = run.guids.withLock({ $0.randomElement(using: &random) }) else { continue }
                    try run.attempt("read") {
                        let state = try FrozenState.open(run.path, snapshot: guid, in: run.fs, waitNanoseconds: 0)
                        let offset = random.below(byteCount - 4 << 20) & ~4095
                        let first = try bytes(state, offset)
                        try checkStill(random.below(stillBytes - 1 << 20) & ~511, 1 << 20) {
                            try state.read(at: $0, into: $1)
                        }
                        guard try bytes(state, offset) == first else {
                            throw DiskModel.Mismatch(description: "the frozen state \(guid) changed")
                        }
                        try state.checkUnchanged()
                    }
                }
            }
        }
    }

    private static func bytes(_ state: FrozenState, _ offset: UInt64) throws -> [UInt8] {
        var data = [UInt8](repeating: 0, count: 1 << 20)
        try data.withUnsafeMutableBytes { try state.read(at: offset, into: $0) }
        return data
    }

    @Test(
        "maintenance by two threads, with readers and writers of all kinds", .timeLimit(.minutes(5)),
        arguments: [true, false])
    func threads(direct: Bool) throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disk")
        let fs = LinuxFileSystem()
        try createDisk(
            at: path, options: CreateOptions(byteCount: Self.byteCount, clusterSize: Self.clusterSize), in: fs)
        var options = DiskOptions.standard
        options.direct = direct
        options.mapCacheBytes = 64 << 10
        let run = Run(try Disk.open(path, in: fs, options: options), path)
        for offset in stride(from: UInt64(0), to: Self.stillBytes, by: 4096) {
            try [UInt8](repeating: Self.still(offset), count: 4096).withUnsafeBytes {
                try run.disk.write(at: offset, from: $0)
            }
        }
        let seed = SeededRandom("maintenance stress").seed
        var threads: [OwnThread] = []
        for number in 0..<2 { threads.append(try run.thread("reader \(number)", Self.reader(number, seed))) }
        for number in 0..<2 { threads.append(try run.thread("writer \(number)", Self.writer(number, seed))) }
        threads.append(try run.thread("trimmer", Self.trimmer(seed)))
        threads.append(try run.thread("others", Self.others(seed)))
        threads.append(try run.thread("snapshots", Self.snapshots(30, seed)))
        for thread in threads { thread.join() }
        #expect(run.failures.withLock { $0 } == [])
        let counts = run.counts.withLock { $0 }
        for what in ["snapshot", "delete", "read"] { #expect(counts[what, default: 0] > 0, "\(counts)") }
        try Self.checkStill(0, 32 << 20) { try run.disk.read(at: $0, into: $1) }
        try run.disk.close()
        #expect(try checkDisk(at: path, in: fs).isSound)
        let again = try Disk.open(path, in: fs, options: .readOnly)
        try Self.checkStill(0, 32 << 20) { try again.read(at: $0, into: $1) }
        try again.close()
    }
}
