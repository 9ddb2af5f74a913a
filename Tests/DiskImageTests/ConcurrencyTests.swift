import BlockIO
import Geometry
import LinuxSystem
import Synchronization
import TestSupport
import Testing

@testable import DiskImage

@Suite struct ConcurrencyTests {
    /// Every thread has sectors of its own in every cluster, so that neighbours are written at the same time.
    @Test(
        "threads that write, read, snapshot, merge and grow at once do not harm each other", arguments: [true, false])
    func threads(direct: Bool) throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disk")
        let fs = LinuxFileSystem()
        let size = UInt64(64 << 20)
        let clusterSize = ClusterSize.smallest
        try createDisk(at: path, options: CreateOptions(byteCount: size, clusterSize: clusterSize), in: fs)
        var options = DiskOptions.standard
        options.direct = direct
        options.mapCacheBytes = 256 << 10
        let disk = try Disk.open(path, in: fs, options: options)
        let failures = Mutex<[String]>([])
        let seed = SeededRandom("threads").seed
        let writers = try (0..<4).map { number in
            try OwnThread(name: "writer \(number)") {
                do { try Self.work(disk, number, seed) } catch {
                    failures.withLock { $0.append("writer \(number): \(error)") }
                }
            }
        }
        var guids: [String] = []
        for round in 0..<6 {
            let committed = try disk.commitSnapshot(try disk.prepareSnapshot())
            guids.append(committed.guid)
            if guids.count > 2 { try disk.deleteSnapshot(guids.removeFirst()) }
            if round == 3 { try disk.grow(to: size + 32 << 20) }
        }
        while let guid = guids.popLast() { try disk.deleteSnapshot(guid) }
        for writer in writers { writer.join() }
        #expect(failures.withLock { $0 } == [])
        for number in 0..<4 { #expect(try Self.verify(disk, number, seed)) }
        #expect(disk.statistics().writeRequests > 0)
        try disk.close()
        let report = try checkDisk(at: path, in: fs)
        #expect(report.isSound)
        let again = try Disk.open(path, in: fs, options: .readOnly)
        for number in 0..<4 { #expect(try Self.verify(again, number, seed)) }
    }

    @Test("who comes while a flush runs is not content with that one")
    func laterFlush() throws {
        let group = FlushGroup()
        let state = Monitor((isInside: false, mayGo: false))
        let failures = Mutex<[String]>([])
        let first = try OwnThread(name: "first") {
            do throws(DiskError) {
                try group.flush { () throws(DiskError) in
                    state.change { $0.isInside = true }
                    state.await { $0.mayGo ? () : nil }
                }
            } catch { failures.withLock { $0.append("\(error)") } }
        }
        state.await { $0.isInside ? () : nil }
        // Lets the first one go on once this one has been asked for.
        let helper = try OwnThread(name: "helper") {
            var none: [PollEntry] = []
            _ = try? pollDescriptors(&none, deadlineMilliseconds: 100)
            state.change { $0.mayGo = true }
        }
        var runs = 0
        try group.flush { runs += 1 }
        first.join()
        helper.join()
        #expect(runs == 1 && failures.withLock { $0 } == [])
    }

    private static func plan(_ number: Int, _ seed: UInt64) -> [(offset: UInt64, tag: UInt8)] {
        var random = SeededRandom(seed: seed &+ UInt64(number))
        return (0..<1500).map { _ in
            // A block of 4 KiB that only this thread writes: its number modulo 4 is the thread's.
            let block = random.below(UInt64(64 << 20) / 4096 / 4) * 4 + UInt64(number)
            return (block * 4096, UInt8(random.below(255) + 1))
        }
    }

    private static func work(_ disk: Disk, _ number: Int, _ seed: UInt64) throws {
        var last: [UInt64: UInt8] = [:]
        var random = SeededRandom(seed: seed)
        for (index, step) in plan(number, seed).enumerated() {
            let data = [UInt8](repeating: step.tag, count: 4096)
            // In halves now and then, which makes the engine read to write.
            if random.oneIn(5) {
                for half in [0, 2048] {
                    try data[half..<half + 2048].withUnsafeBytes {
                        try disk.write(at: step.offset + UInt64(half), from: $0)
                    }
                }
            } else {
                try data.withUnsafeBytes { try disk.write(at: step.offset, from: $0, durable: random.oneIn(50)) }
            }
            last[step.offset] = step.tag
            if index % 7 == 0, let (offset, tag) = last.randomElement(using: &random) {
                guard try disk.bytes(at: offset, count: 4096) == [UInt8](repeating: tag, count: 4096) else {
                    throw DiskModel.Mismatch(description: "block \(offset / 4096) is not \(tag)")
                }
            }
            if index % 100 == 99 { try disk.flush() }
        }
    }

    private static func verify(_ disk: Disk, _ number: Int, _ seed: UInt64) throws -> Bool {
        var last: [UInt64: UInt8] = [:]
        for step in plan(number, seed) { last[step.offset] = step.tag }
        for (offset, tag) in last {
            guard try disk.bytes(at: offset, count: 4096) == [UInt8](repeating: tag, count: 4096) else { return false }
        }
        return true
    }

    @Test("flushes at the same time share the host's")
    func groupCommit() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disk")
        let fs = LinuxFileSystem()
        try createDisk(at: path, options: CreateOptions(byteCount: 64 << 20), in: fs)
        let disk = try Disk.open(path, in: fs)
        // Allocating many clusters costs a flush no more than allocating one.
        for cluster in 0..<40 {
            try [UInt8](repeating: 1, count: 4096).withUnsafeBytes {
                try disk.write(at: UInt64(cluster) << 20, from: $0)
            }
        }
        try disk.flush()
        #expect(disk.statistics().hostFlushes == 2)
        try disk.flush()
        #expect(disk.statistics().hostFlushes == 3)
        #expect(disk.statistics().allocatedClusters == 40)
        try disk.close()
    }

    @Test("a pause holds writes back, and a release ends them")
    func pauseAndRelease() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disk")
        let fs = LinuxFileSystem()
        try createDisk(at: path, options: CreateOptions(byteCount: 8 << 20), in: fs)
        let disk = try Disk.open(path, in: fs)
        let tracker = try disk.startTracking()
        try disk.pauseWrites()
        let done = Mutex(false)
        let writer = try OwnThread(name: "held") {
            do { try [UInt8](repeating: 7, count: 4096).withUnsafeBytes { try disk.write(at: 0, from: $0) } } catch {}
            done.withLock { $0 = true }
        }
        #expect(try disk.bytes(at: 0, count: 4096) == [UInt8](repeating: 0, count: 4096))
        #expect(!done.withLock { $0 })
        disk.resumeWrites()
        writer.join()
        #expect(
            tracker.take(in: ByteRange(offset: 0, count: 8 << 20), limit: 10).runs == [
                ByteRange(offset: 0, count: 65536)
            ])
        try disk.pauseWrites()
        let refused = Mutex<DiskError.Code?>(nil)
        let late = try OwnThread(name: "late") {
            do { try [UInt8](repeating: 9, count: 4096).withUnsafeBytes { try disk.write(at: 0, from: $0) } } catch {
                refused.withLock { $0 = (error as? DiskError)?.code }
            }
        }
        disk.release()
        late.join()
        #expect(refused.withLock { $0 } == .readOnly)
        #expect(throws: DiskError.self) { try disk.bytes(at: 0, count: 512) }
        disk.stopTracking(tracker)
        try disk.close()
        let again = try Disk.open(path, in: fs)
        #expect(!again.repairedOnOpen)
        #expect(try again.bytes(at: 0, count: 1) == [7])
        try again.close()
    }
}
