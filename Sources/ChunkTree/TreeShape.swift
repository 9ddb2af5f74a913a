internal import Geometry

/// How many chunks a device has, and how high the tree over them is.
public struct TreeShape: Hashable, Sendable {
    /// Children of a node.
    public static let fanOut = 256
    static let fanOutShift: UInt64 = 8

    /// The chunk size unless a store or a peer says otherwise. Measured: godwit-store(5) has the table.
    public static let chunkBytesStandard: UInt32 = 65536
    /// Sizes that are accepted, powers of two.
    public static let chunkBytesRange: ClosedRange<UInt32> = 4096...1_048_576

    public let byteCount: UInt64
    public let chunkBytes: UInt32

    /// `nil` when the chunk size is not accepted, or the device has 2^62 bytes or more: for numbers from outside.
    public init?(checking byteCount: UInt64, chunkBytes: UInt32) {
        guard Self.chunkBytesRange.contains(chunkBytes), chunkBytes.isPowerOfTwo, byteCount < 1 << 62 else {
            return nil
        }
        self.byteCount = byteCount
        self.chunkBytes = chunkBytes
    }

    /// - Precondition: as for ``init(checking:chunkBytes:)``.
    public init(byteCount: UInt64, chunkBytes: UInt32 = chunkBytesStandard) {
        guard let shape = TreeShape(checking: byteCount, chunkBytes: chunkBytes) else {
            preconditionFailure("no tree over \(byteCount) bytes in chunks of \(chunkBytes)")
        }
        self = shape
    }

    /// Chunks, the last may be shorter than the others.
    public var chunkCount: UInt64 { byteCount.dividedRoundingUp(by: UInt64(chunkBytes)) }

    /// Level of the top node: at least 1; chunks are level 0.
    public var height: Int {
        var height = 1
        while Self.capacity(of: height) < chunkCount { height += 1 }
        return height
    }

    /// Chunks below a node of `level`.
    public static func capacity(of level: Int) -> UInt64 { 1 << (fanOutShift * UInt64(level)) }

    /// Length of chunk `index` on the device.
    public func length(of index: UInt64) -> Int {
        let start = index * UInt64(chunkBytes)
        return start >= byteCount ? 0 : Int(min(UInt64(chunkBytes), byteCount - start))
    }
}
