import Backup
import BackupStore
import BlockIO
import ChunkTree
import Codecs
import DiskImage
import LinuxSystem
import Synchronization
import TestSupport
import Testing

/// Backups that do not come to their end: what they have stored is not stored again.
@Suite struct InterruptedBackupTests {
    private static let clusters = 40
    private static let clusterBytes = 64 << 10

    /// A disk of clusters that are all different, each behind one of zeros: so many steps its backup has.
    private static func disk() -> MemorySource {
        var random = SeededRandom("a disk that is backed up in parts")
        let disk = MemorySource(byteCount: 2 * clusters * clusterBytes, clusterBytes: clusterBytes)
        for number in 0..<clusters { disk.write(random.bytes(clusterBytes), at: (2 * number + 1) * clusterBytes) }
        return disk
    }

    private static func job(_ disk: MemorySource, time: UInt64 = 1) -> BackupJob {
        BackupJob(
            disk: "disk-1", name: "test", snapshot: disk.freeze(),
            time: 1_700_000_000_000_000_000 + time * 1_000_000_000,
            options: BackupJob.Options(workers: 1, packBytesTarget: 512 << 10))
    }

    /// Plain bytes of all chunks that the packs of a store hold, each counted as often as it is there.
    private static func storedBytes(_ store: LocalStore) throws -> Int {
        var bytes = 0
        for object in try store.list(.pack) {
            for frame in try store.packDirectory(object.name, byteCount: object.byteCount).frames where !frame.isNodes {
                bytes += Int(frame.plainBytes)
            }
        }
        return bytes
    }

    private static func expectRestored(
        _ point: RestorePoint, _ store: any StoreBackend, _ fs: SimulatedFileSystem, _ content: [UInt8]
    ) throws {
        var job = RestoreJob(point: point, target: .raw(file: "/out"))
        job.workers = 1
        _ = try job.run(store: store, in: fs)
        #expect(isSame(try fs.contents(of: "/out", limit: 1 << 30), content))
    }

    @Test("a backup that is stopped at any step keeps what it has stored, and the next one stores the rest")
    func stopped() throws {
        let total = Self.clusters * Self.clusterBytes
        for stop in stride(from: 1, through: Self.clusters, by: 4) {
            let disk = Self.disk()
            let fs = SimulatedFileSystem()
            try LocalStore.create(at: "/store", uuid: "uuid-1", chunkBytes: 4096, in: fs)
            var store = try LocalStore(opening: "/store", in: fs)
            var steps = 0
            let error = #expect(throws: BackupError.self) {
                _ = try Self.job(disk).run(source: disk, store: store) { _, _ in
                    steps += 1
                    return steps <= stop
                }
            }
            #expect(error?.code == .cancelled)
            let kept = try Self.storedBytes(store)
            store.close()
            store = try LocalStore(opening: "/store", in: fs)
            let outcome = try Self.job(disk, time: 2).run(source: disk, store: store)
            #expect(Int(outcome.statistics.bytesNew) == total - kept, "stopped after \(stop) steps")
            #expect(try Self.storedBytes(store) == total)
            try Self.expectRestored(outcome.point, store, fs, disk.content)
            store.close()
        }
    }

    @Test("a full store that gets space goes on where it was, with nothing stored twice", arguments: 1...6)
    func full(part: Int) throws {
        let total = Self.clusters * Self.clusterBytes
        let disk = Self.disk()
        let fs = SimulatedFileSystem(capacityBytes: UInt64(part * total / 7 + (100 << 10)))
        try LocalStore.create(at: "/store", uuid: "uuid-1", chunkBytes: 4096, in: fs)
        var store = try LocalStore(opening: "/store", in: fs)
        let error = #expect(throws: BackupError.self) { _ = try Self.job(disk).run(source: disk, store: store) }
        #expect(error?.code == .store(.outOfSpace))
        store.close()
        fs.setCapacity(1 << 30)
        store = try LocalStore(opening: "/store", in: fs)
        let kept = try Self.storedBytes(store)
        // All that fitted, but for a frame on its way and what is not the disk's.
        #expect(kept >= part * total / 7 - (2 << 20) - (200 << 10), "\(kept) of \(part * total / 7)")
        let outcome = try Self.job(disk, time: 2).run(source: disk, store: store)
        #expect(Int(outcome.statistics.bytesNew) == total - kept)
        #expect(try Self.storedBytes(store) == total)
        try Self.expectRestored(outcome.point, store, fs, disk.content)
        store.close()
    }

    @Test("a process that is killed at any change leaves what was whole for the next", arguments: 0..<10)
    func killed(part: Int) throws {
        let total = Self.clusters * Self.clusterBytes
        let clean = SimulatedFileSystem()
        try LocalStore.create(at: "/store", uuid: "uuid-1", chunkBytes: 4096, in: clean)
        let before = clean.changeCount
        let disk = Self.disk()
        let store = try LocalStore(opening: "/store", in: clean)
        _ = try Self.job(disk).run(source: disk, store: store)
        let changes = clean.changeCount - before
        store.close()
        for number in stride(from: 1 + part, through: changes, by: 10) {
            let fs = SimulatedFileSystem()
            try LocalStore.create(at: "/store", uuid: "uuid-1", chunkBytes: 4096, in: fs)
            fs.setPlan(.stop(atChange: number))
            if let store = try? LocalStore(opening: "/store", in: fs) {
                _ = try? Self.job(disk).run(source: disk, store: store)
            }
            // The host lives on.
            let after = fs.afterPowerCut(.everything)
            let written = Int(fs.usedBytes)
            let next = try LocalStore(opening: "/store", in: after)
            let kept = try Self.storedBytes(next)
            #expect(kept >= written - (2 << 20) - (300 << 10), "change \(number): \(kept) of \(written)")
            let outcome = try Self.job(disk, time: 2).run(source: disk, store: next)
            #expect(Int(outcome.statistics.bytesNew) == total - kept, "change \(number)")
            #expect(try Self.storedBytes(next) == total)
            next.close()
        }
    }

    @Test("a state that was dropped while it was read makes no point, and what was stored is kept")
    func dropped() throws {
        let disk = Self.disk()
        let fs = SimulatedFileSystem()
        try LocalStore.create(at: "/store", uuid: "uuid-1", chunkBytes: 4096, in: fs)
        let store = try LocalStore(opening: "/store", in: fs)
        let error = #expect(throws: BackupError.self) {
            _ = try Self.job(disk).run(source: disk, store: store) { _, _ in
                disk.state.withLock { $0.isReplaced = true }
                return true
            }
        }
        #expect(error?.code == .disk(.notFound))
        #expect(try store.list(.point) == [])
        disk.state.withLock { $0.isReplaced = false }
        let outcome = try Self.job(disk, time: 2).run(source: disk, store: store)
        #expect(outcome.statistics.bytesNew == 0)
        store.close()
    }

    @Test("over a link that is cut, what the far side has whole is not sent again", arguments: [1, 9, 18, 30])
    func cut(steps limit: Int) throws {
        let disk = Self.disk()
        let pair = try RemotePair()
        var steps = 0
        #expect(throws: BackupError.self) {
            _ = try Self.job(disk).run(source: disk, store: pair.remote) { _, _ in
                steps += 1
                if steps == limit { pair.cut() }
                return true
            }
            pair.cut()
            throw BackupError(.cancelled, "it was through before the cut")
        }
        pair.end()
        let store = try LocalStore(opening: pair.folder.file("store"), in: LinuxFileSystem())
        let kept = try Self.storedBytes(store)
        let outcome = try Self.job(disk, time: 2).run(source: disk, store: store)
        #expect(Int(outcome.statistics.bytesNew) + kept >= Self.clusters * Self.clusterBytes)
        #expect(try Self.storedBytes(store) - kept == Int(outcome.statistics.bytesNew))
        let report = try VerifyJob().run(store: store)
        #expect(report.isSound, "\(report.problems)")
        store.close()
    }
}
