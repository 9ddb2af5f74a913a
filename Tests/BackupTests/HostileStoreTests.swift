import Backup
import BackupStore
import BlockIO
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
            // Without an index file there is nothing that names its chunks, without a point nothing misses it.
            if kind == "point" {
                let store = try copy.open()
                #expect(try store.points().count == 1)
                store.close()
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

    @Test("backups into a damaged store fail or are whole", arguments: kinds)
    func backupsIntoDamage(kind: String) throws {
        let world = try prepared()
        var random = SeededRandom("backups into a damaged store: \(kind)")
        for (path, byteCount) in try files(kind, in: world) {
            for _ in 0..<15 {
                var copy = world.duplicate()
                let file = try copy.fs.open(path, .update)
                let byte = UInt64(random.below(byteCount))
                try file.writeBytes([try file.readBytes(at: byte, count: 1)[0] ^ 0x10], at: byte)
                copy.base = world.base
                let point: RestorePoint
                do throws(BackupError) { point = try copy.backup() } catch {
                    guard case .store(let code) = error.code, isDamage(code) else {
                        Issue.record("\(path), byte \(byte): \(error)")
                        return
                    }
                    continue
                }
                // Nothing of the disk has changed, so it is as whole as the one before.
                let store = try copy.open()
                defer { store.close() }
                do throws(BackupError) { #expect(isSame(try copy.restored(point, store), copy.disk.content)) } catch {
                    let report = try VerifyJob().run(store: store)
                    #expect(report.damagedPoints.contains(point.id), "\(path), byte \(byte): \(error)")
                }
            }
        }
    }
}
