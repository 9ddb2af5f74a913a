import Codecs
import Testing

@testable import ChunkTree

/// A tree's nodes in memory.
final class NodeTable {
    struct Missing: Error {}
    var nodes: [Digest: TreeNode] = [:]
    var reads = 0
    var emitted = 0

    func read(_ id: Digest, _ level: Int) throws(Missing) -> TreeNode {
        reads += 1
        guard let node = nodes[id], node.level == level else { throw Missing() }
        return node
    }

    func emit(_ id: Digest, _ node: TreeNode) {
        precondition(id == node.id && !node.isEmpty)
        for child in node.children where node.level > 1 && !child.isZero {
            precondition(nodes[child] != nil, "children first")
        }
        emitted += 1
        nodes[id] = node
    }

    func update(_ base: TreeRoot, _ shape: TreeShape, _ changes: [(UInt64, Digest)]) throws(Missing) -> TreeRoot {
        var updater = TreeUpdater<Missing>(
            from: base, to: shape, read: { (id, level) throws(Missing) in try self.read(id, level) },
            emit: { (id, node) throws(Missing) in self.emit(id, node) })
        for (index, id) in changes { try updater.set(index, id) }
        return try updater.finish()
    }

    func leaves(_ root: TreeRoot, in range: Range<UInt64>? = nil) throws(Missing) -> [UInt64: Digest] {
        var found: [UInt64: Digest] = [:]
        var last: UInt64?
        try root.forEachChunk(in: range, read: { (id, level) throws(Missing) in try self.read(id, level) }) {
            (index, id) throws(Missing) in
            precondition(last.map { $0 < index } ?? true, "ascending")
            last = index
            found[index] = id
            return true
        }
        return found
    }
}

/// The top id from first principles.
func naiveTop(_ leaves: [UInt64: Digest], level: Int, index: UInt64 = 0) -> Digest {
    if level == 0 { return leaves[index] ?? .zero }
    let width = TreeShape.capacity(of: level)
    guard leaves.keys.contains(where: { $0 / width == index }) else { return .zero }
    return TreeNode.nodeID(
        level: level, children: (0..<256).map { naiveTop(leaves, level: level - 1, index: index * 256 + $0) })
}

struct Xorshift: RandomNumberGenerator {
    var state: UInt64
    init(seed: UInt64) { state = seed &* 0x9e37_79b9_7f4a_7c15 | 1 }
    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state
    }
}

func fakeID(_ number: UInt64) -> Digest { number == 0 ? .zero : Digest.hash(Array("id \(number)".utf8)) }

@Suite struct TreeModelTests {
    @Test("updates and walks agree with a naive tree", arguments: 1...12)
    func model(seed: Int) throws {
        var random = Xorshift(seed: UInt64(seed))
        let table = NodeTable()
        var shape = TreeShape(byteCount: 65536 * UInt64.random(in: 1...70_000, using: &random) - 17)
        var root = TreeRoot.empty(shape)
        var model: [UInt64: Digest] = [:]
        for _ in 0..<8 {
            if Int.random(in: 0..<3, using: &random) == 0 {
                shape = TreeShape(byteCount: shape.byteCount * UInt64.random(in: 1...40, using: &random))
            }
            let indices = Set(
                (0..<Int.random(in: 0..<40, using: &random)).map { _ in
                    UInt64.random(in: 0..<shape.chunkCount, using: &random) >> UInt64.random(in: 0...8, using: &random)
                })
            let changes = indices.sorted().map { ($0, fakeID(UInt64.random(in: 0..<4, using: &random))) }
            let before = root
            let oldModel = model
            table.emitted = 0
            root = try table.update(before, shape, changes)
            #expect(table.emitted <= changes.count * shape.height + shape.height)
            for (index, id) in changes { model[index] = id.isZero ? nil : id }
            #expect(root.top == naiveTop(model, level: shape.height), "seed \(seed)")
            #expect(try table.leaves(root) == model)
            let some = UInt64.random(in: 0..<shape.chunkCount, using: &random)..<shape.chunkCount
            #expect(try table.leaves(root, in: some) == model.filter { some.contains($0.key) })
            var differences: [UInt64: [Digest]] = [:]
            try root.forEachDifference(
                from: before, read: { (id, level) throws(NodeTable.Missing) in try table.read(id, level) }
            ) {
                (index, old, new) throws(NodeTable.Missing) in
                differences[index] = [old, new]
                return true
            }
            var wanted: [UInt64: [Digest]] = [:]
            for index in Set(oldModel.keys).union(model.keys) where oldModel[index] != model[index] {
                wanted[index] = [oldModel[index] ?? .zero, model[index] ?? .zero]
            }
            #expect(differences == wanted, "seed \(seed)")
        }
    }

    @Test("one changed chunk of a full tree costs one node a level, to read and to write")
    func incrementalCost() throws {
        let table = NodeTable()
        let shape = TreeShape(byteCount: 65536 * 70_000)
        let full = try table.update(.empty(shape), shape, (0..<70_000).map { ($0, fakeID($0 + 1)) })
        table.reads = 0
        table.emitted = 0
        let next = try table.update(full, shape, [(40_000, fakeID(1_000_000))])
        #expect(table.reads == 3 && table.emitted == 3)
        #expect(next.digest != full.digest)
        table.reads = 0
        table.emitted = 0
        #expect(try table.update(next, shape, [(40_000, fakeID(1_000_000))]) == next)
        #expect(table.emitted == 0)
    }

    @Test("a tree cleared to zeros is the empty tree, whatever its size")
    func cleared() throws {
        let table = NodeTable()
        let shape = TreeShape(byteCount: 1 << 44)
        let one = try table.update(.empty(shape), shape, [(1 << 27, fakeID(1))])
        #expect(shape.height == 4)
        #expect(try table.update(one, shape, [(1 << 27, .zero)]) == .empty(shape))
        #expect(TreeRoot.empty(shape).digest != TreeRoot.empty(TreeShape(byteCount: 1 << 43)).digest)
    }
}

@Suite struct TreeNodeTests {
    @Test("a node's bytes are its only form") func roundTrip() throws {
        var random = Xorshift(seed: 5)
        for _ in 0..<50 {
            var node = TreeNode(level: Int.random(in: 1...7, using: &random))
            for _ in 0..<Int.random(in: 1...300, using: &random) {
                node.children[Int.random(in: 0..<256, using: &random)] = fakeID(random.next())
            }
            let bytes = node.encoded()
            #expect(bytes.count <= TreeNode.encodedMax)
            #expect(try TreeNode(parsing: bytes, level: node.level) == node)
            #expect(TreeNode.id(ofEncoded: bytes) == node.id)
        }
    }

    @Test("every cut, every longer and every altered form is refused or is another node") func hostile() {
        var node = TreeNode(level: 2)
        node.children[3] = fakeID(1)
        node.children[255] = fakeID(2)
        let bytes = node.encoded()
        for count in 0..<bytes.count {
            #expect(throws: FieldError.self) { try TreeNode(parsing: Array(bytes.prefix(count)), level: 2) }
        }
        #expect(throws: FieldError.self) { try TreeNode(parsing: bytes + [0], level: 2) }
        #expect(throws: FieldError.self) { try TreeNode(parsing: bytes, level: 1) }
        for bit in 0..<bytes.count * 8 {
            var altered = bytes
            altered[bit / 8] ^= 1 << UInt8(bit % 8)
            guard let parsed = try? TreeNode(parsing: altered, level: 2) else { continue }
            #expect(parsed != node && parsed.encoded() == altered)
            #expect(TreeNode.id(ofEncoded: altered) != node.id)
        }
        var empty = [UInt8](repeating: 0, count: 65)
        empty[0] = 1
        empty[1] = 1
        #expect(throws: FieldError.self) { try TreeNode(parsing: empty, level: 1) }
        #expect(throws: FieldError.self) { try TreeNode(parsing: [1] + [UInt8](repeating: 0, count: 32), level: 1) }
    }

    @Test("shapes: boundaries, and what is refused") func shapes() {
        #expect(TreeShape(checking: 1, chunkBytes: 65537) == nil)
        #expect(TreeShape(checking: 1, chunkBytes: 2048) == nil)
        #expect(TreeShape(checking: 1 << 62, chunkBytes: 65536) == nil)
        #expect(TreeShape(byteCount: 0).chunkCount == 0 && TreeShape(byteCount: 0).height == 1)
        #expect(TreeShape(byteCount: 256 * 65536).height == 1 && TreeShape(byteCount: 256 * 65536 + 1).height == 2)
        #expect(TreeShape(byteCount: (1 << 62) - 1, chunkBytes: 4096).height == 7)
        let odd = TreeShape(byteCount: 65536 + 5)
        #expect(odd.length(of: 0) == 65536 && odd.length(of: 1) == 5 && odd.length(of: 2) == 0)
    }

    @Test("ids are the same today and tomorrow") func golden() {
        let chunk = [UInt8](repeating: 7, count: 65536)
        let id = chunk.withUnsafeBytes { ChunkID.of($0) }
        #expect(id == Digest.hash(Array("godwit chunk 1\n".utf8) + chunk))
        let zeros = [UInt8](repeating: 0, count: 65536)
        #expect(zeros.withUnsafeBytes { ChunkID.of($0) }.isZero)
    }
}
