internal import Codecs
internal import Geometry

/// One line of an index file: an identity and where its bytes are, with the pack as a number in the file's pack table.
struct IndexEntry: Hashable, Sendable {
    var id: Digest
    var pack: UInt32
    var frameOffset: UInt32
    var storedBytes: UInt32
    var plainBytes: UInt32
    var offset: UInt32
    var length: UInt32
    var isCompressed: Bool
    var isNode: Bool

    static let byteCount = 56

    init(id: Digest, pack: UInt32, at location: Location) {
        self.id = id
        self.pack = pack
        frameOffset = location.frameOffset
        storedBytes = location.storedBytes
        plainBytes = location.plainBytes
        offset = location.offset
        length = location.length
        isCompressed = location.isCompressed
        isNode = location.isNode
    }

    func location(in pack: Digest) -> Location {
        Location(
            pack: pack, frameOffset: frameOffset, storedBytes: storedBytes, plainBytes: plainBytes,
            isCompressed: isCompressed, isNode: isNode, offset: offset, length: length)
    }

    func append(to bytes: inout [UInt8]) {
        bytes += id.bytes
        for field in [pack, frameOffset, storedBytes, plainBytes, offset] { bytes.append(littleEndian: field) }
        bytes.append(littleEndian: length | (isNode ? 1 << 30 : 0) | (isCompressed ? 1 << 31 : 0))
    }

    init(parsing fields: inout FieldReader) throws(FieldError) {
        let at = fields.position
        guard let id = Digest(try fields.bytes("identity", count: Digest.byteCount)), !id.isZero else {
            throw FieldError("an entry has no identity", at: at)
        }
        self.id = id
        pack = try fields.next("pack")
        frameOffset = try fields.next("frame offset")
        storedBytes = try fields.next("stored bytes")
        plainBytes = try fields.next("plain bytes")
        offset = try fields.next("place")
        let last = try fields.next("length", as: UInt32.self)
        length = last & 0xff_ffff
        isNode = last & 1 << 30 != 0
        isCompressed = last & 1 << 31 != 0
        guard last & 0x3f00_0000 == 0, location(in: .zero).isSound
        else { throw FieldError("the entry of \(id) cannot be", at: at) }
    }
}

enum IndexPage {
    static let byteCount = 4096
    static let entriesMax = 73

    static func encoded(_ entries: ArraySlice<IndexEntry>) -> [UInt8] {
        precondition((1...entriesMax).contains(entries.count), "a page of 1 to 73 entries")
        var body: [UInt8] = []
        body.reserveCapacity(byteCount)
        body.append(littleEndian: UInt16(entries.count))
        body.append(littleEndian: UInt16(0))
        for entry in entries { entry.append(to: &body) }
        body += [UInt8](repeating: 0, count: byteCount - 4 - body.count)
        var page: [UInt8] = []
        page.reserveCapacity(byteCount)
        page.append(littleEndian: unsafe body.withUnsafeBytes { unsafe crc32c(0, $0) })
        return page + body
    }

}

/// A page whose checksum was right, still as bytes: look-ups touch only what they compare.
struct CheckedPage: Sendable {
    private let bytes: [UInt8]
    let count: Int

    init(checking bytes: [UInt8]) throws(FieldError) {
        var fields = unsafe FieldReader(bytes.span.bytes)
        let sum = try fields.next("checksum", as: UInt32.self)
        let count = Int(try fields.next("count", as: UInt16.self))
        let reserved = try fields.next("reserved", as: UInt16.self)
        let found = unsafe bytes.withUnsafeBytes { unsafe crc32c(0, UnsafeRawBufferPointer(rebasing: $0[4...])) }
        guard bytes.count == IndexPage.byteCount, sum == found else {
            throw FieldError("its checksum does not match", at: 0)
        }
        guard (1...IndexPage.entriesMax).contains(count), reserved == 0 else {
            throw FieldError("its head cannot be", at: 4)
        }
        self.bytes = bytes
        self.count = count
    }

    /// - Precondition: `index` is below the count.
    func id(_ index: Int) -> Digest {
        precondition(index >= 0 && index < count, "entry \(index) of \(count)")
        return unsafe bytes.withUnsafeBytes { unsafe Digest(loading: $0, at: 8 + index * IndexEntry.byteCount) }
    }

    func entry(_ index: Int) throws(FieldError) -> IndexEntry {
        precondition(index >= 0 && index < count, "entry \(index) of \(count)")
        var fields = unsafe FieldReader(bytes.span.bytes)
        try fields.skip("entries", count: 8 + index * IndexEntry.byteCount)
        return try IndexEntry(parsing: &fields)
    }

    /// The place of an identity, or `nil`.
    func search(_ id: Digest) -> Int? {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if self.id(middle) < id { low = middle + 1 } else { high = middle }
        }
        return low < count && self.id(low) == id ? low : nil
    }
}

/// The end of an index file.
struct IndexTrailer: Hashable, Sendable {
    var entryCount: UInt64
    var pageCount: UInt64
    var packCount: UInt32
    var packChecksum: UInt32

    static let byteCount = 64
    static let namePrefix = Array("godwit index 1\n".utf8)
    private static let magic = Array("GODWITIX".utf8)
    private static let version: UInt32 = 1

    init(entryCount: UInt64, packCount: UInt32, packChecksum: UInt32) {
        self.entryCount = entryCount
        pageCount = entryCount.dividedRoundingUp(by: UInt64(IndexPage.entriesMax))
        self.packCount = packCount
        self.packChecksum = packChecksum
    }

    func encoded() -> [UInt8] {
        var bytes = Self.magic
        bytes.append(littleEndian: Self.version)
        bytes.append(littleEndian: UInt32(0))
        bytes.append(littleEndian: entryCount)
        bytes.append(littleEndian: pageCount)
        bytes.append(littleEndian: packCount)
        bytes.append(littleEndian: packChecksum)
        bytes += [UInt8](repeating: 0, count: 20)
        bytes.append(littleEndian: unsafe bytes.withUnsafeBytes { unsafe crc32c(0, $0) })
        return bytes
    }

    /// - Parameter fileBytes: size of the whole file, which must be just what the trailer speaks of.
    init(parsing bytes: [UInt8], fileBytes: UInt64) throws(FieldError) {
        guard bytes.count == Self.byteCount, bytes.starts(with: Self.magic) else {
            throw FieldError("it does not end like an index", at: 0)
        }
        var fields = unsafe FieldReader(bytes.span.bytes)
        try fields.skip("magic", count: 8)
        let version = try fields.next("version", as: UInt32.self)
        let needs = try fields.next("features", as: UInt32.self)
        let entries = try fields.next("entries", as: UInt64.self)
        let pages = try fields.next("pages", as: UInt64.self)
        let packs = try fields.next("packs", as: UInt32.self)
        let checksum = try fields.next("checksum", as: UInt32.self)
        guard version == Self.version, needs == 0 else {
            throw FieldError("it has a version or feature this version does not know", at: 8)
        }
        self.init(entryCount: entries, packCount: packs, packChecksum: checksum)
        let table = UInt64(packs) * UInt64(Digest.byteCount)
        guard entries > 0, entries < 1 << 48, packs > 0, pages == pageCount, bytes == encoded(),
            fileBytes == pages * UInt64(IndexPage.byteCount) + table + UInt64(Self.byteCount)
        else { throw FieldError("its trailer cannot be", at: 16) }
    }
}
