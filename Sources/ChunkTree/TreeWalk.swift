public import Codecs

extension TreeRoot {
    /// Chunks with content in `range`, ascending. Subtrees of zeros are not looked at.
    /// - Parameter body: returns `false` to stop.
    /// - Returns: whether it went to the end.
    @discardableResult
    public func forEachChunk<Failure: Error>(
        in range: Range<UInt64>? = nil, read: TreeUpdater<Failure>.Reader,
        _ body: (_ index: UInt64, _ id: Digest) throws(Failure) -> Bool
    ) throws(Failure) -> Bool {
        let empty = TreeRoot(top: .zero, shape: shape)
        return try forEachDifference(from: empty, in: range, read: read) { (index, _, id) throws(Failure) in
            try body(index, id)
        }
    }

    /// Chunks in `range` that differ from an `older` tree's, ascending, with both ids. Looks only at what differs:
    /// equal subtrees cost nothing.
    /// - Parameter body: returns `false` to stop.
    /// - Returns: whether it went to the end.
    /// - Precondition: both have the same chunk size.
    @discardableResult
    public func forEachDifference<Failure: Error>(
        from older: TreeRoot, in range: Range<UInt64>? = nil, read: TreeUpdater<Failure>.Reader,
        _ body: (_ index: UInt64, _ old: Digest, _ new: Digest) throws(Failure) -> Bool
    ) throws(Failure) -> Bool {
        precondition(shape.chunkBytes == older.shape.chunkBytes, "one chunk size")
        let height = max(shape.height, older.shape.height)
        let count = max(shape.chunkCount, older.shape.chunkCount)
        let walk = Walk(
            range: (range ?? 0..<count).clamped(to: 0..<count), old: older, new: self)
        return try walk.visit(level: height, index: 0, Side(older, height), Side(self, height), read, body)
    }
}

/// A place in one of two trees: a stored node (or chunk), or the left spine above a lower tree's top.
private struct Side {
    var id: Digest
    var isSpine: Bool

    init(_ id: Digest) {
        self.id = id
        isSpine = false
    }

    init(_ root: TreeRoot, _ height: Int) {
        id = root.top
        isSpine = root.shape.height < height && !root.top.isZero
    }

    func children<Failure: Error>(
        level: Int, of root: TreeRoot, _ read: TreeUpdater<Failure>.Reader
    ) throws(Failure) -> [Digest]? {
        if id.isZero || isSpine { return nil }
        return try read(id, level).children
    }

    func child(_ slot: Int, _ children: [Digest]?, level: Int, of root: TreeRoot) -> Side {
        if let children { return Side(children[slot]) }
        guard isSpine, slot == 0 else { return Side(.zero) }
        return Side(root, level - 1)
    }
}

private struct Walk {
    let range: Range<UInt64>
    let old: TreeRoot
    let new: TreeRoot

    func visit<Failure: Error>(
        level: Int, index: UInt64, _ a: Side, _ b: Side, _ read: TreeUpdater<Failure>.Reader,
        _ body: (UInt64, Digest, Digest) throws(Failure) -> Bool
    ) throws(Failure) -> Bool {
        if a.id == b.id, a.isSpine == b.isSpine { return true }
        if level == 0 { return try body(index, a.id, b.id) }
        let below = level - 1
        let width = TreeShape.capacity(of: below)
        let first = index << TreeShape.fanOutShift
        let olds = try a.children(level: level, of: old, read)
        let news = try b.children(level: level, of: new, read)
        for slot in 0..<TreeShape.fanOut {
            let child = first + UInt64(slot)
            guard child * width < range.upperBound else { break }
            guard (child + 1) * width > range.lowerBound else { continue }
            let x = a.child(slot, olds, level: level, of: old)
            let y = b.child(slot, news, level: level, of: new)
            guard try visit(level: below, index: child, x, y, read, body) else { return false }
        }
        return true
    }
}
