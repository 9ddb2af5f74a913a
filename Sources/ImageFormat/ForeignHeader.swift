internal import Geometry

/// The header of an image that is only read: also one that other software made with clusters of any size, or with a
/// data area that starts anywhere. ``ImageHeader`` is for images that are worked with.
public struct ForeignHeader: Hashable, Sendable {
    /// The largest cluster that any known writer makes; larger ones would only cost memory.
    public static let clusterSectorsMax: UInt32 = 1 << 20

    public let fields: HeaderFields
    public var clusterBytes: UInt64 { UInt64(fields.clusterSectors) * sectorBytes }
    /// Size of the device in bytes.
    public var byteCount: UInt64 { fields.sectorCount * sectorBytes }
    public var clusterCount: UInt32 { fields.clusterCount }
    /// First byte after the last entry of the block table in use.
    public var tableEnd: UInt64 { BatGeometry.byteOffset(ofEntry: UInt64(fields.clusterCount)) }

    /// - Parameters:
    ///   - bytes: the first 64 bytes of the file (more is ignored).
    ///   - fileBytes: size of the file.
    public init(parsing bytes: [UInt8], fileBytes: UInt64) throws(ImageError) {
        let fields = try HeaderFields(parsing: bytes)
        typealias Offset = HeaderFields.Offset
        guard (1...Self.clusterSectorsMax).contains(fields.clusterSectors) else {
            throw ImageError(
                .unsupported, "a cluster of \(fields.clusterSectors) sectors is not in 1...\(Self.clusterSectorsMax)",
                at: Offset.clusterSectors)
        }
        guard fields.sectorCount > 0 else {
            throw ImageError(.corrupt, "the device has no size", at: Offset.sectorCount)
        }
        let needed = fields.sectorCount.dividedRoundingUp(by: UInt64(fields.clusterSectors))
        guard needed == UInt64(fields.clusterCount) else {
            throw ImageError(
                .corrupt,
                "\(fields.clusterCount) clusters, but a device of \(fields.sectorCount) sectors has \(needed)",
                at: Offset.clusterCount)
        }
        let tableEnd = BatGeometry.byteOffset(ofEntry: UInt64(fields.clusterCount))
        guard fileBytes >= tableEnd else {
            throw ImageError(
                .truncated, "the file ends at byte \(fileBytes), inside its block table", at: Int(clamping: fileBytes))
        }
        if fields.flags.contains(.versionConversion), !fields.inUse.isClean {
            throw ImageError(
                .unsupported, "a version conversion was interrupted; finish it with the tool that began it",
                at: Offset.flags)
        }
        self.fields = fields
    }

    /// Byte in the file where the cluster of a raw entry starts, or `nil` when it is not allocated. Not checked against
    /// the file.
    public func offset(of raw: UInt32) -> UInt64? {
        guard raw != 0 else { return nil }
        return UInt64(raw) * (fields.version == .v1 ? sectorBytes : clusterBytes)
    }
}
