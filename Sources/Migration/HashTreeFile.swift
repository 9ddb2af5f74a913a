public import BlockIO
public import ChunkTree
public import Codecs
internal import Geometry
internal import LinuxSystem

/// The hash tree of a disk that changes, in a sparse file: never whole in memory, and only what changed is hashed
/// again.
///
/// Two copies of a disk are compared by it without reading either a second time. The file is working space: nothing in
/// it has to survive a crash. For one thread at a time.
public final class HashTreeFile {
    public let shape: TreeShape
    private let file: any StorageFile
    /// Number of nodes and file offset of each level's first; index 0 is level 1.
    private let counts: [UInt64]
    private let offsets: [UInt64]
    /// A bit for each node of a level whose own id has to be computed again.
    private var stale: [[UInt64]]
    private var cache: [Key: CachedNode] = [:]
    private let cachedMax: Int

    private struct Key: Hashable {
        var level: Int
        var index: UInt64
    }
    private struct CachedNode {
        var children: [Digest]
        var isDirty: Bool
    }
    private static let nodeBytes = UInt64(TreeShape.fanOut * Digest.byteCount)
    /// Disks for which a bit for each 256 chunks is no burden.
    public static let byteCountMax: UInt64 = 1 << 50

    /// - Parameter file: new and empty: a disk of zeros.
    /// - Precondition: the disk has at most ``byteCountMax`` bytes.
    public init(_ file: any StorageFile, shape: TreeShape, cachedMax: Int = 1024) {
        precondition(shape.byteCount <= Self.byteCountMax, "a disk that a hash tree is kept for")
        self.file = file
        self.shape = shape
        self.cachedMax = max(cachedMax, shape.height)
        var counts: [UInt64] = []
        var offsets: [UInt64] = []
        var next: UInt64 = 0
        for level in 1...shape.height {
            let count = max(shape.chunkCount.dividedRoundingUp(by: TreeShape.capacity(of: level)), 1)
            counts.append(count)
            offsets.append(next)
            next += count * Self.nodeBytes
        }
        self.counts = counts
        self.offsets = offsets
        stale = counts.map { Array(repeating: 0, count: Int($0.dividedRoundingUp(by: 64))) }
    }

    /// The id of a chunk. - Precondition: there is such a chunk.
    public func leaf(_ index: UInt64) throws(MigrationError) -> Digest {
        precondition(index < shape.chunkCount, "a chunk of the disk")
        return try node(1, index >> 8).children[Int(index & 255)]
    }

    /// - Returns: whether that is another id than before.
    @discardableResult
    public func setLeaf(_ index: UInt64, _ id: Digest) throws(MigrationError) -> Bool {
        precondition(index < shape.chunkCount, "a chunk of the disk")
        return try set(level: 1, index >> 8, slot: Int(index & 255), id)
    }

    /// Sets all chunks in `range` to zeros, at a cost of what has content there.
    public func clear(_ range: Range<UInt64>) throws(MigrationError) {
        var index = range.lowerBound
        while let next = try nextContent(from: index), next < range.upperBound {
            try setLeaf(next, .zero)
            index = next + 1
        }
    }

    /// The first chunk at or after `index` that is not all zeros.
    public func nextContent(from index: UInt64) throws(MigrationError) -> UInt64? {
        var parent = index >> 8
        var slot = Int(index & 255)
        while parent < counts[0] {
            if let known = cache[Key(level: 1, index: parent)] {
                if let found = known.children[slot...].firstIndex(where: { !$0.isZero }) {
                    return parent << 8 | UInt64(found)
                }
                parent += 1
            } else {
                guard let stored = try nextStored(from: parent) else { return nil }
                if stored == parent, let found = try node(1, parent).children[slot...].firstIndex(where: { !$0.isZero })
                {
                    return parent << 8 | UInt64(found)
                }
                parent = stored == parent ? parent + 1 : stored
            }
            slot = 0
        }
        return nil
    }

    /// The digest of the disk's whole content; hashes the nodes above what changed since the last call.
    public func root() throws(MigrationError) -> Digest {
        for level in 1..<max(shape.height, 1) {
            for word in stale[level - 1].indices {
                while stale[level - 1][word] != 0 {
                    let bit = stale[level - 1][word].trailingZeroBitCount
                    stale[level - 1][word] &= stale[level - 1][word] &- 1
                    let index = UInt64(word * 64 + bit)
                    let id = TreeNode.nodeID(level: level, children: try node(level, index).children)
                    _ = try set(level: level + 1, index >> 8, slot: Int(index & 255), id)
                }
            }
        }
        let top = TreeNode.nodeID(level: shape.height, children: try node(shape.height, 0).children)
        return RootDigest.of(byteCount: shape.byteCount, chunkBytes: shape.chunkBytes, top: top)
    }

    // MARK: nodes

    private func set(level: Int, _ index: UInt64, slot: Int, _ id: Digest) throws(MigrationError) -> Bool {
        guard try node(level, index).children[slot] != id else { return false }
        let key = Key(level: level, index: index)
        cache[key]?.children[slot] = id
        cache[key]?.isDirty = true
        stale[level - 1][Int(index / 64)] |= 1 << (index % 64)
        return true
    }

    private func node(_ level: Int, _ index: UInt64) throws(MigrationError) -> CachedNode {
        let key = Key(level: level, index: index)
        if let known = cache[key] { return known }
        if cache.count >= cachedMax { try writeBack() }
        let offset = offsets[level - 1] + index * Self.nodeBytes
        let bytes = try at(.source) { () throws(SystemError) in
            try file.readBytes(at: offset, count: Int(Self.nodeBytes))
        }
        let children = unsafe bytes.withUnsafeBytes { memory in
            (0..<TreeShape.fanOut).map { unsafe Digest(loading: memory, at: $0 * Digest.byteCount) }
        }
        let made = CachedNode(children: children, isDirty: false)
        cache[key] = made
        return made
    }

    /// Writes what changed to the file and starts with an empty cache.
    private func writeBack() throws(MigrationError) {
        for (key, entry) in cache where entry.isDirty {
            var bytes: [UInt8] = []
            bytes.reserveCapacity(Int(Self.nodeBytes))
            for child in entry.children { bytes += child.bytes }
            let offset = offsets[key.level - 1] + key.index * Self.nodeBytes
            try at(.source) { () throws(SystemError) in try file.writeBytes(bytes, at: offset) }
        }
        cache.removeAll(keepingCapacity: true)
    }

    /// The first bottom node at or after `parent` that is in the cache or may have content in the file.
    private func nextStored(from parent: UInt64) throws(MigrationError) -> UInt64? {
        let cached = cache.keys.lazy.filter { $0.level == 1 && $0.index >= parent }.map(\.index).min()
        let data = try at(.source) { () throws(SystemError) in
            try file.nextData(from: offsets[0] + parent * Self.nodeBytes)
        }
        let stored = data.map { max(parent, ($0.offset - offsets[0]) / Self.nodeBytes) }.flatMap {
            $0 < counts[0] ? $0 : nil
        }
        guard let stored else { return cached }
        return cached.map { min($0, stored) } ?? stored
    }
}
