public import Geometry

/// What a BAT entry says.
public enum BatEntry: Hashable, Sendable {
    /// Not in this delta: the one below it counts, and zeros below the base.
    case unallocated
    /// Number of the data cluster in the file. It lies in the data area and wholly inside the file.
    case cluster(UInt64)
    case invalid(Fault)

    public enum Fault: String, Hashable, Sendable, CaseIterable {
        /// A version 1 entry that is no multiple of the cluster.
        case misaligned
        /// It points into the header or the BAT.
        case beforeData
        /// The cluster ends behind the end of the file.
        case beyondFile
    }
}

/// Where a BAT lies and how its entries are coded. The BAT follows the header: the entry of virtual cluster `c` is the
/// little-endian 32-bit number at byte `64 + 4 * c` of the file.
public struct BatGeometry: Hashable, Sendable {
    public static let entryBytes: UInt64 = 4
    /// So many clusters of a file can be pointed to at most, whatever its size.
    public static let fileClustersMax: UInt64 = 1 << 32

    public let version: ImageVersion
    public let clusterSize: ClusterSize
    /// Virtual clusters.
    public let clusterCount: UInt32
    /// Number in the file of the first cluster that can hold data.
    public let firstDataCluster: UInt64

    public init(_ header: ImageHeader) {
        version = header.version
        clusterSize = header.clusterSize
        clusterCount = header.clusterCount
        firstDataCluster = header.firstDataCluster
    }

    /// Byte in the file of a virtual cluster's entry.
    public static func byteOffset(ofEntry cluster: UInt64) -> UInt64 {
        UInt64(HeaderFields.byteCount) + entryBytes * cluster
    }

    /// File clusters that header and BAT of a device of that many virtual clusters take.
    public static func headerClusters(clusterCount: UInt32, clusterSize: ClusterSize) -> UInt64 {
        byteOffset(ofEntry: UInt64(clusterCount)).dividedRoundingUp(by: clusterSize.bytes)
    }

    /// Byte in the file of a virtual cluster's entry.
    public func byteOffset(ofEntry cluster: UInt32) -> UInt64 { Self.byteOffset(ofEntry: UInt64(cluster)) }
    /// First byte in the file after the last entry in use.
    public var endOffset: UInt64 { Self.byteOffset(ofEntry: UInt64(clusterCount)) }
    /// First byte in the file after the area of header and BAT; what follows ``endOffset`` in it is zero.
    public var areaBytes: UInt64 { clusterSize.offset(of: firstDataCluster) }
    /// Entries for which the area has room: those at `clusterCount` and above must be 0.
    public var slotCount: UInt64 { (areaBytes - UInt64(HeaderFields.byteCount)) / Self.entryBytes }

    /// Number of the page of `pageBytes` (a power of two, at least 64) in the file that holds the entry. Page 0 starts
    /// with the header.
    public func page(ofEntry cluster: UInt32, pageBytes: UInt64) -> UInt64 { byteOffset(ofEntry: cluster) / pageBytes }

    /// Virtual clusters whose entries stand in a page; empty when the page holds none.
    public func entries(inPage page: UInt64, pageBytes: UInt64) -> Range<UInt32> {
        let (start, overflow) = page.multipliedReportingOverflow(by: pageBytes)
        guard !overflow, start < endOffset else { return clusterCount..<clusterCount }
        let headerBytes = UInt64(HeaderFields.byteCount)
        let first = max(start, headerBytes) - headerBytes
        let end = min(start + pageBytes, endOffset) - headerBytes
        return UInt32(first / Self.entryBytes)..<UInt32(end / Self.entryBytes)
    }

    /// What a raw entry says in a file of `fileBytes`.
    @inlinable
    public func decode(_ raw: UInt32, fileBytes: UInt64) -> BatEntry {
        if raw == 0 { return .unallocated }
        var cluster = UInt64(raw)
        if version == .v1 {
            guard raw & (clusterSize.sectors - 1) == 0 else { return .invalid(.misaligned) }
            cluster = UInt64(raw / clusterSize.sectors)
        }
        guard cluster >= firstDataCluster else { return .invalid(.beforeData) }
        // At most 2^32 clusters of 2^26 bytes: no overflow.
        guard clusterSize.offset(of: cluster + 1) <= fileBytes else { return .invalid(.beyondFile) }
        return .cluster(cluster)
    }

    /// The raw entry that points to a data cluster of the file, or `nil` when the version can't express it.
    @inlinable
    public func encode(_ cluster: UInt64) -> UInt32? {
        let (value, overflow) = cluster.multipliedReportingOverflow(
            by: version == .v1 ? UInt64(clusterSize.sectors) : 1)
        // All ones is the marker of "no cluster" inside the original driver.
        guard !overflow, value < UInt64(UInt32.max) else { return nil }
        return UInt32(truncatingIfNeeded: value)
    }
}
