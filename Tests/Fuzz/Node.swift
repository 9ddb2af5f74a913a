// modules: Geometry Codecs ChunkTree
import ChunkTree
import Codecs

/// Tree nodes.
func fuzz(_ bytes: [UInt8]) {
    guard let level = bytes.first else { return }
    guard let node = try? TreeNode(parsing: bytes, level: Int(level)) else { return }
    if node.encoded() != bytes { finding("a node with two forms") }
    if node.children.count != 256 || node.isEmpty { finding("a node without its children") }
}

let seeds: [[UInt8]] = [1, 2, 7].map { level in
    var children = [Digest](repeating: .zero, count: 256)
    for slot in stride(from: 0, to: 256, by: 64) { children[slot] = Digest.hash([UInt8(slot)]) }
    return TreeNode(level: level, children: children).encoded()
}
