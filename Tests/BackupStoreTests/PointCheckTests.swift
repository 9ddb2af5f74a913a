import BlockIO
import ChunkTree
import Codecs
import LinuxSystem
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import BackupStore

private struct FixedTime: TimeSource {
    var now: UInt64
    func monotonic() -> UInt64 { 0 }
    func realtime() -> UInt64 { now }
}

/// What a store demands of a point before it becomes visible.
@Suite struct PointCheckTests {
    private static let day: UInt64 = 86_400_000_000_000
    private static let now: UInt64 = 1_800_000_000_000_000_000

    private static func bytes(_ number: Int) -> [UInt8] {
        [UInt8](repeating: UInt8(number & 255), count: 4094) + [1, 2]
    }

    private static func point(
        _ top: Digest, chunks: UInt64, parent: String? = nil, time: UInt64 = 1_000_000_000
    ) -> RestorePoint {
        RestorePoint(
            RestorePoint.Content(
                disk: "d", name: "n", time: time,
                root: TreeRoot(top: top, shape: TreeShape(byteCount: chunks * 4096, chunkBytes: 4096)),
                parent: parent, snapshot: "s"))
    }

    private static func node(_ level: Int, _ children: [Digest]) -> TreeNode {
        TreeNode(level: level, children: children + [Digest](repeating: .zero, count: 256 - children.count))
    }

    private func put(_ point: RestorePoint, _ store: LocalStore) throws(StoreError) {
        try store.put(.point, point.id, point.encoded())
    }

    @Test("a point is refused whose top node, a node or a chunk is not there; one that is whole is taken")
    func wholeness() throws {
        var filled = try FilledStore()
        let chunks = try filled.put([Self.bytes(1), Self.bytes(2)])
        let absent = Digest.hash([7])
        let whole = Self.node(1, chunks)
        let lacking = Self.node(1, chunks + [absent])
        let top = Self.node(2, [whole.id, lacking.id])
        let other = Self.node(2, [whole.id, absent])
        let good = Self.node(2, [whole.id, .zero, whole.id])
        _ = try filled.put(nodes: [whole, lacking, top, other, good])
        let store = filled.store
        for (id, size) in [(absent, 9), (lacking.id, 9), (top.id, 600), (other.id, 600), (chunks[0], 9)] {
            let error = #expect(throws: StoreError.self) { try put(Self.point(id, chunks: UInt64(size)), store) }
            #expect(error?.code == .missing)
        }
        #expect(try store.list(.point).isEmpty)
        try put(Self.point(whole.id, chunks: 9), store)
        try put(Self.point(good.id, chunks: 600), store)
        store.close()
    }

    @Test("what a point shares with the one it was made from is not looked at; what it has anew is")
    func base() throws {
        var filled = try FilledStore()
        let leaves = try (0..<60).map { number in Self.node(1, try filled.put([Self.bytes(number)], indexed: false)) }
        let changed = Self.node(1, try filled.put([Self.bytes(99)]))
        let lacking = Self.node(1, [Digest.hash([8])])
        var ids = leaves.map(\.id)
        let first = Self.node(2, ids)
        ids[30] = changed.id
        let second = Self.node(2, ids)
        ids[31] = lacking.id
        let third = Self.node(2, ids)
        // A disk that has grown by a level.
        let grown = Self.node(3, [second.id, first.id])
        _ = try filled.put(nodes: leaves + [changed, lacking, first, second, third, grown])
        let store = filled.store
        let base = Self.point(first.id, chunks: 256 * 60)
        try put(base, store)
        var nodes = 0
        var chunks = 0
        var walker = PointWalker(store: store, base: base.content.root) { ids, isNode in
            if isNode { nodes += 1 } else { chunks += ids.count }
            return ids.map { _ in nil }
        }
        let next = Self.point(second.id, chunks: 256 * 60, parent: base.id)
        #expect(try walker.walk(next.content.root) == [])
        #expect(nodes == 2 && chunks == 1)
        try put(next, store)
        let bad = Self.point(third.id, chunks: 256 * 60, parent: base.id)
        #expect(throws: StoreError.self) { try put(bad, store) }
        try put(Self.point(grown.id, chunks: 256 * 256 * 2, parent: next.id), store)
        // A parent that is not there is nothing to go by.
        let error = #expect(throws: StoreError.self) {
            try put(Self.point(third.id, chunks: 256 * 60, parent: bad.id), store)
        }
        #expect(error?.code == .missing)
        store.close()
    }

    /// What becomes known while a writer is at work.
    enum Found: CaseIterable { case noted, repaired, elsewhere, setAsideElsewhere }

    @Test(
        "damage that is found during a session counts also for what a point shares with its base",
        arguments: Found.allCases)
    func baseDamagedMeanwhile(found: Found) throws {
        var filled = try FilledStore()
        let old = Self.node(1, try filled.put([Self.bytes(1)], compressed: false))
        let changed = Self.node(1, try filled.put([Self.bytes(2)]))
        let foreign = try filled.put([Self.bytes(3)], compressed: false)
        let first = Self.node(2, [old.id, .zero])
        let second = Self.node(2, [old.id, changed.id])
        _ = try filled.put(nodes: [old, changed, first, second])
        let base = Self.point(first.id, chunks: 512)
        try put(base, filled.store)
        let isOfBase = found == .noted || found == .repaired
        let place = try #require(try filled.store.locate([isOfBase ? old.children[0] : foreign[0]])[0])
        filled.store.close()

        // The writer is told of nothing, and looks at nothing of the base.
        let writer = try LocalStore(opening: FilledStore.path, in: filled.fs)
        #expect(try writer.damage() == nil && writer.known([second.id]) == [true])
        let other = try LocalStore(opening: FilledStore.path, in: filled.fs)
        switch found {
        case .noted, .elsewhere: try other.note([place.pack: PackDamage(frames: [place.frameOffset])])
        case .repaired, .setAsideElsewhere:
            let name = place.pack.description
            try filled.fs.open("/store/packs/\(name.prefix(2))/\(name)", .update).writeBytes([0xee], at: 20)
            #expect(try other.repair { _, _ in true }?.packsSetAside == [name])
        }
        other.close()
        let next = Self.point(second.id, chunks: 512, parent: base.id)
        if isOfBase {
            let error = #expect(throws: StoreError.self) { try put(next, writer) }
            #expect(error?.code == .busy || error?.code == .missing)
            #expect(try writer.list(.point).map(\.name) == [base.id])
        } else {
            try put(next, writer)
        }
        writer.close()
    }

    @Test("a point is listed behind the one that it was made from, whatever the clocks said") func order() throws {
        var filled = try FilledStore()
        let leaf = Self.node(1, try filled.put([Self.bytes(1)]))
        _ = try filled.put(nodes: [leaf])
        let ahead = Self.point(leaf.id, chunks: 9, time: 9_000_000_000)
        let right = Self.point(leaf.id, chunks: 9, parent: ahead.id, time: 5_000_000_000)
        let behind = Self.point(leaf.id, chunks: 9, parent: right.id, time: 1_000_000_000)
        let other = Self.point(leaf.id, chunks: 9, time: 7_000_000_000)
        // Its parent is not there.
        let orphan = Self.point(leaf.id, chunks: 9, parent: "20200101T000000Z-00000000", time: 2_000_000_000)
        for point in [right, behind, orphan, ahead, other] { try put(point, filled.store) }
        let found = try filled.store.points { Issue.record("\($0): \($1)") }
        #expect(found.map(\.id) == [orphan, other, ahead, right, behind].map(\.id))
        filled.store.close()
    }

    /// Whatever the writer does when it is found: the point is refused, or is visible already.
    @Test("no damage comes between the last look and a point") func noWindow() throws {
        struct Progress {
            var calls = 0
            var isNoted = false
            var isVisible = false
        }
        var isOver = false
        for step in 0..<1000 where !isOver {
            var filled = try FilledStore()
            let old = Self.node(1, try filled.put([Self.bytes(1)]))
            let first = Self.node(2, [old.id, .zero])
            _ = try filled.put(nodes: [old, first])
            try put(Self.point(first.id, chunks: 512), filled.store)
            let place = try #require(try filled.store.locate([old.children[0]])[0])
            let other = try LocalStore(opening: FilledStore.path, in: filled.fs)
            let changed = Self.node(1, try filled.put([Self.bytes(2)]))
            let second = Self.node(2, [old.id, changed.id])
            _ = try filled.put(nodes: [changed, second])
            let progress = Mutex(Progress())
            let fs = filled.fs
            fs.setObserver { call, subject in
                let isDue = progress.withLock { progress in
                    if call == .rename, subject.contains("/points/") { progress.isVisible = true }
                    defer { progress.calls += 1 }
                    return progress.calls == step && !progress.isVisible
                }
                // Who finds it would wait.
                guard isDue, (try? fs.lock(FilledStore.path + "/tmp/aside", wait: false)) ?? nil != nil else {
                    return nil
                }
                let isNoted = (try? other.note([place.pack: PackDamage(isWhole: true)])) != nil
                progress.withLock { $0.isNoted = isNoted }
                return nil
            }
            let result = Result { try put(Self.point(second.id, chunks: 512), filled.store) }
            fs.setObserver(nil)
            let (isNoted, calls) = progress.withLock { ($0.isNoted, $0.calls) }
            #expect((try? result.get()) == nil || !isNoted, "at call \(step)")
            isOver = calls <= step
            other.close()
            filled.store.close()
        }
        #expect(isOver)
    }

    @Test("of two who note damage of one pack at a time, both are heard") func notedByTwo() throws {
        let filled = try FilledStore()
        let fs = filled.fs
        let pack = Digest.hash([1])
        let other = try LocalStore(opening: FilledStore.path, in: fs)
        let isSecondDue = Mutex(true)
        // Whoever comes second does so when the first has read what is noted, and is about to write; or waits.
        fs.setObserver { call, subject in
            guard call == .rename, subject.contains(".damage"),
                (try? fs.lock(FilledStore.path + "/tmp/aside", wait: false)) ?? nil != nil,
                isSecondDue.withLock({ $0 })
            else { return nil }
            isSecondDue.withLock { $0 = false }
            try? other.note([pack: PackDamage(frames: [2])])
            return nil
        }
        try filled.store.note([pack: PackDamage(frames: [1])])
        fs.setObserver(nil)
        if isSecondDue.withLock({ $0 }) { try other.note([pack: PackDamage(frames: [2])]) }
        #expect(try filled.store.loadNotes() == [pack: PackDamage(frames: [1, 2])])
        other.close()
        filled.store.close()
    }

    @Test(
        "a node that nobody knew to be rotten, or unreadable, is refused, noted, and taken when it is put in again",
        arguments: [false, true])
    func rottenNode(isUnreadable: Bool) throws {
        var filled = try FilledStore()
        let chunks = try filled.put([Self.bytes(1), Self.bytes(2)])
        let leaf = Self.node(1, chunks)
        let top = Self.node(2, [leaf.id])
        _ = try filled.put(nodes: [leaf])
        _ = try filled.put(nodes: [top])
        let place = try #require(try filled.store.locate([leaf.id])[0])
        let name = place.pack.description
        let path = "/store/packs/\(name.prefix(2))/\(name)"
        if isUnreadable {
            filled.fs.setObserver { $0 == .read && $1.contains(path) ? .fail(.ioError) : nil }
        } else {
            try filled.fs.open(path, .update).writeBytes([0xee], at: UInt64(place.frameOffset) + 7)
        }
        let store = filled.store
        #expect(try store.known([leaf.id, top.id]) == [true, true])
        let point = Self.point(top.id, chunks: 512)
        let error = #expect(throws: StoreError.self) { try put(point, store) }
        #expect(error?.code == (isUnreadable ? .io : .missing), "\(String(describing: error))")
        // So the next run puts it in again, in this session or another one.
        #expect(try store.known([leaf.id, top.id]) == [false, true])
        let other = try LocalStore(opening: FilledStore.path, in: filled.fs)
        #expect(try other.known([leaf.id, top.id]) == [false, true])
        other.close()
        filled.fs.setObserver(nil)
        _ = try filled.put(nodes: [leaf])
        try put(point, store)
        store.close()
    }

    @Test("what is wrong with a node is not held against those that are read together with it")
    func neighbours() throws {
        var filled = try FilledStore()
        let leaves = try (0..<4).map { number in Self.node(1, try filled.put([Self.bytes(number)], indexed: false)) }
        let first = Self.node(2, leaves.map(\.id))
        let second = Self.node(2, leaves.prefix(3).map(\.id))
        for node in leaves { _ = try filled.put(nodes: [node]) }
        _ = try filled.put(nodes: [first, second])
        let name = try #require(try filled.store.locate([leaves[3].id])[0]).pack.description
        try filled.fs.open("/store/packs/\(name.prefix(2))/\(name)", .update).writeBytes([0xee], at: 20)
        var walker = PointWalker(store: filled.store) { ids, _ in ids.map { _ in nil } }
        #expect(try walker.walk(Self.point(first.id, chunks: 1024).content.root)?.count == 1)
        #expect(walker.damagedNodes == [leaves[3].id])
        #expect(try walker.walk(Self.point(second.id, chunks: 1024).content.root) == [])
        filled.store.close()
    }

    @Test("a walk ends after so many nodes, and takes the rest for whole") func bound() throws {
        var filled = try FilledStore()
        let leaves = try (0..<20).map { number in Self.node(1, try filled.put([Self.bytes(number)], indexed: false)) }
        let top = Self.node(2, leaves.map(\.id))
        _ = try filled.put(nodes: leaves + [top])
        var nodes = 0
        var walker = PointWalker(store: filled.store, nodesMax: 5) { ids, isNode in
            nodes += isNode ? 1 : 0
            return ids.map { _ in nil }
        }
        #expect(try walker.walk(Self.point(top.id, chunks: 256 * 20).content.root) == [])
        #expect(nodes == 5)
        filled.store.close()
    }

    @Test("a point whose time is more than a day ahead of the keeper's clock is refused, and the clock named")
    func future() throws {
        let filled = try FilledStore()
        filled.store.close()
        var options = LocalStore.Options()
        options.clock = FixedTime(now: Self.now)
        options.isServed = true
        let store = try LocalStore(opening: FilledStore.path, options: options, in: filled.fs)
        for ahead in [Self.day + 1, 100 * Self.day, .max - Self.now] {
            let error = #expect(throws: StoreError.self) {
                try put(Self.point(.zero, chunks: 1, time: Self.now + ahead), store)
            }
            #expect(error?.code == .refused && error?.message.contains("clock") == true)
        }
        try put(Self.point(.zero, chunks: 1, time: Self.now + Self.day), store)
        try put(Self.point(.zero, chunks: 1, time: 0), store)
        #expect(try store.list(.point).count == 2)
        store.close()
    }
}
