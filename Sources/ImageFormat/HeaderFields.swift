internal import Codecs

/// The header's fields as they stand in the file, with nothing checked but magic, type and reserved bits: what a reader
/// of other software's images starts from. ``ImageHeader`` is the checked form.
public struct HeaderFields: Hashable, Sendable {
    public static let byteCount = 64

    /// Where each field stands in the file.
    public enum Offset {
        public static let type = 16
        public static let heads = 20
        public static let cylinders = 24
        public static let clusterSectors = 28
        public static let clusterCount = 32
        public static let sectorCount = 36
        public static let inUse = 44
        public static let firstDataSector = 48
        public static let flags = 52
        public static let extensionSector = 56
    }

    public var version: ImageVersion
    public var heads: UInt32
    public var cylinders: UInt32
    public var clusterSectors: UInt32
    /// Virtual clusters: BAT entries in use.
    public var clusterCount: UInt32
    /// Size of the device in sectors.
    public var sectorCount: UInt64
    public var inUse: InUseMark
    public var firstDataSector: UInt32
    public var flags: ImageFlags
    /// Sector of the Format Extension's cluster, or 0.
    public var extensionSector: UInt64

    init(
        version: ImageVersion, heads: UInt32, cylinders: UInt32, clusterSectors: UInt32, clusterCount: UInt32,
        sectorCount: UInt64, firstDataSector: UInt32, flags: ImageFlags
    ) {
        self.version = version
        self.heads = heads
        self.cylinders = cylinders
        self.clusterSectors = clusterSectors
        self.clusterCount = clusterCount
        self.sectorCount = sectorCount
        self.inUse = .closed
        self.firstDataSector = firstDataSector
        self.flags = flags
        self.extensionSector = 0
    }

    /// - Parameter bytes: the first 64 bytes of the file (more is ignored).
    public init(parsing bytes: RawSpan) throws(ImageError) {
        do {
            var fields = FieldReader(bytes)
            guard fields.remaining >= 16 else {
                throw ImageError(.notAnImage, "no ploop image: the file has \(fields.remaining) bytes", at: 0)
            }
            let magic = try fields.bytes("magic", count: 16)
            guard let version = ImageVersion(magic: magic) else {
                throw ImageError(.notAnImage, "no ploop image: the file does not start with a ploop magic", at: 0)
            }
            self.version = version
            let type = try fields.next("type", as: UInt32.self)
            guard type == 2 else { throw ImageError(.unsupported, "image type \(type) instead of 2", at: Offset.type) }
            heads = try fields.next("heads")
            cylinders = try fields.next("cylinders")
            clusterSectors = try fields.next("cluster size")
            clusterCount = try fields.next("cluster count")
            sectorCount = try fields.next("device size")
            if version == .v1, sectorCount > UInt64(UInt32.max) {
                throw ImageError(.corrupt, "the reserved word behind a version 1 image's size is not zero", at: 40)
            }
            inUse = InUseMark(rawValue: try fields.next("in-use mark"))
            firstDataSector = try fields.next("first data sector")
            flags = ImageFlags(rawValue: try fields.next("flags"))
            extensionSector = try fields.next("extension offset")
        } catch let error as FieldError {
            throw ImageError(error)
        } catch let error as ImageError {
            throw error
        } catch {
            throw ImageError(.corrupt, "\(error)")
        }
    }

    public init(parsing bytes: [UInt8]) throws(ImageError) {
        try unsafe self.init(parsing: bytes.span.bytes)
    }

    /// The 64 bytes that parse to this value.
    public func encode() -> [UInt8] {
        var bytes = version.magic
        bytes.reserveCapacity(Self.byteCount)
        bytes.append(littleEndian: UInt32(2))
        bytes.append(littleEndian: heads)
        bytes.append(littleEndian: cylinders)
        bytes.append(littleEndian: clusterSectors)
        bytes.append(littleEndian: clusterCount)
        bytes.append(littleEndian: sectorCount)
        bytes.append(littleEndian: inUse.rawValue)
        bytes.append(littleEndian: firstDataSector)
        bytes.append(littleEndian: flags.rawValue)
        bytes.append(littleEndian: extensionSector)
        return bytes
    }
}
