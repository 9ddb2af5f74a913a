import BlockIO
import ChunkTree
import Codecs
@testable import Migration
import TestSupport
import Testing

@Suite struct HashTreeFileTests {
    /// The digest of a disk by hashing every node that has content.
    private func naive(_ leaves: [UInt64: Digest], _ shape: TreeShape) -> Digest {
        var level = leaves
        for height in 1...shape.height {
            let parents = Dictionary(grouping: level.keys) { $0 >> 8 }
            level = parents.mapValues { [level] slots in
                var children = [Digest](repeating: .zero, count: 256)
                for slot in slots { children[Int(slot & 255)] = level[slot] ?? .zero }
                return TreeNode.nodeID(level: height, children: children)
            }
        }
        return RootDigest.of(byteCount: shape.byteCount, chunkBytes: shape.chunkBytes, top: level[0] ?? .zero)
    }

    @Test("roots agree with a tree that is built anew, whatever fits in the cache", arguments: [1, 3, 1000])
    func model(cached: Int) throws {
        let folder = try TemporaryFolder()
        let file = try LinuxFileSystem().open(folder.file("tree"), OpenMode(writable: true, creation: .exclusive))
        let shape = TreeShape(byteCount: 70_000 * 65536 - 100)
        let tree = HashTreeFile(file, shape: shape, cachedMax: cached)
        var random = SeededRandom("hash tree file")
        var leaves: [UInt64: Digest] = [:]
        for step in 0..<400 {
            let index = random.oneIn(2) ? random.below(shape.chunkCount) : random.below(UInt64(600))
            if random.oneIn(5) {
                let end = min(index + random.below(UInt64(3000)), shape.chunkCount)
                try tree.clear(index..<end)
                for known in leaves.keys where (index..<end).contains(known) { leaves[known] = nil }
            } else {
                let id = Digest.hash(random.bytes(4))
                #expect(try tree.setLeaf(index, id))
                #expect(try !tree.setLeaf(index, id))
                leaves[index] = id
            }
            if step % 100 == 99 { #expect(try tree.root() == naive(leaves, shape)) }
            let from = random.below(shape.chunkCount)
            if step % 10 == 0 { #expect(try tree.nextContent(from: from) == leaves.keys.filter { $0 >= from }.min()) }
        }
        for (index, id) in leaves { #expect(try tree.leaf(index) == id) }
    }

    @Test("the file of an almost empty giant is small")
    func sparse() throws {
        let folder = try TemporaryFolder()
        let file = try LinuxFileSystem().open(folder.file("tree"), OpenMode(writable: true, creation: .exclusive))
        let tree = HashTreeFile(file, shape: TreeShape(byteCount: 64 << 40), cachedMax: 2)
        for index in [0, 1 << 20, 1 << 29, (1 << 30) - 1] as [UInt64] {
            try tree.setLeaf(index, Digest.hash([UInt8(index % 251)]))
        }
        _ = try tree.root()
        #expect(try file.allocatedBytes() < 1 << 20)
        #expect(try tree.nextContent(from: 2) == 1 << 20)
        #expect(try tree.nextContent(from: (1 << 29) + 1) == (1 << 30) - 1)
    }
}
