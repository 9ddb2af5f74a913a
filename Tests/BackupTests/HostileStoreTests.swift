import Backup
import BackupStore
import BlockIO
import ChunkTree
import Codecs
import Synchronization
import SystemPackage
import TestSupport
import Testing

/// Stores whose files were cut or altered: nothing of it is ever taken for success.
@Suite struct HostileStoreTests {
    /// A store with two points of a disk that has some bytes of each kind, in small files.
    private func prepared() throws -> StoreWorld {
        var world = try StoreWorld()
        try world.create()
        var random = SeededRandom(seed: 4)
        let text = (0..<2000).flatMap { Array("line \($0 % 100)\n".utf8) }
        world.disk.write(text, at: 4096 * 3)
        world.disk.write(random.bytes(5000), at: 4096 * 200)
        _ = try world.backup()
        world.disk.write(random.bytes(100), at: StoreWorld.diskBytes - 300)
        world.disk.write(Array(text.reversed()), at: 4096 * 90)
        _ = try world.backup()
        return world
    }

    private static let kinds = ["description", "pack", "index", "point"]

    /// The files of a kind and their sizes.
    private func files(_ kind: String, in world: StoreWorld) throws -> [(path: String, byteCount: Int)] {
        let root = StoreWorld.path
        let folders: [String]
        switch kind {
        case "description": folders = []
        case "pack": folders = try world.fs.list(root + "/packs").map { root + "/packs/" + $0 }
        case "index": folders = [root + "/index"]
        default: folders = [root + "/points"]
        }
        var paths = kind == "description" ? [root + "/godwit-store"] : []
        for folder in folders { paths += try world.fs.list(folder).map { folder + "/" + $0 } }
        return try paths.map { ($0, Int(try world.fs.open($0, .read).size())) }
    }

    private func isDamage(_ code: StoreError.Code) -> Bool { [.corrupt, .unsupported, .missing].contains(code) }

    /// What cannot be restored is told, as are damages that harm no point; and nothing wrong is ever restored.
    private func expectNoticed(_ world: StoreWorld, restores: Bool) throws {
        let store: LocalStore
        do throws(StoreError) { store = try LocalStore(opening: StoreWorld.path, writable: false, in: world.fs) } catch
        {
            guard isDamage(error.code) || error.code == .notAStore, !error.message.isEmpty else { throw error }
            return
        }
        defer { store.close() }
        var verify = VerifyJob()
        verify.workers = 1
        let report = try verify.run(store: store)
        guard !report.isSound, report.problems.allSatisfy({ !$0.isEmpty }) else {
            throw StoreWorld.Mismatch(description: "it passed the verification")
        }
        for kept in world.kept where restores {
            do throws(BackupError) {
                let content = try world.restored(kept.point, store)
                guard isSame(content, kept.content) else {
                    Issue.record("wrong content of \(kept.point.id)")
                    return
                }
            } catch {
                guard case .store(let code) = error.code, isDamage(code) else { throw error }
                guard report.damagedPoints.contains(kept.point.id) else {
                    throw StoreWorld.Mismatch(description: "verified, but not restored: \(error)")
                }
            }
        }
    }

    /// Damages one file of a copy of the world.
    private func check(
        _ world: StoreWorld, _ path: String, restores: Bool, _ what: String, _ damage: (any StorageFile) throws -> Void
    ) throws -> Bool {
        let copy = world.duplicate()
        try damage(try copy.fs.open(path, .update))
        do { try expectNoticed(copy, restores: restores) } catch {
            Issue.record("\(path), \(what): \(error)")
            return false
        }
        return true
    }

    @Test("a flipped bit in any file of a store is noticed, and never restored", arguments: kinds)
    func bitFlips(kind: String) throws {
        let world = try prepared()
        try world.expectSound()
        var random = SeededRandom("flipped bits in a store's \(kind)")
        for (path, byteCount) in try files(kind, in: world) {
            for sample in 0..<120 {
                // Heads and ends are hit more often than their share.
                let byte =
                    switch sample % 4 {
                    case 0: random.below(min(64, byteCount))
                    case 1: byteCount - 1 - random.below(min(700, byteCount))
                    default: random.below(byteCount)
                    }
                let bit = UInt8(1) << UInt8(random.below(8))
                let isNoticed = try check(world, path, restores: sample % 4 == 0, "bit \(bit) of byte \(byte)") {
                    file in
                    let old = try file.readBytes(at: UInt64(byte), count: 1)
                    try file.writeBytes([old[0] ^ bit], at: UInt64(byte))
                }
                guard isNoticed else { return }
            }
        }
    }

    @Test("a file of a store that is cut anywhere is noticed, and never restored", arguments: kinds)
    func truncations(kind: String) throws {
        let world = try prepared()
        var random = SeededRandom("cut files of a store: \(kind)")
        for (path, byteCount) in try files(kind, in: world) {
            let borders = [0, 1, 15, 16, 32, 64, 4096, byteCount - 64, byteCount - 32, byteCount - 1]
            let others = (0..<40).map { _ in random.below(byteCount) }
            for (sample, count) in Set((borders + others).filter { $0 >= 0 && $0 < byteCount }).sorted().enumerated() {
                let isNoticed = try check(world, path, restores: sample % 4 == 0, "cut to \(count)") { file in
                    try file.truncate(to: UInt64(count))
                }
                guard isNoticed else { return }
            }
        }
    }

    @Test("bytes at the end of any file of a store are noticed", arguments: kinds)
    func longer(kind: String) throws {
        let world = try prepared()
        for (path, byteCount) in try files(kind, in: world) {
            for more in [[0], [10], [UInt8](repeating: 0, count: 5000)] as [[UInt8]] {
                _ = try check(world, path, restores: true, "\(more.count) bytes more") { file in
                    try file.writeBytes(more, at: UInt64(byteCount))
                }
            }
        }
    }

    @Test("a file of a store that is missing is noticed, and what does not need it is restored", arguments: kinds)
    func missing(kind: String) throws {
        let world = try prepared()
        for (path, _) in try files(kind, in: world) {
            let copy = world.duplicate()
            try copy.fs.remove(path)
            // The packs name their chunks themselves, and without a point nothing misses it.
            if kind == "point" {
                let store = try copy.open()
                #expect(try store.points().count == 1)
                store.close()
            } else if kind == "index" {
                try copy.expectSound()
            } else {
                do { try expectNoticed(copy, restores: true) } catch { Issue.record("\(path): \(error)") }
            }
        }
    }

    @Test("damage of one pack harms only the points that need it") func othersRestore() throws {
        let world = try prepared()
        let store = try world.open()
        let second = try #require(store.points().last)
        #expect(second.content.parent == world.kept[0].point.id)
        store.close()
        // The pack that only the second point needs is the one that is younger.
        var harmed: [Set<String>] = []
        for (path, _) in try files("pack", in: world) {
            let copy = world.duplicate()
            try copy.fs.open(path, .update).truncate(to: 20)
            let store = try copy.open()
            defer { store.close() }
            let report = try VerifyJob().run(store: store)
            harmed.append(Set(report.damagedPoints))
            for kept in world.kept where !report.damagedPoints.contains(kept.point.id) {
                #expect(isSame(try copy.restored(kept.point, store), kept.content))
            }
        }
        let ids = world.kept.map(\.point.id)
        #expect(Set(harmed) == [Set(ids), [ids[1]]])
    }

    @Test("a missing pack of chunks is told, also when the store is reached through a peer", arguments: [true, false])
    func missingChunks(isLocal: Bool) throws {
        let world = try prepared()
        // All nodes of the second point are its own, in its own pack.
        let packs = try files("pack", in: world)
        var told = 0
        for (path, _) in packs {
            let copy = world.duplicate()
            try copy.fs.remove(path)
            try copy.fs.remove("\(StoreWorld.path)/points/\(world.kept[0].point.id)")
            let store = try copy.open()
            defer { store.close() }
            let report = try VerifyJob().run(store: isLocal ? store : FullStore(store, room: 0))
            #expect(!report.isSound && report.damagedPoints == [world.kept[1].point.id], "\(path): \(report)")
            told += report.problems.count { $0.contains("chunk") && $0.contains("not there") }
        }
        #expect(told > 0)
    }

    /// Backs up as the service does: what the store knows of its damage decides what is built on.
    private func backup(_ world: inout StoreWorld) throws -> RestorePoint {
        let store = try world.open()
        if let base = world.base, try store.damage() != nil,
            try !BaseCheck.isWhole(base.point, in: store, progress: { _, _ in true })
        {
            world.base = nil
        }
        store.close()
        return try world.backup()
    }

    @Test("after a verification the next backup is whole, whatever is damaged, and so is what shares with it")
    func backupsHeal() throws {
        let world = try prepared()
        var random = SeededRandom("backups into a damaged store")
        for kind in ["pack", "index", "point"] {
            for (path, byteCount) in try files(kind, in: world) {
                for sample in 0..<10 {
                    var copy = world.duplicate()
                    let byte = UInt64(random.below(byteCount))
                    if sample == 0 {
                        try copy.fs.remove(path)
                    } else {
                        let file = try copy.fs.open(path, .update)
                        try file.writeBytes([try file.readBytes(at: byte, count: 1)[0] ^ 0x10], at: byte)
                        let store = try LocalStore(opening: StoreWorld.path, writable: false, in: copy.fs)
                        let report = try VerifyJob().run(store: store)
                        #expect(!report.isSound && (kind != "pack" || report.isNoted), "\(path), byte \(byte)")
                        store.close()
                    }
                    let point = try backup(&copy)
                    let store = try copy.open()
                    #expect(isSame(try copy.restored(point, store), copy.disk.content), "\(path), byte \(byte)")
                    // The point before has the same content: nothing of the disk has changed.
                    if kind != "point" {
                        #expect(isSame(try copy.restored(world.kept[1].point, store), copy.disk.content))
                    }
                    store.close()
                }
            }
        }
    }

    @Test("a node of the base that nobody knew to be damaged costs a full read, and is stored again") func damagedBase()
        throws
    {
        let world = try prepared()
        var healed = 0
        for (path, byteCount) in try files("pack", in: world) {
            for byte in stride(from: 16, to: byteCount - 100, by: 97) {
                var copy = world.duplicate()
                let file = try copy.fs.open(path, .update)
                try file.writeBytes([try file.readBytes(at: UInt64(byte), count: 1)[0] ^ 0x10], at: UInt64(byte))
                copy.disk.write([UInt8](repeating: UInt8(byte & 255), count: 5000), at: 4096 * 30)
                let point = try copy.backup()
                guard point.content.parent == nil else { continue }
                healed += 1
                let store = try copy.open()
                #expect(isSame(try copy.restored(point, store), copy.disk.content), "\(path), byte \(byte)")
                store.close()
            }
        }
        #expect(healed > 0)
    }

    @Test("a pack that its medium does not give back does not block backups: its nodes are stored again")
    func unreadablePack() throws {
        let world = try prepared()
        for (path, _) in try files("pack", in: world) {
            var copy = world.duplicate()
            let isReplaced = Atomic<Bool>(false)
            copy.fs.setObserver { call, subject in
                guard subject.contains(path) else { return nil }
                if call == .rename { isReplaced.store(true, ordering: .relaxed) }
                return call == .read && !isReplaced.load(ordering: .relaxed) ? .fail(.ioError) : nil
            }
            copy.disk.write([UInt8](repeating: 9, count: 5000), at: 4096 * 30)
            var point: RestorePoint?
            for _ in 0..<3 where point == nil { point = try? backup(&copy) }
            copy.fs.setObserver(nil)
            let store = try copy.open()
            let made = try #require(point, "\(path)")
            #expect(try BaseCheck.isWhole(made, in: store, progress: { _, _ in true }), "\(path)")
            store.close()
        }
    }

    @Test("a read of the base that fails once fails the backup, and the next one goes on from that base")
    func passingFailure() throws {
        let world = try prepared()
        var copy = world.duplicate()
        copy.disk.write([UInt8](repeating: 9, count: 5000), at: 4096 * 30)
        let store = try copy.open()
        let top = try #require(copy.base).point.content.root.top
        let pack = try #require(try store.locate([top])[0]).pack.description
        store.close()
        let reads = Atomic<Int>(0)
        copy.fs.setObserver { call, subject in
            guard call == .read, subject.contains(pack) else { return nil }
            return reads.add(1, ordering: .relaxed).oldValue == 0 ? .fail(.noMemory) : nil
        }
        #expect { _ = try copy.backup() } throws: { ($0 as? BackupError)?.code == .store(.io) }
        #expect(try copy.backup().content.parent != nil)
    }

    @Test("a repair after any damage leaves a sound store, in which the next backup is whole") func repairs() throws {
        let world = try prepared()
        var random = SeededRandom("repairs of a damaged store")
        for kind in ["pack", "index"] {
            for (path, byteCount) in try files(kind, in: world) {
                for sample in 0..<10 {
                    var copy = world.duplicate()
                    let byte = UInt64(random.below(byteCount))
                    switch sample {
                    case 0: try copy.fs.remove(path)
                    case 1: try copy.fs.open(path, .update).truncate(to: byte)
                    default:
                        let file = try copy.fs.open(path, .update)
                        try file.writeBytes([try file.readBytes(at: byte, count: 1)[0] ^ 0x10], at: byte)
                    }
                    var store = try copy.open()
                    let outcome = try RepairJob().run(store: store)
                    store.close()
                    let point = try backup(&copy)
                    store = try copy.open()
                    #expect(isSame(try copy.restored(point, store), copy.disk.content), "\(path), byte \(byte)")
                    let report = try VerifyJob().run(store: store)
                    // Only what is in no disk any more may be lost.
                    #expect(Set(report.damagedPoints).isSubset(of: outcome.damagedPoints), "\(path), byte \(byte)")
                    #expect(report.damagedPoints.allSatisfy { $0 == world.kept[0].point.id })
                    #expect(kind == "pack" || report.isSound, "\(path), byte \(byte): \(report.problems)")
                    store.close()
                }
            }
        }
    }

    @Test("a point whose tree is a few nodes over and over is walked in no time, and a walk ends when asked")
    func bomb() throws {
        var world = try prepared()
        let store = try world.open()
        let leaf = try #require(world.base?.point.content.root.top)
        let reader = TreeReader(backend: store)
        let first = try reader.read(leaf, world.kept[1].point.content.root.shape.height)
        var level = first.level
        var id = leaf
        let writer = PackWriter(backend: store) { _, _ in }
        while level < 6 {
            level += 1
            let node = TreeNode(level: level, children: [Digest](repeating: id, count: 256))
            let bytes = node.encoded()
            try bytes.withUnsafeBytes { memory in
                try writer.add(
                    PackWriter.Frame(
                        bytes: memory, plainBytes: bytes.count, isCompressed: false, isNodes: true,
                        objects: [PackFrame.Object(id: node.id, length: UInt32(bytes.count))]))
            }
            id = node.id
        }
        try writer.finishPack()
        let shape = TreeShape(byteCount: 4096 << 48, chunkBytes: 4096)
        #expect(shape.height == 6)
        let point = RestorePoint(
            RestorePoint.Content(
                disk: "bomb", name: "bomb", time: 5, root: TreeRoot(top: id, shape: shape), parent: nil, snapshot: "s"))
        try store.put(.point, point.id, point.encoded())
        world.time += 1
        var steps = 0
        let report = try VerifyJob().run(store: store) { _, _ in
            steps += 1
            return true
        }
        #expect(report.isSound && steps > 8 && steps < 1000)
        // Ends at whatever step it is asked to; how often the reading of packs asks depends on its threads.
        for step in 1...5 {
            var asked = 0
            let error = #expect(throws: BackupError.self) {
                _ = try VerifyJob().run(store: store) { _, _ in
                    asked += 1
                    return asked < step
                }
            }
            #expect(error?.code == .cancelled, "step \(step)")
        }
        store.close()
    }
}
