/// A run of bytes on a device or in a file. `offset + count` never overflows.
public struct ByteRange: Hashable, Sendable, CustomStringConvertible {
    public let offset: UInt64
    /// Length in bytes; may be 0.
    public let count: UInt64

    /// - Precondition: `offset + count` fits in 64 bits; use ``init(checking:count:)`` for numbers from outside.
    public init(offset: UInt64, count: UInt64) {
        precondition(!offset.addingReportingOverflow(count).overflow, "a byte range must end below 2^64")
        self.offset = offset
        self.count = count
    }

    /// The range, or `nil` when it would end beyond 2^64: for numbers from a disk, a peer or a user.
    public init?(checking offset: UInt64, count: UInt64) {
        guard !offset.addingReportingOverflow(count).overflow else { return nil }
        self.offset = offset
        self.count = count
    }

    /// First byte after the range.
    public var end: UInt64 { offset + count }
    public var isEmpty: Bool { count == 0 }
    public var description: String { "[\(offset), \(end))" }

    public func contains(_ other: ByteRange) -> Bool { other.offset >= offset && other.end <= end }

    /// The bytes in both ranges; empty (at the larger offset) when they do not meet.
    public func intersection(_ other: ByteRange) -> ByteRange {
        let start = max(offset, other.offset)
        return ByteRange(offset: start, count: max(min(end, other.end), start) - start)
    }

    /// The smallest range of whole `unit`s that covers this one.
    /// - Precondition: `unit` is a power of two, and the aligned end fits in 64 bits.
    public func alignedOutward(to unit: UInt64) -> ByteRange {
        let start = offset & ~(unit - 1)
        return ByteRange(offset: start, count: end.roundedUp(toMultipleOf: unit) - start)
    }

    /// The largest range of whole `unit`s inside this one; empty when there is none.
    /// - Precondition: `unit` is a power of two.
    public func alignedInward(to unit: UInt64) -> ByteRange {
        let start = offset.roundedUp(toMultipleOf: unit)
        let end = self.end & ~(unit - 1)
        return ByteRange(offset: min(start, self.end), count: end > start ? end - start : 0)
    }
}

extension FixedWidthInteger where Self: UnsignedInteger {
    /// The next multiple of `unit`, a power of two. Traps on overflow: check numbers from outside first.
    public func roundedUp(toMultipleOf unit: Self) -> Self {
        precondition(unit.isPowerOfTwo, "the unit must be a power of two")
        return (self + (unit - 1)) & ~(unit - 1)
    }

    /// How many `unit`s are needed to hold this many. Never overflows.
    public func dividedRoundingUp(by unit: Self) -> Self {
        let (quotient, remainder) = quotientAndRemainder(dividingBy: unit)
        return quotient + (remainder == 0 ? 0 : 1)
    }

    public var isPowerOfTwo: Bool { nonzeroBitCount == 1 }
}
