public import Codecs

/// A tree in a store: its top node's id and what it is over.
public struct TreeRoot: Hashable, Sendable {
    public let top: Digest
    public let shape: TreeShape
    public init(top: Digest, shape: TreeShape) {
        self.top = top
        self.shape = shape
    }
    /// A device of zeros.
    public static func empty(_ shape: TreeShape) -> TreeRoot { TreeRoot(top: .zero, shape: shape) }

    public var digest: Digest { RootDigest.of(byteCount: shape.byteCount, chunkBytes: shape.chunkBytes, top: top) }
}

/// Makes the next tree from the previous one and the chunks that changed, in ascending order. It reads and makes only
/// the nodes above changed chunks, and holds one node a level.
public struct TreeUpdater<Failure: Error> {
    /// Gets a node of the previous tree. It must have checked that the bytes have that id.
    public typealias Reader = (_ id: Digest, _ level: Int) throws(Failure) -> TreeNode
    /// Takes a node that the previous tree does not have at this place, children always before their parents.
    public typealias Emitter = (_ id: Digest, _ node: TreeNode) throws(Failure) -> Void

    private struct Open {
        var node: TreeNode
        /// Which of its level's nodes it is.
        let index: UInt64
        /// What it was; it is emitted only when it is something else now.
        let previous: Digest
        var isChanged: Bool
    }

    private let base: TreeRoot
    private let shape: TreeShape
    private let read: Reader
    private let emit: Emitter
    /// Nodes on the way from the top to the last set chunk; the first is the top.
    private var path: [Open] = []
    private var next: UInt64 = 0

    /// - Precondition: the previous tree has the same chunk size and is not over more chunks: a device never shrinks.
    public init(from base: TreeRoot, to shape: TreeShape, read: @escaping Reader, emit: @escaping Emitter) {
        precondition(base.shape.chunkBytes == shape.chunkBytes, "one chunk size")
        precondition(base.shape.chunkCount <= shape.chunkCount, "a device does not shrink")
        self.base = base
        self.shape = shape
        self.read = read
        self.emit = emit
        // A higher tree has the old top at its far left; those parents are new whatever changes below.
        if !base.top.isZero, shape.height > base.shape.height {
            for level in stride(from: shape.height, to: base.shape.height, by: -1) {
                path.append(Open(node: TreeNode(level: level), index: 0, previous: .zero, isChanged: true))
            }
            path[path.count - 1].node.children[0] = base.top
        }
    }

    /// Sets a chunk's id. - Precondition: indices ascend and are below the shape's chunk count.
    public mutating func set(_ index: UInt64, _ id: Digest) throws(Failure) {
        precondition(index >= next && index < shape.chunkCount, "chunks in ascending order")
        next = index + 1
        while let last = path.last, last.index != index >> (TreeShape.fanOutShift * UInt64(last.node.level)) {
            try closeLast()
        }
        try open(downTo: index)
        let slot = Int(index & 255)
        let last = path.count - 1
        if path[last].node.children[slot] != id {
            path[last].node.children[slot] = id
            path[last].isChanged = true
        }
    }

    /// Ends the update. - Returns: the new tree. Not to be used after that.
    public mutating func finish() throws(Failure) -> TreeRoot {
        guard !path.isEmpty else { return TreeRoot(top: base.top, shape: shape) }
        while path.count > 1 { try closeLast() }
        let top = path.removeLast()
        return TreeRoot(top: try close(top), shape: shape)
    }

    private mutating func open(downTo index: UInt64) throws(Failure) {
        if path.isEmpty { path.append(try opened(base.top, level: shape.height, index: 0)) }
        while let last = path.last, last.node.level > 1 {
            let level = last.node.level - 1
            let own = index >> (TreeShape.fanOutShift * UInt64(level))
            path.append(try opened(last.node.children[Int(own & 255)], level: level, index: own))
        }
    }

    private func opened(_ id: Digest, level: Int, index: UInt64) throws(Failure) -> Open {
        Open(
            node: id.isZero ? TreeNode(level: level) : try read(id, level), index: index, previous: id, isChanged: false
        )
    }

    private mutating func closeLast() throws(Failure) {
        let child = path.removeLast()
        let id = try close(child)
        let parent = path.count - 1
        let slot = Int(child.index & 255)
        if path[parent].node.children[slot] != id {
            path[parent].node.children[slot] = id
            path[parent].isChanged = true
        }
    }

    private func close(_ open: Open) throws(Failure) -> Digest {
        guard open.isChanged else { return open.previous }
        let id = open.node.id
        if id != open.previous, !id.isZero { try emit(id, open.node) }
        return id
    }
}
