import BackupStore
import BlockIO
import ChunkTree
import Codecs
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
}
