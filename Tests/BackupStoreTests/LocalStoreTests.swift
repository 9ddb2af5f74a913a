import BlockIO
import ChunkTree
import Codecs
import SystemPackage
import TestSupport
import Testing

@testable import BackupStore

/// A store in memory that is filled object by object.
struct FilledStore {
    static let path = "/store"
    let fs: SimulatedFileSystem
    let store: LocalStore
    /// What was put in, by identity.
    var plain: [Digest: [UInt8]] = [:]

    init() throws {
        fs = SimulatedFileSystem()
        try LocalStore.create(at: Self.path, uuid: "uuid-1", chunkBytes: 4096, in: fs)
        store = try LocalStore(opening: Self.path, in: fs)
    }

    /// Another writer of the same store, in another process.
    init(beside other: FilledStore) throws {
        fs = other.fs
        store = try LocalStore(opening: Self.path, in: fs)
    }

    /// Puts chunks into a pack, and has an index file made that names them. - Returns: their identities.
    mutating func put(_ chunks: [[UInt8]], compressed: Bool = true, indexed: Bool = true) throws -> [Digest] {
        let entries = try pack(
            chunks.map { bytes in (bytes.withUnsafeBytes { ChunkID.of($0) }, bytes) }, isNodes: false,
            compressed: compressed)
        if indexed { try store.flushRecent() }
        return entries.map(\.id)
    }

    mutating func put(nodes: [TreeNode]) throws -> [Digest] {
        let entries = try pack(nodes.map { ($0.id, $0.encoded()) }, isNodes: true, compressed: false)
        try store.flushRecent()
        return entries.map(\.id)
    }

    /// One pack of one frame. Identities are taken as they are given.
    mutating func pack(
        _ objects: [(id: Digest, bytes: [UInt8])], isNodes: Bool, compressed: Bool
    ) throws -> [(id: Digest, location: Location)] {
        var entries: [(id: Digest, location: Location)] = []
        let writer = PackWriter(backend: store) { name, directory in
            directory.forEachLocation(pack: name) { entries.append(($0, $1)) }
        }
        let body = objects.flatMap(\.bytes)
        var stored = body
        if compressed {
            stored = [UInt8](repeating: 0, count: Compressor.bound(body.count))
            let count = body.withUnsafeBytes { source in
                stored.withUnsafeMutableBytes { Compressor().compress(source, into: $0) }
            }
            stored.removeSubrange((count ?? 0)...)
        }
        try stored.withUnsafeBytes { memory in
            try writer.add(
                PackWriter.Frame(
                    bytes: memory, plainBytes: body.count, isCompressed: compressed, isNodes: isNodes,
                    objects: objects.map { PackFrame.Object(id: $0.id, length: UInt32($0.bytes.count)) }))
        }
        try writer.finishPack()
        for object in objects { plain[object.id] = object.bytes }
        return entries
    }

    /// The bytes of an object, by way of its place in the index.
    func read(_ id: Digest, from store: LocalStore? = nil) throws -> [UInt8]? {
        let store = store ?? self.store
        guard let place = try store.locate([id])[0] else { return nil }
        let stored = try store.bytes(
            .pack, place.pack.description, at: UInt64(place.frameOffset), Int(place.storedBytes))
        let bytes = try FrameReader.object(place, stored: stored[...], id)
        return place.isCompressed ? bytes : Array(bytes[Int(place.offset)..<Int(place.offset + place.length)])
    }
}

private func chunk(_ number: Int) -> [UInt8] {
    (0..<4096).map { UInt8(truncatingIfNeeded: $0 / 64 &* 7 &+ number &* 13 &+ ($0 == 5 ? number >> 8 : 0)) }
}

@Suite struct LocalStoreTests {
    @Test("what was put in is found and read, compressed or not, by this and the next process") func roundTrip() throws
    {
        var filled = try FilledStore()
        let ids =
            try filled.put((0..<10).map { chunk($0) }) + filled.put((10..<20).map { chunk($0) }, compressed: false)
        let unknown = Digest.hash([1])
        #expect(try filled.store.known(ids + [unknown]) == [Bool](repeating: true, count: 20) + [false])
        #expect(try filled.store.locate([unknown]) == [nil])
        let next = try LocalStore(opening: FilledStore.path, writable: false, in: filled.fs)
        for id in ids {
            #expect(try filled.read(id) == filled.plain[id])
            #expect(try filled.read(id, from: next) == filled.plain[id])
        }
    }

    @Test("a pack that no index file names is known to its writer, and taken up by the next") func unindexed() throws {
        var filled = try FilledStore()
        let ids = try filled.put([chunk(1)], indexed: false)
        #expect(try filled.store.known(ids) == [true])
        #expect(try filled.store.list(.index) == [])
        let next = try LocalStore(opening: FilledStore.path, in: filled.fs.afterPowerCut(.nothing))
        #expect(try next.known(ids) == [true])
        #expect(try filled.read(ids[0], from: next) == chunk(1))
        next.close()
        #expect(try next.list(.index).count == 1)
    }

    @Test("what another writer has put there, and could not make durable, is made so") func durableForAll() throws {
        var failures = 0
        for number in 1...20 {
            var first = try FilledStore()
            var second = try FilledStore(beside: first)
            first.fs.setPlan(.ioError(at: number, of: [.synchronizeFolder]))
            let wasPut = (try? first.put([chunk(1)], indexed: false)) != nil
            first.fs.setPlan(nil)
            if wasPut { break }
            failures += 1
            let ids = try second.put([chunk(1)], indexed: false)
            let next = try LocalStore(opening: FilledStore.path, in: first.fs.afterPowerCut(.nothing))
            #expect(try next.known(ids) == [true], "\(number)")
        }
        #expect(failures > 0)
    }

    @Test("an index file that another writer could not make durable is made so before it is believed")
    func durableIndex() throws {
        var failures = 0
        for number in 1...20 {
            var first = try FilledStore()
            _ = try first.put([chunk(1)], indexed: false)
            first.fs.setPlan(.ioError(at: number, of: [.synchronizeFolder]))
            let isMade = (try? first.store.flushRecent()) != nil
            first.fs.setPlan(nil)
            if isMade { break }
            guard try first.fs.list("/store/index").count == 1 else { continue }
            failures += 1
            _ = try LocalStore(opening: FilledStore.path, in: first.fs)
            #expect(try first.fs.afterPowerCut(.nothing).list("/store/index").count == 1, "\(number)")
        }
        #expect(failures > 0)
    }

    @Test("index files are merged before there are many, and nothing gets lost") func merging() throws {
        var filled = try FilledStore()
        var ids: [Digest] = []
        for round in 0..<40 {
            ids += try filled.put((0...round % 5).map { chunk(round * 8 + $0) })
            #expect(try filled.store.list(.index).count <= LocalStore.segmentsMax)
            #expect(try filled.store.known(ids).allSatisfy { $0 })
        }
        let next = try LocalStore(opening: FilledStore.path, writable: false, in: filled.fs)
        for id in ids { #expect(try filled.read(id, from: next) == filled.plain[id]) }
        let audit = try #require(try next.auditIndex(damaged: { Issue.record("\($1)") }))
        #expect(Int(audit.entryCount) == ids.count, "an identity is named once")
    }

    @Test("look-ups of random identities agree with a dictionary, over pages and files") func lookups() throws {
        var random = SeededRandom("index look-ups")
        var filled = try FilledStore()
        var model: [Digest: Location] = [:]
        for _ in 0..<5 {
            var entries: [(id: Digest, location: Location)] = []
            for _ in 0..<random.below(600) + 1 {
                var bytes = random.bytes(32)
                // Crowds of neighbours, which guesses at places get wrong.
                if random.oneIn(2) {
                    bytes.replaceSubrange(0..<12, with: [UInt8](repeating: UInt8(random.below(3)), count: 12))
                }
                guard let id = Digest(bytes), model[id] == nil else { continue }
                let place = Location(
                    pack: Digest.hash([UInt8(random.below(9))]), frameOffset: 16 + UInt32(random.below(1 << 30)),
                    storedBytes: 100, plainBytes: 4096, isCompressed: true, isNode: false, offset: 0, length: 4096)
                entries.append((id, place))
                model[id] = place
            }
            try filled.store.putIndex(entries)
        }
        let ids = model.keys.sorted()
        #expect(try filled.store.locate(ids) == ids.map { model[$0] }, "seed \(random.seed)")
        for _ in 0..<300 {
            guard let id = Digest(random.bytes(32)) else { continue }
            #expect(try filled.store.locate([id]) == [model[id]])
        }
        filled.plain = [:]
    }

    @Test("a damaged index file costs nothing: what it named is looked up in the packs", arguments: 0..<4)
    func damagedIndex(damage: Int) throws {
        var filled = try FilledStore()
        var ids: [Digest] = []
        for round in 0..<5 { ids += try filled.put((0..<8).map { chunk(round * 8 + $0) }) }
        filled.store.close()
        let fs = filled.fs
        let names = try fs.list("/store/index").map { "/store/index/" + $0 }
        switch damage {
        case 0: for name in names { try fs.remove(name) }
        case 1: try fs.open(names[0], .update).writeBytes([0xff], at: 100)
        case 2: try fs.open(names[0], .update).truncate(to: 70)
        // The pack table.
        default: try fs.open(names[0], .update).writeBytes([0xff], at: 4096 + 5)
        }
        let reader = try LocalStore(opening: FilledStore.path, writable: false, in: fs)
        for id in ids { #expect(try filled.read(id, from: reader) == filled.plain[id]) }
        let writer = try LocalStore(opening: FilledStore.path, in: fs)
        let known = try writer.known(ids)
        // A page is found to be damaged when it is needed; then, or at the next start, its file is given up.
        #expect(damage == 1 || known.allSatisfy { $0 })
        try writer.put(.point, Self.point.id, Self.point.encoded())
        #expect(try writer.known(ids).allSatisfy { $0 })
        writer.close()
    }

    private static let point = RestorePoint(
        RestorePoint.Content(
            disk: "d", name: "n", time: 1, root: TreeRoot(top: .zero, shape: TreeShape(byteCount: 1, chunkBytes: 4096)),
            parent: nil, snapshot: "s"))

    @Test("a pack that is not there is as if it had never been, until it is back") func missingPack() throws {
        var filled = try FilledStore()
        let good = try filled.put([chunk(1)])
        let lost = try filled.put([chunk(2)])
        #expect(try filled.store.damage() == nil)
        let name = try #require(try filled.store.locate(lost)[0]).pack.description
        filled.store.close()
        let path = "/store/packs/\(name.prefix(2))/\(name)"
        try filled.fs.rename(path, to: "/kept")
        var next = try LocalStore(opening: FilledStore.path, in: filled.fs)
        #expect(try next.known(good + lost) == [true, false])
        #expect(try next.damage() != nil)
        #expect(try next.locate(lost)[0]?.pack.description == name, "so that an error can name it")
        next.close()
        try filled.fs.rename("/kept", to: path)
        next = try LocalStore(opening: FilledStore.path, in: filled.fs)
        #expect(try next.known(good + lost) == [true, true])
        #expect(try next.damage() == nil)
        next.close()
    }

    @Test("what is noted as damaged is not known, and read only when there is nothing better") func notes() throws {
        var filled = try FilledStore()
        let ids = try filled.put([chunk(1)]) + filled.put([chunk(2)])
        let place = try #require(try filled.store.locate(ids)[0])
        try filled.store.note([place.pack: PackDamage(frames: [place.frameOffset])])
        #expect(try filled.store.known(ids) == [false, true])
        #expect(try filled.store.locate(ids)[0] == place)
        filled.store.close()
        let fs = filled.fs.afterPowerCut(.nothing)
        let next = try LocalStore(opening: FilledStore.path, in: fs)
        #expect(try next.known(ids) == [false, true])
        #expect(try next.damage() != nil)
        // The same content again, in another pack: that place counts now.
        let writer = PackWriter(backend: next) { _, _ in }
        for number in [1, 7] {
            try chunk(number).withUnsafeBytes { memory in
                try writer.add(
                    PackWriter.Frame(
                        bytes: memory, plainBytes: 4096, isCompressed: false, isNodes: false,
                        objects: [PackFrame.Object(id: ChunkID.of(memory), length: 4096)]))
            }
        }
        try writer.finishPack()
        #expect(try next.known(ids) == [true, true])
        #expect(try next.locate(ids)[0]?.pack != place.pack)
        next.close()
    }

    @Test("of an object that two index files name a merge keeps the place that is whole", arguments: [false, true])
    func mergedPlaces(isFirstLarger: Bool) throws {
        var filled = try FilledStore()
        let id = try filled.put([chunk(1)] + (isFirstLarger ? [chunk(2), chunk(3)] : []))[0]
        let place = try #require(try filled.store.locate([id])[0])
        try filled.store.note([place.pack: PackDamage(frames: [place.frameOffset])])
        _ = try filled.put([chunk(1)] + (isFirstLarger ? [] : [chunk(2), chunk(3)]))
        try filled.store.mergeIndex()
        filled.store.close()
        #expect(try filled.fs.list("/store/index").count == 1)
        let next = try LocalStore(opening: FilledStore.path, in: filled.fs)
        #expect(try next.known([id]) == [true])
        #expect(try next.locate([id])[0]?.pack != place.pack)
        next.close()
    }

    @Test("a point that is damaged is replaced by its like") func pointOfSameName() throws {
        let filled = try FilledStore()
        let path = "/store/points/\(Self.point.id)"
        try filled.store.put(.point, Self.point.id, Self.point.encoded())
        let file = try filled.fs.open(path, .update)
        try file.writeBytes([0xee], at: 3)
        try filled.store.put(.point, Self.point.id, Self.point.encoded())
        #expect(try filled.fs.contents(of: path, limit: 1 << 20) == Self.point.encoded())
        filled.store.close()
    }

    @Test("what a writer was told must hold when its point comes: damage found meanwhile is an error")
    func holds() throws {
        var filled = try FilledStore()
        let ids = try filled.put([chunk(1)]) + filled.put([chunk(2)])
        let places = try filled.store.locate(ids).map { try #require($0) }
        let others = try [ids[0], ids[1]].map { id in
            let store = try LocalStore(opening: FilledStore.path, in: filled.fs)
            #expect(try store.known([id]) == [true])
            return store
        }
        let verifier = try LocalStore(opening: FilledStore.path, writable: false, in: filled.fs)
        try verifier.note([places[0].pack: PackDamage(frames: [16])])
        let error = #expect(throws: StoreError.self) {
            try others[0].put(.point, Self.point.id, Self.point.encoded())
        }
        #expect(error?.code == .busy)
        try others[1].put(.point, Self.point.id, Self.point.encoded())
        for store in others { store.close() }
    }

    // MARK: Writers

    @Test(
        "an upload whose content is not what its name stands for is refused, down to the last byte",
        arguments: [ObjectKind.pack, .point])
    func refusedUploads(kind: ObjectKind) throws {
        var filled = try FilledStore()
        _ = try filled.put([chunk(1), chunk(2)])
        try filled.store.put(.point, Self.point.id, Self.point.encoded())
        let object = try #require(try filled.store.list(kind).first)
        let bytes = try filled.store.bytes(kind, object.name, at: 0, Int(object.byteCount))
        filled.store.close()
        var options = LocalStore.Options()
        options.isServed = true
        let store = try LocalStore(opening: FilledStore.path, options: options, in: filled.fs)
        var random = SeededRandom("refused uploads")
        let before = try store.list(kind)
        for _ in 0..<60 {
            var altered = bytes
            altered[random.below(bytes.count)] ^= 1 << UInt8(random.below(8))
            let cut = Array(bytes.prefix(random.below(bytes.count)))
            for wrong in [altered, cut, bytes + [0]] {
                let error = #expect(throws: StoreError.self) { try store.put(kind, object.name, wrong) }
                #expect(error?.code == .corrupt)
            }
        }
        #expect(try store.list(kind) == before)
        #expect(
            try filled.fs.list("/store/tmp").allSatisfy { ["sessions", "aside"].contains($0) || $0.hasSuffix(".lock") })
        try store.put(kind, object.name, bytes)
        store.close()
    }

    @Test("a pack whose directory is right and whose content is not is refused") func refusedContent() throws {
        // Made where it is not looked at, as by somebody who computes the checksums anew.
        var liar = try FilledStore()
        let honest = Digest.hash([5])
        _ = try liar.pack([(honest, chunk(9))], isNodes: false, compressed: false)
        let object = try #require(try liar.store.list(.pack).first)
        let bytes = try liar.store.bytes(.pack, object.name, at: 0, Int(object.byteCount))
        let fs = SimulatedFileSystem()
        try LocalStore.create(at: FilledStore.path, uuid: "uuid-2", chunkBytes: 4096, in: fs)
        var options = LocalStore.Options()
        options.isServed = true
        let store = try LocalStore(opening: FilledStore.path, options: options, in: fs)
        let error = #expect(throws: StoreError.self) { try store.put(.pack, object.name, bytes) }
        #expect(error?.code == .corrupt)
        #expect(try store.known([honest]) == [false])
        store.close()
    }

    @Test("an index is never taken, whatever is in it") func refusedIndex() throws {
        var filled = try FilledStore()
        _ = try filled.put([chunk(1)])
        let object = try #require(try filled.store.list(.index).first)
        let bytes = try filled.store.bytes(.index, object.name, at: 0, Int(object.byteCount))
        let error = #expect(throws: StoreError.self) { try filled.store.put(.index, object.name, bytes) }
        #expect(error?.code == .unsupported)
    }

    @Test("a pack that is there already but damaged is replaced by a good one of its name") func replaced() throws {
        var filled = try FilledStore()
        let ids = try filled.put([chunk(1)])
        let object = try #require(try filled.store.list(.pack).first)
        let bytes = try filled.store.bytes(.pack, object.name, at: 0, Int(object.byteCount))
        let path = "/store/packs/\(object.name.prefix(2))/\(object.name)"
        filled.store.close()
        try filled.fs.open(path, .update).truncate(to: 40)
        let store = try LocalStore(opening: FilledStore.path, in: filled.fs)
        try store.put(.pack, object.name, bytes)
        #expect(try filled.fs.contents(of: path, limit: 1 << 20) == bytes)
        #expect(try filled.read(ids[0], from: store) == chunk(1))
        store.close()
    }

    @Test("names in tmp that no writer makes stay, and stop nobody") func foreignNames() throws {
        let filled = try FilledStore()
        filled.store.close()
        try filled.fs.createFolder("/store/tmp/foo.godwit-partial")
        try filled.fs.createFolder("/store/tmp/0123456789abcdef.7")
        try filled.fs.createFolder("/store/packs/lost+found")
        for name in ["tmp/notes", "tmp/0123456789abcdef.x", "tmp/0123456789abcdeg.1", "packs/file"] {
            _ = try filled.fs.open("/store/" + name, OpenMode(writable: true, creation: .exclusive))
        }
        let before = try filled.fs.list("/store/tmp")
        let store = try LocalStore(opening: FilledStore.path, in: filled.fs)
        #expect(try store.list(.pack) == [])
        store.close()
        #expect(try filled.fs.list("/store/tmp") == before)
    }

    @Test("what a dead writer left is removed by the next, what a living one has is not") func sessions() throws {
        let filled = try FilledStore()
        let upload = try filled.store.beginUpload(.pack)
        try [1, 2, 3].withUnsafeBytes { try upload.append($0) }
        let living = try filled.fs.list("/store/tmp")
        let second = try LocalStore(opening: FilledStore.path, in: filled.fs)
        #expect(Set(try filled.fs.list("/store/tmp")).isSuperset(of: living))
        second.close()
        // The power takes all locks.
        let fs = filled.fs.afterPowerCut(.everything)
        #expect(try fs.list("/store/tmp").contains { $0.hasSuffix(".1") })
        let third = try LocalStore(opening: FilledStore.path, in: fs)
        #expect(try fs.list("/store/tmp").allSatisfy { $0 == "sessions" || $0.hasSuffix(".lock") })
        #expect(try fs.list("/store/tmp").count == 2)
        third.close()
    }

    @Test("a store is made only in a new or empty folder") func creation() throws {
        let fs = SimulatedFileSystem()
        try LocalStore.create(at: "/a", uuid: "u", in: fs)
        let twice = #expect(throws: StoreError.self) { try LocalStore.create(at: "/a", uuid: "v", in: fs) }
        #expect(twice?.code == .exists)
        try fs.createFolder("/b")
        _ = try fs.open("/b/file", OpenMode(writable: true, creation: .exclusive))
        let nowhere = #expect(throws: StoreError.self) { try LocalStore.create(at: "/c/d", uuid: "v", in: fs) }
        #expect(nowhere?.code == .notAStore && nowhere?.message.contains("/c") == true)
        let taken = #expect(throws: StoreError.self) { try LocalStore.create(at: "/b", uuid: "v", in: fs) }
        #expect(taken?.code == .exists)
        #expect(try fs.list("/b") == ["file"])
        let none = #expect(throws: StoreError.self) { _ = try LocalStore(opening: "/b", in: fs) }
        #expect(none?.code == .notAStore)
        let missing = #expect(throws: StoreError.self) { _ = try LocalStore(opening: "/c", in: fs) }
        #expect(missing?.code == .notAStore)
    }

    // MARK: Nodes

    @Test("nodes are read; one that is wrong, of another level or missing is told") func nodes() throws {
        var filled = try FilledStore()
        var leaf = TreeNode(level: 1)
        leaf = TreeNode(level: 1, children: (0..<256).map { $0 % 3 == 0 ? Digest.hash([UInt8($0)]) : .zero })
        let parent = TreeNode(level: 2, children: [leaf.id] + [Digest](repeating: .zero, count: 255))
        let ids = try filled.put(nodes: [leaf, parent])
        let reader = TreeReader(backend: filled.store)
        #expect(try reader.read(ids[0], 1) == leaf)
        #expect(try reader.read(ids[1], 2) == parent)
        func code(_ id: Digest, _ level: Int) -> StoreError.Code? {
            do throws(StoreError) { _ = try reader.read(id, level) } catch { return error.code }
            return nil
        }
        #expect(code(ids[0], 2) == .corrupt && code(ids[1], 1) == .corrupt)
        #expect(code(Digest.hash([9]), 1) == .missing)
        // A chunk is no node, and bytes under another's identity are not it.
        let chunks = try filled.put([chunk(1)])
        #expect(code(chunks[0], 1) == .corrupt)
        let lie = Digest.hash([7])
        _ = try filled.pack([(lie, leaf.encoded())], isNodes: true, compressed: false)
        #expect(code(lie, 1) == .corrupt)
        let bent = leaf.encoded().dropLast() + []
        let bentID = TreeNode.id(ofEncoded: Array(bent))
        _ = try filled.pack([(bentID, Array(bent))], isNodes: true, compressed: false)
        #expect(code(bentID, 1) == .corrupt)
    }
}
