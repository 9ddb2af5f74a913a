import BlockIO
import ChunkTree
import Codecs
import TestSupport
import Testing

@testable import BackupStore

/// Packs whose writer was cut off.
@Suite struct PartialPackTests {
    private static let path = "/store"

    /// A store, and a writer in the middle of a pack of frames of one chunk each.
    private struct Cut {
        let fs = SimulatedFileSystem()
        let store: LocalStore
        let writer: PackWriter
        private(set) var ids: [Digest] = []

        init() throws {
            try LocalStore.create(at: path, uuid: "uuid-1", chunkBytes: 4096, in: fs)
            store = try LocalStore(opening: path, in: fs)
            writer = PackWriter(backend: store) { _, _ in Issue.record("no pack is whole") }
        }

        mutating func add(_ number: Int) throws {
            var chunk = [UInt8](repeating: UInt8(number), count: 4096)
            chunk[0] = 1
            let id = try chunk.withUnsafeBytes { memory in
                let id = ChunkID.of(memory)
                try writer.add(
                    PackWriter.Frame(
                        bytes: memory, plainBytes: 4096, isCompressed: false, isNodes: false,
                        objects: [PackFrame.Object(id: id, length: 4096)]))
                return id
            }
            ids.append(id)
        }
    }

    @Test("what a writer has put in is there for the next, however it ended", arguments: ["abandoned", "killed"])
    func kept(ending: String) throws {
        var cut = try Cut()
        for number in 1...5 { try cut.add(number) }
        var fs = cut.fs
        if ending == "abandoned" {
            cut.writer.abandon()
            #expect(try cut.store.known(cut.ids).allSatisfy { $0 })
            cut.store.close()
        } else {
            fs = cut.fs.duplicate()
        }
        let next = try LocalStore(opening: Self.path, in: fs)
        #expect(try next.known(cut.ids).allSatisfy { $0 })
        #expect(try next.list(.pack).count == 1)
        #expect(try fs.list("/store/tmp").count { !$0.hasSuffix(".lock") && $0 != "sessions" } == 0)
        next.close()
        // And it is a pack like any other.
        let reader = try LocalStore(opening: Self.path, writable: false, in: fs.afterPowerCut(.nothing))
        let object = try #require(try reader.list(.pack).first)
        #expect(try reader.packDirectory(object.name, byteCount: object.byteCount).frames.count == 5)
    }

    @Test("of what the power took, the frames before the first that is not whole are kept", arguments: 1...40)
    func powerCut(seed: Int) throws {
        var cut = try Cut()
        for number in 1...6 { try cut.add(number) }
        let survival: Survival = seed % 2 == 0 ? .random(seed: UInt64(seed)) : .prefix(seed: UInt64(seed))
        let fs = cut.fs.afterPowerCut(survival)
        let next = try LocalStore(opening: Self.path, in: fs)
        let known = try next.known(cut.ids)
        #expect(known == known.sorted { $0 && !$1 }, "a prefix")
        for (id, isKnown) in zip(cut.ids, known) where isKnown {
            let place = try #require(try next.locate([id])[0])
            let bytes = try next.bytes(.pack, place.pack.description, at: UInt64(place.frameOffset), 4096)
            #expect(bytes.withUnsafeBytes { ChunkID.of($0) } == id)
        }
        next.close()
    }

    @Test("a kill or a failure at any change of taking it up loses nothing that was whole") func interrupted() throws {
        var cut = try Cut()
        for number in 1...3 { try cut.add(number) }
        let state = cut.fs.duplicate()
        let clean = state.duplicate()
        try LocalStore(opening: Self.path, in: clean).close()
        for number in 1...clean.changeCount {
            for isCut in [false, true] {
                let fs = state.duplicate()
                // What could not be synchronised is not kept.
                let calls = FaultPlan.Call.changes.subtracting([.synchronize])
                fs.setPlan(isCut ? .stop(atChange: number) : .ioError(at: number, of: calls))
                (try? LocalStore(opening: Self.path, in: fs))?.close()
                fs.setPlan(nil)
                let after = isCut ? fs.afterPowerCut(.random(seed: UInt64(number))) : fs
                let next = try LocalStore(opening: Self.path, in: after)
                #expect(try next.known(cut.ids).allSatisfy { $0 }, "change \(number)")
                next.close()
            }
        }
    }

    @Test("entries that lie about the frames make no pack of them") func lies() throws {
        var cut = try Cut()
        for number in 1...3 { try cut.add(number) }
        let fs = cut.fs.duplicate()
        let name = try #require(try fs.list("/store/tmp").first { $0.hasSuffix(".1") })
        try fs.open("/store/tmp/\(name)", .update).writeBytes([9], at: 16 + 4096 + 100)
        let next = try LocalStore(opening: Self.path, in: fs)
        #expect(try next.known(cut.ids) == [true, false, false])
        next.close()
    }
}
