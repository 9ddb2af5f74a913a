/// The two layouts of an image: they differ in the unit of a BAT entry and in the width of the size.
public enum ImageVersion: Int, Hashable, Sendable, CaseIterable {
    /// Magic `WithoutFreeSpace`: BAT entries count sectors, devices are smaller than 2 TiB.
    case v1 = 1
    /// Magic `WithouFreSpacExt`: BAT entries count clusters.
    case v2 = 2

    /// The first 16 bytes of an image file.
    public var magic: [UInt8] {
        switch self {
        case .v1: [UInt8]("WithoutFreeSpace".utf8)
        case .v2: [UInt8]("WithouFreSpacExt".utf8)
        }
    }

    /// The version with that magic.
    public init?(magic: [UInt8]) {
        guard let found = Self.allCases.first(where: { $0.magic == magic }) else { return nil }
        self = found
    }

    /// The largest device in sectors that the version can describe.
    public func sectorCountMax(clusterSectors: UInt32) -> UInt64 {
        switch self {
        case .v1: UInt64(UInt32.max)
        case .v2: UInt64(UInt32.max) * UInt64(clusterSectors)
        }
    }
}

/// The header field that tells whether an image was closed.
public struct InUseMark: RawRepresentable, Hashable, Sendable {
    public var rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Closed. What we write on close: Debian's ploop takes every other value for "in use".
    public static let closed = InUseMark(rawValue: 0)
    /// Open for writing, or not closed: written and made durable before the first change.
    public static let open = InUseMark(rawValue: 0x746F_6E59)
    /// Closed by software that keeps the Format Extension up to date.
    public static let closedWithExtension = InUseMark(rawValue: 0x312E_3276)

    /// Whether the last writer closed the image.
    public var isClean: Bool { self == .closed || self == .closedWithExtension }
}

/// The header's flag bits. Unknown bits are kept.
public struct ImageFlags: OptionSet, Hashable, Sendable {
    public var rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// CIF_Empty: no data cluster is allocated. A hint only: not every writer maintains it.
    public static let empty = ImageFlags(rawValue: 1)
    /// CIF_FmtVersionConvert: a version conversion is under way.
    public static let versionConversion = ImageFlags(rawValue: 2)
}
