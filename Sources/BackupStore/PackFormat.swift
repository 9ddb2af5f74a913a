public import Codecs

/// One compressed unit of a pack, and what is in it.
public struct PackFrame: Hashable, Sendable {
    public struct Object: Hashable, Sendable {
        public var id: Digest
        public var length: UInt32
        public init(id: Digest, length: UInt32) {
            self.id = id
            self.length = length
        }
    }
    public var offset: UInt32
    public var storedBytes: UInt32
    public var plainBytes: UInt32
    public var checksum: UInt32
    public var isCompressed: Bool
    public var isNodes: Bool
    public var objects: [Object]
}

extension PackFrame {
    /// As it stands in a directory.
    public func append(to bytes: inout [UInt8]) {
        bytes.append(littleEndian: offset)
        bytes.append(littleEndian: storedBytes)
        bytes.append(littleEndian: plainBytes)
        bytes.append(littleEndian: checksum)
        bytes.append(littleEndian: UInt16(objects.count))
        bytes.append(isCompressed ? 1 : 0)
        bytes.append(isNodes ? 1 : 0)
        for object in objects {
            bytes += object.id.bytes
            bytes.append(littleEndian: object.length)
        }
    }

    /// - Parameters:
    ///   - number: which frame of its pack it is, for messages.
    ///   - expected: where it must begin.
    ///   - end: where the frames of the pack end at the latest.
    public init(
        parsing fields: inout FieldReader, number: Int, from expected: UInt32, end: UInt32
    ) throws(FieldError) {
        let at = fields.position
        offset = try fields.next("frame offset")
        storedBytes = try fields.next("frame length")
        plainBytes = try fields.next("plain length")
        checksum = try fields.next("checksum")
        let count = Int(try fields.next("object count", as: UInt16.self))
        let method = try fields.next("method", as: UInt8.self)
        let kind = try fields.next("kind", as: UInt8.self)
        isCompressed = method == 1
        isNodes = kind == 1
        objects = []
        guard offset == expected, expected <= end, storedBytes > 0, storedBytes <= end - expected,
            storedBytes <= UInt32(StoreLimits.readMax), plainBytes > 0, plainBytes <= UInt32(StoreLimits.frameMax),
            count > 0, method <= 1, kind <= 1, method == 1 || storedBytes == plainBytes
        else { throw FieldError("frame \(number) of its directory cannot be", at: at) }
        objects.reserveCapacity(min(count, fields.remaining / PackDirectory.objectBytes))
        var total: UInt64 = 0
        for _ in 0..<count {
            let id = try fields.bytes("identity", count: Digest.byteCount)
            let length = try fields.next("length", as: UInt32.self)
            total += UInt64(length)
            guard length > 0, let id = Digest(id), !id.isZero else {
                throw FieldError("frame \(number) of its directory has an object without content", at: at)
            }
            objects.append(Object(id: id, length: length))
        }
        guard total == UInt64(plainBytes) else {
            throw FieldError("frame \(number) of its directory does not add up", at: at)
        }
    }
}

/// The table at the end of a pack, godwit-store(5).
public struct PackDirectory: Hashable, Sendable {
    public internal(set) var frames: [PackFrame] = []

    public static let headerBytes = 16
    public static let trailerBytes = 32
    static let frameBytes = 20
    static let objectBytes = 36
    static let version: UInt32 = 1
    /// Longest directory: a pack of nothing but the smallest frames is not written by anybody.
    public static let bytesMax = 16 << 20
    /// A pack is closed before it gets that long.
    static let packBytesMax: UInt32 = 1 << 31
    private static let namePrefix = Array("godwit pack 1\n".utf8)
    private static let trailerMagic = Array("GODWITPE".utf8)

    static var header: [UInt8] {
        var bytes = Array("GODWITPK".utf8)
        bytes.append(littleEndian: version)
        bytes.append(littleEndian: UInt32(0))
        return bytes
    }

    /// Length of the encoded frames.
    var encodedBytes: Int { frames.reduce(0) { $0 + Self.frameBytes + $1.objects.count * Self.objectBytes } }

    func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(encodedBytes)
        for frame in frames { frame.append(to: &bytes) }
        return bytes
    }

    /// Directory and trailer, as they end a pack whose frames end at `end`; and the pack's name.
    func ending(at end: UInt32) -> (bytes: [UInt8], name: Digest) {
        let directory = encoded()
        var bytes = directory
        bytes.append(littleEndian: UInt64(end))
        bytes.append(littleEndian: UInt32(directory.count))
        bytes.append(littleEndian: unsafe directory.withUnsafeBytes { unsafe crc32c(0, $0) })
        bytes.append(littleEndian: UInt32(frames.count))
        bytes.append(littleEndian: UInt32(0))
        bytes += Self.trailerMagic
        return (bytes, Digest.hash(prefix: Self.namePrefix, Self.header + directory))
    }

    /// What the trailer says: where the directory is. - Throws: a sentence's end on what is wrong.
    static func parseTrailer(_ bytes: [UInt8], packBytes: UInt64) throws(FieldError) -> (offset: UInt64, count: Int) {
        guard bytes.count == trailerBytes, Array(bytes.suffix(8)) == trailerMagic else {
            throw FieldError("it does not end like a pack", at: 24)
        }
        var fields = unsafe FieldReader(bytes.span.bytes)
        let offset = try fields.next("directory offset", as: UInt64.self)
        let count = try fields.next("directory length", as: UInt32.self)
        guard count > 0, count <= bytesMax, offset >= UInt64(headerBytes), offset < packBytesMax,
            offset + UInt64(count) + UInt64(trailerBytes) == packBytes
        else { throw FieldError("its directory is not where it should be", at: 0) }
        return (offset, Int(count))
    }

    /// Parses the directory of pack `name`: header, directory and trailer must be those the name stands for.
    static func parse(
        header: [UInt8], directory: [UInt8], trailer: [UInt8], packBytes: UInt64, name: Digest
    ) throws(FieldError) -> PackDirectory {
        let place = try parseTrailer(trailer, packBytes: packBytes)
        guard place.count == directory.count else { throw FieldError("its directory is cut off", at: 0) }
        let found = Digest.hash(prefix: namePrefix, header + directory)
        guard found == name else { throw FieldError("its header or directory is not what its name stands for", at: 0) }
        guard header == self.header else {
            throw FieldError("it has a version or feature this version does not know", at: 8)
        }
        let parsed = try PackDirectory(parsing: directory, end: UInt32(place.offset))
        guard parsed.ending(at: UInt32(place.offset)).bytes.suffix(trailerBytes) == trailer[...] else {
            throw FieldError("its trailer does not match its directory", at: 0)
        }
        return parsed
    }

    init() {}

    init(parsing bytes: [UInt8], end: UInt32) throws(FieldError) {
        var fields = unsafe FieldReader(bytes.span.bytes)
        var expected = UInt32(Self.headerBytes)
        while fields.remaining > 0 {
            let frame = try PackFrame(parsing: &fields, number: frames.count, from: expected, end: end)
            expected += frame.storedBytes
            frames.append(frame)
        }
        guard expected == end, !frames.isEmpty else { throw FieldError("its frames do not fill it", at: 0) }
    }

    /// Where each object is, with its id.
    public func forEachLocation(pack: Digest, _ body: (Digest, Location) -> Void) {
        for frame in frames {
            var offset: UInt32 = 0
            for object in frame.objects {
                body(
                    object.id,
                    Location(
                        pack: pack, frameOffset: frame.offset, storedBytes: frame.storedBytes,
                        plainBytes: frame.plainBytes, isCompressed: frame.isCompressed, isNode: frame.isNodes,
                        offset: offset, length: object.length))
                offset += object.length
            }
        }
    }
}
