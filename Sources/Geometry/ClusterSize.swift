/// The number of bytes in one sector: always 512 in ploop images, also on hosts with 4 KiB sectors.
public let sectorBytes: UInt64 = 512

/// The size of a cluster, the unit of allocation in an image: a power of two from 32 KiB to 64 MiB.
public struct ClusterSize: Hashable, Sendable {
    /// Base-2 logarithm of the size in bytes: 15...26.
    public let shift: UInt32

    public static let standard = ClusterSize(validShift: 20)  // 1 MiB
    public static let smallest = ClusterSize(validShift: 15)
    public static let largest = ClusterSize(validShift: 26)

    private init(validShift: UInt32) { shift = validShift }

    /// The cluster size of that many bytes, or `nil` when it is none.
    public init?(bytes: UInt64) {
        let shift = UInt32(bytes.trailingZeroBitCount)
        guard bytes.isPowerOfTwo, (15...26).contains(shift) else { return nil }
        self.shift = shift
    }

    public init?(sectors: UInt32) { self.init(bytes: UInt64(sectors) * sectorBytes) }

    public var bytes: UInt64 { 1 << UInt64(shift) }
    public var byteCount: Int { 1 << Int(shift) }
    public var sectors: UInt32 { 1 << (shift - 9) }

    /// This size, or the largest smaller one of which `byteCount` is a multiple; this one where there is none.
    public func fitting(_ byteCount: UInt64) -> ClusterSize {
        let shift = UInt32(min(UInt64(byteCount.trailingZeroBitCount), UInt64(shift)))
        return ClusterSize(bytes: 1 << UInt64(shift)) ?? self
    }

    /// Number of the cluster that holds byte `offset`.
    public func cluster(at offset: UInt64) -> UInt64 { offset >> UInt64(shift) }
    /// Position of byte `offset` inside its cluster.
    public func remainder(of offset: UInt64) -> UInt64 { offset & (bytes - 1) }
    public func offset(of cluster: UInt64) -> UInt64 { cluster << UInt64(shift) }
}
