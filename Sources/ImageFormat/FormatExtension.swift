internal import Codecs
public import Geometry

/// The Format Extension: what newer software keeps in a cluster of its own beside the BAT. We keep none of it up to
/// date, so a writer reads it only to learn whether it may write at all, and then takes it out of the header.
public struct FormatExtension: Hashable, Sendable {
    public static let magic: UInt64 = 0xAB23_4CEF_23DC_EA87
    /// Bytes in front of the sections: magic and checksum.
    static let headBytes = 24
    private static let sectionHeadBytes = 24
    private static let sectionsMax = 4096

    /// One feature.
    public struct Section: Hashable, Sendable {
        public static let dirtyBitmapMagic: UInt64 = 0x2038_5FAE_252C_B34A
        public var magic: UInt64
        public var flags: UInt64
        public var data: [UInt8]

        public init(magic: UInt64, flags: UInt64, data: [UInt8]) {
            self.magic = magic
            self.flags = flags
            self.data = data
        }

        /// An image with a section of this kind must not be changed by software that can't load it.
        public var isNecessary: Bool { flags & 1 != 0 }
        /// Software that does not know the section keeps it.
        public var isKept: Bool { flags & 2 != 0 }
    }

    public var sections: [Section]

    /// Whether software that maintains no section may change the image once the extension is taken out.
    public var allowsWritingWithout: Bool { !sections.contains(where: \.isNecessary) }

    /// The bitmaps, in order.
    public func dirtyBitmaps() throws(ImageError) -> [DirtyBitmapSection] {
        var bitmaps: [DirtyBitmapSection] = []
        for section in sections where section.magic == Section.dirtyBitmapMagic {
            bitmaps.append(try unsafe DirtyBitmapSection(parsing: section.data.span.bytes))
        }
        return bitmaps
    }

    /// Byte in the file of the extension's cluster, checked against the file.
    public static func offset(in header: ImageHeader, fileBytes: UInt64) throws(ImageError) -> UInt64? {
        let sector = header.extensionSector
        guard sector != 0 else { return nil }
        let cluster = UInt64(header.clusterSize.sectors)
        guard sector % cluster == 0, sector >= UInt64(header.firstDataSector), sector <= fileBytes / sectorBytes,
            fileBytes / sectorBytes - sector >= cluster
        else {
            throw ImageError(
                .corrupt, "the format extension at sector \(sector) is not a data cluster of the file",
                at: HeaderFields.Offset.extensionSector)
        }
        return sector * sectorBytes
    }

    /// - Parameter cluster: the whole cluster.
    public init(parsing cluster: RawSpan) throws(ImageError) {
        sections = []
        do {
            var fields = FieldReader(cluster)
            let magic = try fields.next("extension magic", as: UInt64.self)
            guard magic == Self.magic else { throw ImageError(.corrupt, "the format extension has a wrong magic") }
            let stated = try fields.bytes("extension checksum", count: 16)
            let actual = unsafe cluster.withUnsafeBytes { all in
                unsafe md5(UnsafeRawBufferPointer(rebasing: all[Self.headBytes...]))
            }
            guard stated == actual else {
                throw ImageError(.corrupt, "the format extension's checksum is wrong", at: 8)
            }
            while true {
                let start = fields.position
                let magic = try fields.next("section magic", as: UInt64.self)
                let flags = try fields.next("section flags", as: UInt64.self)
                let size = try fields.next("section size", as: UInt32.self)
                let unused = try fields.next("section padding", as: UInt32.self)
                guard magic != 0 else {
                    guard flags == 0, size == 0, unused == 0 else {
                        throw ImageError(.corrupt, "the end of the format extension's sections has content", at: start)
                    }
                    return
                }
                guard sections.count < Self.sectionsMax else {
                    throw ImageError(.corrupt, "the format extension has too many sections", at: start)
                }
                let data = try fields.bytes("section data", count: Int(size))
                sections.append(Section(magic: magic, flags: flags, data: data))
                try fields.skip("section padding", count: (8 - Int(size) % 8) % 8)
            }
        } catch let error as FieldError {
            throw ImageError(error)
        } catch let error as ImageError {
            throw error
        } catch {
            throw ImageError(.corrupt, "\(error)")
        }
    }

    public init(parsing cluster: [UInt8]) throws(ImageError) { try unsafe self.init(parsing: cluster.span.bytes) }

    public init(sections: [Section]) { self.sections = sections }

    /// The cluster that parses to this value.
    /// - Throws: `.invalid` when the sections do not fit.
    public func encode(clusterSize: ClusterSize) throws(ImageError) -> [UInt8] {
        var body: [UInt8] = []
        for section in sections {
            body.append(littleEndian: section.magic)
            body.append(littleEndian: section.flags)
            body.append(littleEndian: UInt32(section.data.count))
            body.append(littleEndian: UInt32(0))
            body += section.data
            body += repeatElement(0, count: (8 - section.data.count % 8) % 8)
        }
        let room = clusterSize.byteCount - Self.headBytes
        guard body.count + Self.sectionHeadBytes <= room else {
            throw ImageError(.invalid, "the format extension does not fit in a cluster")
        }
        body += repeatElement(0, count: room - body.count)
        var bytes: [UInt8] = []
        bytes.append(littleEndian: Self.magic)
        bytes += unsafe body.withUnsafeBytes { unsafe md5($0) }
        return bytes + body
    }
}

/// A dirty bitmap of other software: which parts of the device changed since its backup.
public struct DirtyBitmapSection: Hashable, Sendable {
    /// Size of the device in sectors.
    public var sectorCount: UInt64
    /// Names the backup; 16 bytes.
    public var id: [UInt8]
    /// Sectors per bit, a power of two.
    public var granularity: UInt32
    /// One entry per cluster of bitmap: 0 = all clear, 1 = all set, else the sector of the cluster that holds that
    /// part.
    public var table: [UInt64]

    public init(parsing data: RawSpan) throws(ImageError) {
        do {
            var fields = FieldReader(data)
            sectorCount = try fields.next("bitmap size")
            id = try fields.bytes("bitmap id", count: 16)
            granularity = try fields.next("bitmap granularity")
            guard granularity.isPowerOfTwo else {
                throw ImageError(.corrupt, "a bitmap granularity of \(granularity) sectors is no power of two", at: 24)
            }
            let count = try fields.next("bitmap table size", as: UInt32.self)
            guard fields.remaining / 8 >= Int(count) else {
                throw ImageError(.truncated, "the bitmap's table is cut off", at: fields.position)
            }
            table = []
            table.reserveCapacity(Int(count))
            for _ in 0..<count { table.append(try fields.next("bitmap table")) }
        } catch let error as FieldError {
            throw ImageError(error)
        } catch let error as ImageError {
            throw error
        } catch {
            throw ImageError(.corrupt, "\(error)")
        }
    }
}
