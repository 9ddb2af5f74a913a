public import Geometry

/// The header of an image. A value exists only if its fields agree with each other and with the file.
public struct ImageHeader: Hashable, Sendable {
    public static let byteCount = HeaderFields.byteCount
    /// The smallest file that Debian's tools open.
    public static let fileBytesMin: UInt64 = 4096

    public private(set) var fields: HeaderFields
    public let clusterSize: ClusterSize

    public var version: ImageVersion { fields.version }
    /// Virtual clusters: BAT entries in use. At least 1.
    public var clusterCount: UInt32 { fields.clusterCount }
    /// Size of the device in sectors; other software makes sizes that are no multiple of the cluster.
    public var sectorCount: UInt64 { fields.sectorCount }
    /// Size of the device in bytes.
    public var byteCount: UInt64 { fields.sectorCount * sectorBytes }
    public var inUse: InUseMark {
        get { fields.inUse }
        set { fields.inUse = newValue }
    }
    public var flags: ImageFlags {
        get { fields.flags }
        set { fields.flags = newValue }
    }
    /// Sector of the Format Extension's cluster, or 0. Not checked against the file.
    public var extensionSector: UInt64 {
        get { fields.extensionSector }
        set { fields.extensionSector = newValue }
    }
    /// First data sector, a multiple of the cluster.
    public var firstDataSector: UInt32 { fields.firstDataSector }
    /// Number in the file of the first cluster that can hold data; header and BAT are below it.
    public var firstDataCluster: UInt64 { UInt64(fields.firstDataSector) / UInt64(clusterSize.sectors) }
    public var bat: BatGeometry { BatGeometry(self) }

    /// Checks all of the format's rules that concern the header alone.
    /// - Parameters:
    ///   - bytes: the first 64 bytes of the file (more is ignored).
    ///   - fileBytes: size of the file.
    public init(parsing bytes: RawSpan, fileBytes: UInt64) throws(ImageError) {
        try self.init(checking: HeaderFields(parsing: bytes), fileBytes: fileBytes)
    }

    public init(parsing bytes: [UInt8], fileBytes: UInt64) throws(ImageError) {
        try unsafe self.init(parsing: bytes.span.bytes, fileBytes: fileBytes)
    }

    /// Checks fields that were read already.
    public init(checking fields: HeaderFields, fileBytes: UInt64) throws(ImageError) {
        typealias Offset = HeaderFields.Offset
        guard let clusterSize = ClusterSize(sectors: fields.clusterSectors) else {
            throw ImageError(
                .unsupported, "a cluster of \(fields.clusterSectors) sectors is not a power of two from 64 to 131072",
                at: Offset.clusterSectors)
        }
        guard fields.sectorCount > 0 else {
            throw ImageError(.corrupt, "the device has no size", at: Offset.sectorCount)
        }
        guard fields.sectorCount <= fields.version.sectorCountMax(clusterSectors: clusterSize.sectors) else {
            throw ImageError(.corrupt, "a device of \(fields.sectorCount) sectors is too large", at: Offset.sectorCount)
        }
        let needed = fields.sectorCount.dividedRoundingUp(by: UInt64(clusterSize.sectors))
        guard UInt64(fields.clusterCount) == needed else {
            throw ImageError(
                .corrupt,
                "\(fields.clusterCount) clusters, but a device of \(fields.sectorCount) sectors has \(needed)",
                at: Offset.clusterCount)
        }
        let first = fields.firstDataSector
        guard first != 0, first % clusterSize.sectors == 0 else {
            throw ImageError(
                .corrupt, "the first data sector \(first) is not a multiple of the cluster", at: Offset.firstDataSector)
        }
        let dataStart = UInt64(first) * sectorBytes
        guard dataStart >= BatGeometry.byteOffset(ofEntry: UInt64(fields.clusterCount)) else {
            throw ImageError(
                .corrupt, "the first data sector \(first) lies inside the block table", at: Offset.firstDataSector)
        }
        guard fileBytes >= max(dataStart, Self.fileBytesMin) else {
            throw ImageError(
                .truncated, "the file ends at byte \(fileBytes), before its data area at \(dataStart)",
                at: Int(clamping: fileBytes))
        }
        if fields.flags.contains(.versionConversion), !fields.inUse.isClean {
            throw ImageError(
                .unsupported, "a version conversion was interrupted; finish it with the tool that began it",
                at: Offset.flags)
        }
        self.fields = fields
        self.clusterSize = clusterSize
    }

    /// The header of a new, empty image. A device whose size is no multiple of the cluster has part of its last one.
    /// - Throws: `.invalid` when the version can't describe a device of that size.
    public init(version: ImageVersion, sectorCount: UInt64, clusterSize: ClusterSize) throws(ImageError) {
        _ = try Self.roundedSize(sectorCount, version: version, clusterSize: clusterSize)
        let clusterCount = UInt32(
            truncatingIfNeeded: sectorCount.dividedRoundingUp(by: UInt64(clusterSize.sectors)))
        let (cylinders, heads) = Self.cylindersAndHeads(sectors: sectorCount)
        fields = HeaderFields(
            version: version, heads: heads, cylinders: cylinders, clusterSectors: clusterSize.sectors,
            clusterCount: clusterCount, sectorCount: sectorCount,
            firstDataSector: Self.firstDataSector(clusterCount: clusterCount, clusterSize: clusterSize), flags: .empty)
        self.clusterSize = clusterSize
    }

    /// Makes the device larger. The data area moves up when the block table needs it; it never moves down.
    /// - Throws: `.invalid` when the version can't describe a device of that size, or the device would shrink.
    public mutating func grow(toSectors sectorCount: UInt64) throws(ImageError) {
        let sectors = try Self.roundedSize(sectorCount, version: version, clusterSize: clusterSize)
        guard sectors >= self.sectorCount else {
            throw ImageError(.invalid, "the device can't shrink from \(self.sectorCount) to \(sectors) sectors")
        }
        let clusterCount = UInt32(truncatingIfNeeded: sectors / UInt64(clusterSize.sectors))
        let (cylinders, heads) = Self.cylindersAndHeads(sectors: sectors)
        fields.clusterCount = clusterCount
        fields.sectorCount = sectors
        fields.heads = heads
        fields.cylinders = cylinders
        fields.firstDataSector = max(
            fields.firstDataSector, Self.firstDataSector(clusterCount: clusterCount, clusterSize: clusterSize))
    }

    /// The 64 bytes that parse to this value.
    public func encode() -> [UInt8] { fields.encode() }

    private static func roundedSize(
        _ sectorCount: UInt64, version: ImageVersion, clusterSize: ClusterSize
    ) throws(ImageError) -> UInt64 {
        let limit = version.sectorCountMax(clusterSectors: clusterSize.sectors)
        guard sectorCount > 0 else { throw ImageError(.invalid, "a device needs a size") }
        guard sectorCount <= limit, sectorCount.roundedUp(toMultipleOf: UInt64(clusterSize.sectors)) <= limit else {
            let hint = version == .v1 ? "; use version 2" : "; use larger clusters"
            throw ImageError(
                .invalid,
                "\(sectorCount) sectors are too many for a version \(version.rawValue) image with clusters of "
                    + "\(SizeText.format(clusterSize.bytes))\(hint)")
        }
        return sectorCount.roundedUp(toMultipleOf: UInt64(clusterSize.sectors))
    }

    private static func firstDataSector(clusterCount: UInt32, clusterSize: ClusterSize) -> UInt32 {
        let clusters = BatGeometry.headerClusters(clusterCount: clusterCount, clusterSize: clusterSize)
        // At most 16 GiB and a cluster: far below 2^32 sectors.
        return UInt32(truncatingIfNeeded: clusters * UInt64(clusterSize.sectors))
    }

    /// Informational disk geometry, as ploop's tools compute it.
    static func cylindersAndHeads(sectors: UInt64) -> (cylinders: UInt32, heads: UInt32) {
        if sectors > 1_032_192, sectors < 16_777_216 { return (UInt32(sectors / 1008), 16) }
        if let perTrack = [63, 32, 16, 8].first(where: { sectors % $0 == 0 }) {
            let tracks = sectors / perTrack
            if let heads = [16, 8, 4, 2].first(where: { tracks % $0 == 0 }) {
                return (UInt32(truncatingIfNeeded: tracks / heads), UInt32(heads))
            }
        }
        return (UInt32(truncatingIfNeeded: sectors), 1)
    }
}
