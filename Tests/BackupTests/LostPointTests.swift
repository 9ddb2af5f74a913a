import BackupStore
import BlockIO
import ChunkTree
import Codecs
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import Backup

/// Points that are lost for good.
@Suite struct LostPointTests {
    @Test("a repair sets points aside that can't be restored in whole, only when asked, and once")
    func setAside() throws {
        let world = try StoreWorld(backups: 2)
        let root = StoreWorld.path
        // What only the second point needs.
        let store = try world.open()
        let top = world.kept[1].point.content.root.top
        let pack = try #require(try store.locate([top])[0]).pack.description
        store.close()
        try world.fs.remove("\(root)/packs/\(pack.prefix(2))/\(pack)")
        let lost = world.kept[1].point.id

        func repair(_ setsAside: Bool) throws -> RepairJob.Outcome {
            let store = try world.open()
            defer { store.close() }
            var job = RepairJob()
            job.setsLostPointsAside = setsAside
            return try job.run(store: store)
        }
        let asked = try repair(false)
        #expect(asked.damagedPoints == [lost] && asked.pointsSetAside.isEmpty)
        let first = try repair(true)
        #expect(first.damagedPoints == [lost] && first.pointsSetAside == [lost])
        #expect(try world.fs.exists("\(root)/aside/\(lost).point"))
        let second = try repair(true)
        #expect(second.points == 1 && second.damagedPoints.isEmpty && second.pointsSetAside.isEmpty)
        let again = try world.open()
        #expect(try VerifyJob().run(store: again).isSound)
        #expect(try again.points().map(\.id) == [world.kept[0].point.id])
        again.close()
    }

    /// With two points; what only the second one needs is lost.
    private static func damaged() throws -> (world: StoreWorld, lost: String) {
        let world = try StoreWorld(backups: 2)
        let store = try world.open()
        let top = world.kept[1].point.content.root.top
        let pack = try #require(try store.locate([top])[0]).pack.description
        store.close()
        try world.fs.remove("\(StoreWorld.path)/packs/\(pack.prefix(2))/\(pack)")
        return (world, world.kept[1].point.id)
    }

    private static func repair(_ world: StoreWorld) throws -> RepairJob.Outcome {
        let store = try world.open()
        defer { store.close() }
        var job = RepairJob()
        job.setsLostPointsAside = true
        return try job.run(store: store)
    }

    @Test("a read that fails moves no point that is whole, wherever it comes", arguments: [Errno.ioError, .noMemory])
    func unreadable(errno: Errno) throws {
        let (state, lost) = try Self.damaged()
        let clean = state.duplicate()
        #expect(try Self.repair(clean).pointsSetAside == [lost])
        let reads = clean.fs.counts[.read] ?? 0
        #expect(reads > 20)
        var kept = 0
        for number in 1...reads {
            let world = state.duplicate()
            world.fs.setPlan(FaultPlan(.fail(errno), at: number, of: [.read]))
            let outcome: RepairJob.Outcome
            do { outcome = try Self.repair(world) } catch { continue }
            #expect(outcome.pointsSetAside.isEmpty || outcome.pointsSetAside == [lost], "read \(number) of \(reads)")
            #expect(outcome.damagedPoints.isEmpty || outcome.damagedPoints == [lost], "read \(number) of \(reads)")
            if outcome.pointsSetAside.isEmpty { kept += 1 }
        }
        #expect(kept > 0)
    }

    @Test("what could not be saved of a damaged pack is told, also where no index file was left")
    func notSaved() throws {
        let world = try StoreWorld(backups: 1)
        let id = world.kept[0].point.id
        var store = try world.open()
        for pack in try store.list(.pack) {
            let directory = try store.packDirectory(pack.name, byteCount: pack.byteCount)
            guard let frame = directory.frames.first(where: { !$0.isNodes }) else { continue }
            let file = try world.fs.open("\(StoreWorld.path)/packs/\(pack.name.prefix(2))/\(pack.name)", .update)
            let place = UInt64(frame.offset) + 3
            try file.writeBytes([try file.readBytes(at: place, count: 1)[0] ^ 0x10], at: place)
            break
        }
        store.close()
        for name in try world.fs.list("\(StoreWorld.path)/index") {
            try world.fs.remove("\(StoreWorld.path)/index/\(name)")
        }
        store = try world.open()
        let repaired = try RepairJob().run(store: store)
        #expect(repaired.repair.packsSetAside.count == 1 && repaired.repair.objectsLost > 0)
        #expect(repaired.damagedPoints == [id])
        store.close()
        store = try world.open()
        let found = try VerifyJob().run(store: store)
        #expect(found.damagedPoints == [id] && !found.isSound, "\(found.problems)")
        #expect(try store.damage() != nil)
        store.close()
    }

    /// What the store's storage has left of a pack, in bytes from its start, or less than all by so much.
    @Test(
        "a pack that the storage has cut off is not built on: the next backup stores what was in it anew",
        arguments: [0, 20, -1, -400])
    func cutPack(left: Int) throws {
        let world = try StoreWorld(backups: 1)
        let content = world.kept[0].content
        let again = MemorySource(byteCount: StoreWorld.diskBytes, clusterBytes: 32 << 10)
        again.write(content, at: 0)
        var store = try world.open()
        for pack in try store.list(.pack) {
            let path = "\(StoreWorld.path)/packs/\(pack.name.prefix(2))/\(pack.name)"
            let size = left >= 0 ? UInt64(left) : pack.byteCount - min(pack.byteCount, UInt64(-left))
            try world.fs.open(path, .update).truncate(to: size)
        }
        store.close()
        store = try world.open()
        #expect(try store.damage() != nil || left != 0 && left != 20)
        let job = BackupJob(
            disk: "disk-2", name: "test", snapshot: again.freeze(), time: world.time + 1, base: nil,
            options: BackupJob.Options(workers: 1, packBytesTarget: 12_000))
        let outcome = try job.run(source: again, store: store)
        #expect(outcome.statistics.bytesNew > 0)
        #expect(isSame(try world.restored(outcome.point, store), content))
        store.close()
        // The first point is whole, too: it needs the same.
        let reader = try world.open()
        #expect(isSame(try world.restored(world.kept[0].point, reader), content))
        reader.close()
    }

    enum Place: CaseIterable { case empty, damaged, whole }

    @Test("a pack in a wrong folder is not there, and a repair puts it in its place", arguments: Place.allCases)
    func misplaced(place: Place) throws {
        let world = try StoreWorld(backups: 2)
        let (pack, path, wrong) = try world.packToMisplace()
        let bytes = try world.fs.contents(of: path, limit: 1 << 20)
        try world.fs.rename(path, to: "\(wrong)/\(pack)")
        if place != .empty {
            try world.fs.replaceContents(of: path, with: bytes)
            if place == .damaged { try world.fs.open(path, .update).writeBytes([0xee], at: 20) }
        }
        // What has a pack's name and is none, in a wrong folder, is in nobody's way.
        try world.fs.replaceContents(of: "\(wrong)/" + String(repeating: "a", count: 64), with: [1, 2, 3])
        var store = try world.open()
        #expect(try store.damage() != nil || place != .empty)
        let found = try VerifyJob().run(store: store)
        #expect(!found.isSound && found.problems.contains { $0.contains(wrong) }, "\(found.problems)")
        store.close()

        store = try world.open()
        var job = RepairJob()
        job.setsLostPointsAside = true
        let outcome = try job.run(store: store)
        #expect(outcome.damagedPoints.isEmpty && outcome.pointsSetAside.isEmpty && outcome.points == 2)
        #expect(outcome.repair.problems.contains { $0.contains(pack) } && outcome.repair.packsSetAside.isEmpty)
        for kept in world.kept { #expect(isSame(try world.restored(kept.point, store), kept.content)) }
        store.close()
        #expect(try world.fs.exists(path) && world.fs.exists("\(wrong)/\(pack)") == (place == .whole))
        if place == .whole { try world.fs.remove("\(wrong)/\(pack)") }
        try world.fs.remove("\(wrong)/" + String(repeating: "a", count: 64))
        store = try world.open()
        #expect(try VerifyJob().run(store: store).isSound)
        store.close()
    }

    @Test(
        "a point that a backup makes whole meanwhile stays, also before that has indexed anything",
        arguments: [false, true])
    func healed(isIndexed: Bool) throws {
        let world = try StoreWorld(backups: 2)
        let fs = world.fs
        let store = try world.open()
        defer { store.close() }
        let lost = world.kept[1].point
        let pack = try #require(try store.locate([lost.content.root.top])[0]).pack.description
        let path = "\(StoreWorld.path)/packs/\(pack.prefix(2))/\(pack)"
        let bytes = try fs.contents(of: path, limit: 1 << 20)
        try fs.remove(path)
        var job = RepairJob()
        job.setsLostPointsAside = true
        // Another writer puts in what it lacks when all points have been looked at.
        let hasBegun = Mutex(false)
        let isHealed = Mutex<Bool?>(nil)
        let writer = Mutex<LocalStore?>(nil)
        defer { writer.withLock { $0 }?.close() }
        fs.setObserver { call, subject in
            if subject.contains("points/\(lost.id)") { hasBegun.withLock { $0 = true } }
            guard hasBegun.withLock({ $0 }), subject == "\(StoreWorld.path)/aside",
                isHealed.withLock({ healed in
                    defer { healed = healed ?? false }
                    return healed == nil
                })
            else { return nil }
            let isDone: Void? = try? {
                let other = try world.open()
                writer.withLock { $0 = other }
                try other.put(.pack, pack, bytes)
                if isIndexed { other.close() }
            }()
            isHealed.withLock { $0 = isDone != nil }
            return nil
        }
        let outcome = try job.run(store: store)
        fs.setObserver(nil)
        #expect(isHealed.withLock { $0 } == true)
        #expect(outcome.points == 2 && outcome.pointsSetAside.isEmpty && outcome.damagedPoints.isEmpty)
        #expect(outcome.problems.isEmpty)
        #expect(try VerifyJob().run(store: store).isSound)
    }

    @Test("a failure while points are set aside tells which ones are") func partial() throws {
        var (world, lost) = try Self.damaged()
        _ = try world.backup()
        let more = world.kept[2].point.id
        let store = try world.open()
        let top = world.kept[2].point.content.root.top
        let pack = try #require(try store.locate([top])[0]).pack.description
        store.close()
        try world.fs.remove("\(StoreWorld.path)/packs/\(pack.prefix(2))/\(pack)")
        let clean = world.duplicate()
        let renames = clean.fs.counts[.rename] ?? 0
        #expect(Set(try Self.repair(clean).pointsSetAside) == [lost, more])
        let failing = world.duplicate()
        failing.fs.setPlan(
            FaultPlan(.fail(.ioError), at: (clean.fs.counts[.rename] ?? 0) - renames, of: [.rename]))
        let outcome = try Self.repair(failing)
        #expect(outcome.pointsSetAside.count == 1 && outcome.setAsideFailure != nil)
        let there = try failing.open()
        #expect(try there.list(.point).count == 2)
        there.close()
    }
}
