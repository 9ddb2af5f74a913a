public import Codecs

/// A node: the ids of 256 chunks, or of 256 nodes of the level below.
public struct TreeNode: Hashable, Sendable {
    static let prefix = Array("godwit node 1\n".utf8)

    /// 1 for the parents of chunks.
    public let level: Int
    /// Always 256; ``Digest/zero`` where there is nothing but zeros.
    public internal(set) var children: [Digest]

    /// A node without content.
    public init(level: Int) {
        precondition((1...Self.levelMax).contains(level), "node level \(level)")
        self.level = level
        children = Array(repeating: .zero, count: TreeShape.fanOut)
    }

    /// - Precondition: there are 256 children.
    public init(level: Int, children: [Digest]) {
        precondition((1...Self.levelMax).contains(level) && children.count == TreeShape.fanOut, "256 children")
        self.level = level
        self.children = children
    }

    /// Enough for 2^62 bytes in the smallest chunks.
    public static let levelMax = 7
    /// Length of the longest encoded node.
    public static let encodedMax = 1 + TreeShape.fanOut / 8 + TreeShape.fanOut * Digest.byteCount

    public var isEmpty: Bool { children.allSatisfy(\.isZero) }

    /// The stored form: level (1 byte), which children have content (a bit each, from the least significant up, 32
    /// bytes), and their ids. A node has exactly one form.
    public func encoded() -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 1 + TreeShape.fanOut / 8)
        bytes.reserveCapacity(Self.encodedMax)
        bytes[0] = UInt8(level)
        for (slot, child) in children.enumerated() where !child.isZero {
            bytes[1 + slot >> 3] |= 1 << UInt8(slot & 7)
            bytes += child.bytes
        }
        return bytes
    }

    /// Parses the form of ``encoded()``; nothing else is accepted, so equal nodes have equal bytes.
    public init(parsing bytes: [UInt8], level expected: Int) throws(FieldError) {
        let mapCount = TreeShape.fanOut / 8
        guard bytes.count > 1 + mapCount else { throw FieldError("the tree node is cut off", at: bytes.count) }
        guard bytes[0] == UInt8(truncatingIfNeeded: expected), (1...Self.levelMax).contains(expected) else {
            throw FieldError("the tree node has level \(bytes[0]), not \(expected)", at: 0)
        }
        let present = bytes[1...mapCount].reduce(0) { $0 + $1.nonzeroBitCount }
        guard present > 0, bytes.count == 1 + mapCount + present * Digest.byteCount else {
            throw FieldError(
                "the tree node has \(bytes.count) bytes, which is not right for \(present) children", at: 1)
        }
        self.init(level: expected)
        var position = 1 + mapCount
        for slot in 0..<TreeShape.fanOut where bytes[1 + slot >> 3] & 1 << UInt8(slot & 7) != 0 {
            let id = unsafe bytes.withUnsafeBytes { unsafe Digest(loading: $0, at: position) }
            guard !id.isZero else { throw FieldError("the tree node names an empty child", at: position) }
            children[slot] = id
            position += Digest.byteCount
        }
    }

    /// Identity of an encoded node.
    public static func id(ofEncoded bytes: [UInt8]) -> Digest { Digest.hash(prefix: prefix, bytes) }

    /// The id of this node; ``Digest/zero`` when it has no content.
    public var id: Digest { isEmpty ? .zero : Self.id(ofEncoded: encoded()) }

    /// The id of a node of `level` over `children`.
    public static func nodeID(level: Int, children: [Digest]) -> Digest {
        TreeNode(level: level, children: children).id
    }
}
