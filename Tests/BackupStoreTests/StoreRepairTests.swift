import BlockIO
import ChunkTree
import Codecs
import SystemPackage
import TestSupport
import Testing

@testable import BackupStore

@Suite struct StoreRepairTests {
    /// Some packs of chunks of two frames each.
    private static func prepared() throws -> (fs: SimulatedFileSystem, plain: [Digest: [UInt8]]) {
        var filled = try FilledStore()
        for round in 0..<4 { _ = try filled.put((0..<6).map { chunk(round * 6 + $0) }, compressed: round % 2 == 0) }
        filled.store.close()
        return (filled.fs, filled.plain)
    }

    private static func chunk(_ number: Int) -> [UInt8] {
        (0..<4096).map { UInt8(truncatingIfNeeded: $0 / 32 &* 3 &+ number &* 29) }
    }

    private static func packs(_ fs: SimulatedFileSystem) throws -> [String] {
        try fs.list("/store/packs").flatMap { folder in
            try fs.list("/store/packs/" + folder).map { "/store/packs/\(folder)/\($0)" }
        }
    }

    @discardableResult
    private static func repair(_ fs: SimulatedFileSystem) throws -> RepairReport {
        let store = try LocalStore(opening: FilledStore.path, in: fs)
        defer { store.close() }
        return try #require(try store.repair { _, _ in true })
    }

    /// Objects that a fresh reader finds, and finds right.
    private static func whole(_ fs: SimulatedFileSystem, _ plain: [Digest: [UInt8]]) throws -> Set<Digest> {
        let store = try LocalStore(opening: FilledStore.path, writable: false, in: fs)
        var whole: Set<Digest> = []
        let check = PackFileCheck()
        for id in plain.keys {
            guard let place = try store.locate([id])[0] else { continue }
            guard let (file, size) = try? store.open(.pack, place.pack.description),
                UInt64(place.frameOffset) + UInt64(place.storedBytes) <= size
            else { continue }
            if try check.isWhole(id, at: place, in: file) { whole.insert(id) }
        }
        return whole
    }

    private static func expectSound(_ fs: SimulatedFileSystem) throws {
        let store = try LocalStore(opening: FilledStore.path, writable: false, in: fs)
        let audit = try #require(try store.auditIndex(damaged: { Issue.record("\($1)") }))
        let check = PackFileCheck()
        for pack in try store.list(.pack) {
            let directory = try store.packDirectory(pack.name, byteCount: pack.byteCount)
            let name = try #require(Digest(hex: pack.name))
            #expect(audit.names(name))
            #expect(try audit.wrongEntries(name, directory) == 0)
            let (file, _) = try store.open(.pack, pack.name)
            for frame in directory.frames { #expect(try check.problem(frame, in: file) == nil) }
        }
    }

    @Test("what is noted anew while a repair runs stays noted, also where it was noted before; the rest goes")
    func notedAgain() throws {
        let (fs, plain) = try Self.prepared()
        let store = try LocalStore(opening: FilledStore.path, in: fs)
        let places = try store.locate(plain.keys.sorted()).compactMap { $0 }
        let pack = try #require(places.first).pack
        let other = try #require(places.first { $0.pack != pack })
        let again = PackDamage(frames: [places[0].frameOffset])
        try store.note([pack: again, other.pack: PackDamage(frames: [other.frameOffset])])
        store.close()
        let repairer = try LocalStore(opening: FilledStore.path, in: fs)
        let beside = try LocalStore(opening: FilledStore.path, in: fs)
        var isNoted = false
        // All packs have been read, and were whole.
        let report = try repairer.repair { done, total in
            if done == total, !isNoted { isNoted = (try? beside.note([pack: again])) != nil }
            return true
        }
        #expect(isNoted && report?.packsSetAside == [])
        #expect(try repairer.loadNotes() == [pack: again])
        repairer.close()
        beside.close()
    }

    @Test("a sound store stays as it is") func sound() throws {
        let (fs, plain) = try Self.prepared()
        let before = try Self.packs(fs)
        let report = try Self.repair(fs)
        #expect(report.objects == 24 && report.packs == 4 && report.problems.isEmpty)
        #expect(report.packsSetAside.isEmpty && report.indexesSetAside.isEmpty && report.packsTakenUp == 0)
        #expect(try Self.packs(fs) == before)
        #expect(try Self.whole(fs, plain).count == 24)
        try Self.expectSound(fs)
    }

    @Test("of a damaged pack the good objects are saved, and the rest is set aside", arguments: 0..<5)
    func damagedPack(kind: Int) throws {
        let (fs, plain) = try Self.prepared()
        // Of those that are stored as they are.
        let path = try #require(try Self.packs(fs).first { try fs.fileSize($0) > 6 * 4096 })
        let size = try fs.fileSize(path)
        let file = try fs.open(path, .update)
        var lost = 0
        switch kind {
        case 0:
            // One byte of the second chunk.
            try file.writeBytes([0xee], at: 16 + 4096 + 7)
            lost = 1
        case 1:
            // The directory: all is found by way of the index.
            try file.writeBytes([0xee], at: size - 40)
        case 2: try file.writeBytes([1, 2, 3], at: size)
        case 3:
            try file.truncate(to: 20)
            lost = 6
        default:
            try file.writeBytes([0xee], at: size - 40)
            try file.writeBytes([0xee], at: 16 + 3 * 4096)
            lost = 1
        }
        let report = try Self.repair(fs)
        #expect(report.packsSetAside.count == 1 && Int(report.objectsLost) == lost, "\(report)")
        let after = fs.afterPowerCut(.nothing)
        #expect(try Self.whole(after, plain).count == 24 - lost)
        try Self.expectSound(after)
        #expect(try after.list("/store/aside").map { $0.suffix(5) } == [".pack"])
        // What is lost is not known any more, so it is stored again.
        let store = try LocalStore(opening: FilledStore.path, in: after)
        #expect(try store.known(Array(plain.keys)).count { !$0 } == lost)
        #expect(try store.damage() != nil, "points of before are looked at before they are built on")
        store.close()
    }

    @Test("wrong entries of a well-formed index file go, and the file is set aside") func wrongIndex() throws {
        let (fs, plain) = try Self.prepared()
        var store = try LocalStore(opening: FilledStore.path, in: fs)
        let name = try #require(try store.list(.pack).first).name
        let pack = try #require(Digest(hex: name))
        let lies = (0..<10).map { number in
            (
                id: Digest.hash([UInt8(number)]),
                location: Location(
                    pack: pack, frameOffset: 16, storedBytes: 4096, plainBytes: 4096, isCompressed: false,
                    isNode: false, offset: 0, length: 4096)
            )
        }
        try store.putIndex(lies)
        #expect(try store.known(lies.map(\.id)).allSatisfy { $0 })
        // A writer that has built on it.
        let victim = try LocalStore(opening: FilledStore.path, in: fs)
        #expect(try victim.known([lies[0].id]) == [true])
        store.close()
        let report = try Self.repair(fs)
        #expect(report.wrongEntries == 10 && !report.indexesSetAside.isEmpty)
        store = try LocalStore(opening: FilledStore.path, in: fs)
        #expect(try store.known(lies.map(\.id)).allSatisfy { !$0 })
        #expect(try Self.whole(fs, plain).count == 24)
        let point = RestorePoint(
            RestorePoint.Content(
                disk: "d", name: "n", time: 1,
                root: TreeRoot(top: .zero, shape: TreeShape(byteCount: 1, chunkBytes: 4096)), parent: nil,
                snapshot: "s"))
        let error = #expect(throws: StoreError.self) { try victim.put(.point, point.id, point.encoded()) }
        #expect(error?.code == .busy)
        try store.put(.point, point.id, point.encoded())
        victim.close()
        store.close()
        try Self.expectSound(fs)
    }

    @Test("a power cut at any change of a repair loses nothing, and the next one ends it", arguments: [0, 1])
    func powerCut(kind: Int) throws {
        let (state, plain) = try Self.prepared()
        let path = try #require(try Self.packs(state).first { try state.fileSize($0) > 6 * 4096 })
        let file = try state.open(path, .update)
        try file.writeBytes([0xee], at: kind == 0 ? 16 + 4096 + 7 : try file.size() - 40)
        try file.synchronize()
        let expected = kind == 0 ? 23 : 24
        let clean = state.duplicate()
        try Self.repair(clean)
        for number in 1...clean.changeCount {
            let fs = state.duplicate()
            fs.setPlan(.stop(atChange: number))
            _ = try? Self.repair(fs)
            let seed = UInt64(number)
            let survival: Survival = [.random(seed: seed), .nothing, .everything, .prefix(seed: seed)][number % 4]
            let after = fs.afterPowerCut(survival)
            do {
                #expect(try Self.whole(after, plain).count == expected, "change \(number), \(survival)")
                try Self.repair(after)
                #expect(try Self.whole(after, plain).count == expected, "change \(number), \(survival), again")
                try Self.expectSound(after)
            } catch { Issue.record("change \(number), \(survival): \(error)") }
        }
    }

    @Test("beside a repair a writer goes on, and what it puts in is there after it") func besideWriter() throws {
        let (fs, plain) = try Self.prepared()
        let repairer = try LocalStore(opening: FilledStore.path, in: fs)
        let writer = try LocalStore(opening: FilledStore.path, in: fs)
        var steps = 0
        var more: [Digest] = []
        let report = try repairer.repair { _, _ in
            steps += 1
            let packs = PackWriter(backend: writer) { _, _ in }
            let bytes = Self.chunk(100 + steps)
            do {
                try bytes.withUnsafeBytes { memory in
                    more.append(ChunkID.of(memory))
                    try packs.add(
                        PackWriter.Frame(
                            bytes: memory, plainBytes: 4096, isCompressed: false, isNodes: false,
                            objects: [PackFrame.Object(id: ChunkID.of(memory), length: 4096)]))
                }
                try packs.finishPack()
                try writer.flushRecent()
            } catch { Issue.record("\(error)") }
            return true
        }
        #expect(report != nil && steps > 4)
        #expect(try writer.known(Array(plain.keys) + more).allSatisfy { $0 })
        repairer.close()
        writer.close()
        let next = try LocalStore(opening: FilledStore.path, in: fs)
        #expect(try next.known(Array(plain.keys) + more).allSatisfy { $0 })
        next.close()
        try Self.expectSound(fs)
    }

    @Test("a pack that a writer puts in again while a repair runs is not taken out") func healedMeanwhile() throws {
        let (fs, plain) = try Self.prepared()
        let path = try #require(try Self.packs(fs).first { try fs.fileSize($0) > 6 * 4096 })
        let bytes = try fs.contents(of: path, limit: 1 << 20)
        let file = try fs.open(path, .update)
        try file.writeBytes([0xee], at: 16 + 4096 + 7)
        let name = String(path.split(separator: "/").last ?? "")
        let store = try LocalStore(opening: FilledStore.path, in: fs)
        let writer = try LocalStore(opening: FilledStore.path, in: fs)
        var isHealed = false
        let report = try #require(
            try store.repair { done, total in
                if done == total, !isHealed {
                    isHealed = true
                    #expect(throws: Never.self) { try writer.put(.pack, name, bytes) }
                }
                return true
            })
        #expect(isHealed && report.packsSetAside.isEmpty && report.objectsLost == 0, "\(report)")
        writer.close()
        store.close()
        let after = fs.afterPowerCut(.nothing)
        #expect(try after.contents(of: path, limit: 1 << 20) == bytes)
        #expect(try Self.whole(after, plain).count == 24)
        try Self.expectSound(after)
        let next = try LocalStore(opening: FilledStore.path, in: after)
        #expect(try next.known(Array(plain.keys)).allSatisfy { $0 })
        next.close()
    }

    @Test("a note of damage that can't be understood or read stands for the whole pack, also when more is noted")
    func unclearNote() throws {
        for isUnreadable in [false, true] {
            let (fs, _) = try Self.prepared()
            let store = try LocalStore(opening: FilledStore.path, in: fs)
            let first = try #require(try store.list(.pack).first)
            let pack = try #require(Digest(hex: first.name))
            try store.note([pack: PackDamage(frames: [16])])
            if isUnreadable {
                fs.setPlan(FaultPlan(.fail(.ioError), at: 1, of: [.read]))
            } else {
                try fs.open("/store/aside/\(pack).damage", .update).writeBytes([0xff], at: 0)
                #expect(try store.loadNotes() == [pack: PackDamage(isWhole: true)])
            }
            try store.note([pack: PackDamage(frames: [4112])])
            #expect(try store.loadNotes()[pack]?.isWhole == true)
            store.close()
        }
    }

    @Test("what is not there any more can't be set aside, and that is no failure") func gone() throws {
        let (fs, _) = try Self.prepared()
        let store = try LocalStore(opening: FilledStore.path, in: fs)
        let name = try #require(try store.list(.pack).first).name
        #expect(try store.setAside(pack: name))
        #expect(try !store.setAside(pack: name))
        #expect(try !store.setAside(point: "20250101T000000Z-00000000"))
        #expect(try !store.setAside(index: name))
        store.close()
    }

    @Test("a pack whose directory is damaged is saved by the good pages of an index file that is damaged, too")
    func damagedIndex() throws {
        let (fs, plain) = try Self.prepared()
        let path = try #require(try Self.packs(fs).first { try fs.fileSize($0) > 6 * 4096 })
        try fs.open(path, .update).writeBytes([0xee], at: try fs.fileSize(path) - 40)
        // The name is not what the content stands for any more, but no page is hit.
        for name in try fs.list("/store/index") {
            let size = try fs.fileSize("/store/index/" + name)
            let file = try fs.open("/store/index/" + name, .update)
            let trailer = try file.readBytes(at: size - UInt64(IndexTrailer.byteCount), count: IndexTrailer.byteCount)
            try fs.remove("/store/index/" + name)
            let other = String(name.reversed())
            let copy = try fs.open("/store/index/" + other, OpenMode(writable: true, creation: .exclusive))
            try copy.writeBytes(try file.readBytes(at: 0, count: Int(size) - trailer.count), at: 0)
            try copy.writeBytes(trailer, at: size - UInt64(trailer.count))
        }
        let report = try Self.repair(fs)
        #expect(report.objectsSaved == 6 && report.objectsLost == 0, "\(report)")
        #expect(try Self.whole(fs, plain).count == 24)
    }

    @Test("an index file that can't be used is damage of which writers are told") func unusableIndex() throws {
        let (fs, _) = try Self.prepared()
        var store = try LocalStore(opening: FilledStore.path, in: fs)
        #expect(try store.damage() == nil)
        store.close()
        let name = try #require(try fs.list("/store/index").first)
        try fs.open("/store/index/" + name, .update).truncate(to: 10)
        store = try LocalStore(opening: FilledStore.path, in: fs)
        #expect(try store.damage() != nil)
        store.close()
    }

    @Test("no store is made within a store", arguments: ["aside", "points/20260101T000000Z-deadbeef", "tmp/repairing"])
    func nested(name: String) throws {
        let (fs, _) = try Self.prepared()
        let error = #expect(throws: StoreError.self) {
            try LocalStore.create(at: "/store/" + name, uuid: "uuid-2", in: fs)
        }
        #expect(error?.code == .invalid)
        #expect(try !fs.exists("/store/" + name))
    }

    @Test("one file that can't be examined stops nothing else", arguments: ["packs", "points"])
    func unexamined(folder: String) throws {
        let (fs, plain) = try Self.prepared()
        var store = try LocalStore(opening: FilledStore.path, in: fs)
        let shape = TreeShape(byteCount: 1, chunkBytes: 4096)
        var points: [RestorePoint] = []
        for time in UInt64(1)...2 {
            points.append(
                RestorePoint(
                    RestorePoint.Content(
                        disk: "d", name: "n", time: time, root: TreeRoot(top: .zero, shape: shape), parent: nil,
                        snapshot: "s")))
            try store.put(.point, points[points.count - 1].id, points[points.count - 1].encoded())
        }
        store.close()
        let path = folder == "packs" ? try Self.packs(fs)[0] : "/store/points/" + points[0].id
        fs.setObserver { _, subject in subject == path ? .fail(.ioError) : nil }
        store = try LocalStore(opening: FilledStore.path, in: fs)
        var bad: [String] = []
        let found = try store.points { name, _ in bad.append(name) }
        #expect(found.map(\.id) == (folder == "packs" ? points : [points[1]]).map(\.id))
        #expect(bad == (folder == "packs" ? [] : [points[0].id]))
        #expect(try store.point(points[1].id) == points[1])
        let report = try #require(try store.repair { _, _ in true })
        #expect(report.packsSetAside.isEmpty && report.unreadable.isEmpty == (folder == "points"), "\(report)")
        store.close()
        fs.setObserver(nil)
        _ = try Self.repair(fs)
        #expect(try Self.whole(fs, plain).count == 24)
    }

    @Test("only one repair runs; one that is stopped takes nothing away") func stopped() throws {
        let (fs, _) = try Self.prepared()
        let before = try Self.packs(fs) + fs.list("/store/index")
        let store = try LocalStore(opening: FilledStore.path, in: fs)
        let other = try LocalStore(opening: FilledStore.path, in: fs)
        let report = try store.repair { done, _ in
            let error = #expect(throws: StoreError.self) { _ = try other.repair { _, _ in true } }
            #expect(error?.code == .busy)
            return done == 0
        }
        #expect(report == nil)
        #expect(try Self.packs(fs) + fs.list("/store/index") == before)
        store.close()
        other.close()
    }
}
