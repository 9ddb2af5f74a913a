import BackupStore
import BlockIO
import ChunkTree
import Codecs
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import Backup

/// Packs in the wrong folder, of which nobody knows yet what they are worth.
@Suite struct MisplacedPackTests {
    private struct Misplaced {
        var world: StoreWorld
        var pack: String
        var path: String
        var wrong: String
        var bytes: [UInt8]
    }

    /// The pack with the last point's top lies in the wrong folder, with one byte of it changed where told.
    private func misplaced(damagedAt offset: Int? = nil, left: [UInt8]? = nil) throws -> Misplaced {
        let world = try StoreWorld(backups: 2)
        let (pack, path, folder) = try world.packToMisplace()
        var bytes = try world.fs.contents(of: path, limit: 1 << 20)
        try world.fs.remove(path)
        let whole = bytes
        if let offset { bytes[offset] ^= 0xee }
        try world.fs.replaceContents(of: "\(folder)/\(pack)", with: bytes)
        if let left { try world.fs.replaceContents(of: path, with: left) }
        return Misplaced(world: world, pack: pack, path: path, wrong: "\(folder)/\(pack)", bytes: whole)
    }

    private func repair(
        _ world: StoreWorld, _ progress: (UInt64, UInt64) -> Bool = { _, _ in true }
    ) throws -> RepairJob.Outcome {
        let store = try world.open()
        defer { store.close() }
        var job = RepairJob()
        job.setsLostPointsAside = true
        return try job.run(store: store, progress: progress)
    }

    /// A backup of the content of the last point, as another disk. - Returns: what is wrong with it, if anything.
    private func backup(_ world: StoreWorld) throws -> String? {
        let content = world.kept[1].content
        let again = MemorySource(byteCount: StoreWorld.diskBytes, clusterBytes: 32 << 10)
        again.write(content, at: 0)
        let store = try world.open()
        defer { store.close() }
        let job = BackupJob(
            disk: "disk-2", name: "test", snapshot: again.freeze(), time: world.time + 1, base: nil,
            options: BackupJob.Options(workers: 1, packBytesTarget: 12_000))
        let outcome = try job.run(source: again, store: store)
        return isSame(try world.restored(outcome.point, store), content) ? nil : "it holds something else"
    }

    @Test(
        "nobody builds on a damaged pack that a repair has put in its place, when that was stopped right after",
        arguments: [false, true])
    func damaged(isNoted: Bool) throws {
        let found = try misplaced(damagedAt: 20)
        if isNoted {
            let store = try found.world.open()
            let pack = try #require(try store.misplacedPacks().first).pack
            try store.note([pack: PackDamage(frames: [0])])
            store.close()
        }
        #expect(throws: BackupError.self) { try repair(found.world) { _, _ in false } }
        #expect(try found.world.fs.exists(found.path))
        #expect(try backup(found.world) == nil)
    }

    @Test("what is whole of a damaged pack in the wrong folder is saved") func saved() throws {
        let found = try misplaced(damagedAt: 20)
        let outcome = try repair(found.world)
        #expect(outcome.repair.packsSetAside == [found.pack])
        #expect(outcome.repair.objectsSaved > 0 && outcome.repair.objectsLost > 0)
        #expect(try backup(found.world) == nil)
        #expect(try !found.world.fs.exists("\(StoreWorld.path)/aside/\(found.pack).damage"))
    }

    @Test("where both are damaged, no point is moved before each was looked at") func bothDamaged() throws {
        let whole = try misplaced().bytes
        var other = whole
        other[other.count - 1] ^= 0xee
        let found = try misplaced(damagedAt: 20, left: other)
        let first = try repair(found.world)
        #expect(first.pointsSetAside.isEmpty && !first.repair.unreadable.isEmpty)
        #expect(try found.world.fs.exists(found.wrong))
        let second = try repair(found.world)
        #expect(second.repair.unreadable.isEmpty)
        #expect(try !found.world.fs.exists(found.wrong))
        #expect(try backup(found.world) == nil)
    }

    @Test("a pack that a backup has put in its place meanwhile is not replaced by a damaged one") func racing() throws {
        let found = try misplaced(damagedAt: 20)
        let (fs, path, bytes) = (found.world.fs, found.path, found.bytes)
        let isDone = Mutex(false)
        let world = found.world
        fs.setObserver { call, subject in
            // The moment before it is renamed.
            guard call == .rename, subject == "\(found.wrong) to \(path)" else { return nil }
            guard
                isDone.withLock({ done in
                    defer { done = true }
                    return !done
                })
            else { return nil }
            try? {
                let other = try world.open()
                try other.put(.pack, found.pack, bytes)
                other.close()
            }()
            return nil
        }
        let outcome = try repair(world)
        fs.setObserver(nil)
        #expect(isDone.withLock { $0 })
        #expect(try isSame(fs.contents(of: path, limit: 1 << 20), bytes))
        #expect(outcome.damagedPoints.isEmpty && outcome.pointsSetAside.isEmpty)
        for kept in world.kept {
            let store = try world.open()
            #expect(isSame(try world.restored(kept.point, store), kept.content))
            store.close()
        }
    }

    @Test("a link that leads nowhere in a pack's place makes way for the pack") func dangling() throws {
        let folder = try TemporaryFolder()
        let fs = LinuxFileSystem()
        let path = folder.file("store")
        try LocalStore.create(at: path, uuid: "uuid-1", in: fs)
        let content = MemorySource(byteCount: 1 << 20, clusterBytes: 32 << 10)
        content.write([UInt8](repeating: 7, count: 300_000), at: 5000)
        var store = try LocalStore(opening: path, in: fs)
        let job = BackupJob(
            disk: "disk-1", name: "test", snapshot: content.freeze(), time: 1_700_000_000_000_000_000, base: nil,
            options: BackupJob.Options(workers: 1, packBytesTarget: 12_000))
        _ = try job.run(source: content, store: store)
        let name = try #require(try store.list(.pack).first).name
        store.close()
        let place = "\(path)/packs/\(name.prefix(2))/\(name)"
        let wrong = "\(path)/packs/\(name.hasPrefix("ff") ? "ee" : "ff")"
        if try !fs.exists(wrong) { try fs.createFolder(wrong) }
        try fs.rename(place, to: "\(wrong)/\(name)")
        try expectTool("ln", "-s", "/nowhere/at-all", place)
        store = try LocalStore(opening: path, in: fs)
        var repair = RepairJob()
        repair.setsLostPointsAside = true
        let outcome = try repair.run(store: store)
        #expect(outcome.damagedPoints.isEmpty && outcome.pointsSetAside.isEmpty && outcome.points == 1)
        #expect(try VerifyJob().run(store: store).isSound)
        store.close()
    }

    @Test(
        "a power cut takes nothing of a pack that comes in the place of a damaged one",
        arguments: [Survival.nothing, .everything, .prefix(seed: 1), .random(seed: 2)])
    func cut(survival: Survival) throws {
        var number = 1
        while true {
            let whole = try misplaced().bytes
            var other = whole
            other[20] ^= 0xee
            let found = try misplaced(left: other)
            // As `cp` leaves it: not synchronised.
            let file = try found.world.fs.open(found.wrong, OpenMode(writable: true, creation: .replace))
            try file.writeBytes(whole, at: 0)
            found.world.fs.setPlan(.stop(atChange: number))
            _ = try? repair(found.world)
            guard found.world.fs.isStopped else { break }
            var after = found.world
            after.fs = after.fs.afterPowerCut(survival)
            // Before it was synchronised the copy is the administrator's to lose; what was there is not.
            let names = try after.fs.list("\(StoreWorld.path)/packs/\(found.pack.prefix(2))")
            let aside = (try? after.fs.list("\(StoreWorld.path)/aside")) ?? []
            if !names.contains(found.pack) || aside.contains("\(found.pack).pack") {
                _ = try repair(after)
                let store = try after.open()
                let kept = after.kept[1]
                #expect(isSame(try after.restored(kept.point, store), kept.content), "\(survival), change \(number)")
                store.close()
            }
            number += 1
        }
        #expect(number > 5)
    }
}
