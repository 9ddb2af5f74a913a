internal import BackupStore
internal import Codecs
internal import Transport

/// The kinds of messages of the service `store`, godwit-peer(5).
enum StoreMessage {
    static let known: UInt16 = 512
    static let locate: UInt16 = 513
    static let read: UInt16 = 514
    static let list: UInt16 = 515
    /// In a list: the object is there, and can't be examined.
    static let unreadableSize = UInt64.max
    static let freeBytes: UInt16 = 516
    static let beginUpload: UInt16 = 517
    static let append: UInt16 = 518
    static let commit: UInt16 = 519
    static let abandon: UInt16 = 520
    static let create: UInt16 = 521
    static let frame: UInt16 = 522
    static let recheck: UInt16 = 523

    /// The answer to any of them, the last or only part of it.
    static let reply: UInt16 = 544
    /// A part of an answer that goes on.
    static let part: UInt16 = 545

    static let service = "store"
    static let creationService = "create-store"

    /// What the opened message says of this service. In version 1, which said nothing, clients made the index.
    static let version: UInt16 = 2

    /// Bytes of an object in one message.
    static let appendMax = 1 << 20
    /// Uploads that may be open at once.
    static let uploadsMax = 64
    /// Objects in one part of a list.
    static let listPartMax = 16384
    /// Pieces of one read.
    static let piecesMax = 16384
}

extension ObjectKind {
    init(reading reader: inout PayloadReader) throws(TransportError) {
        let number = try reader.next("object kind", as: UInt8.self)
        guard let kind = ObjectKind(rawValue: number) else {
            throw TransportError(.protocolViolation, "the peer named the unknown object kind \(number)")
        }
        self = kind
    }
}

extension PayloadReader {
    mutating func digests() throws(TransportError) -> [Digest] {
        let count = try count("ids", each: Digest.byteCount)
        guard count <= StoreLimits.batchMax else {
            throw TransportError(
                .protocolViolation, "the peer asked for \(count) ids at once, over \(StoreLimits.batchMax)")
        }
        let bytes = try raw("ids", count: count * Digest.byteCount)
        return unsafe bytes.withUnsafeBytes { memory in
            (0..<count).map { unsafe Digest(loading: memory, at: $0 * Digest.byteCount) }
        }
    }

    mutating func digest() throws(TransportError) -> Digest {
        let bytes = try raw("id", count: Digest.byteCount)
        return unsafe bytes.withUnsafeBytes { unsafe Digest(loading: $0) }
    }

    mutating func location() throws(TransportError) -> Location? {
        let flags = try next("location", as: UInt8.self)
        guard flags & 1 != 0 else { return nil }
        return Location(
            pack: try digest(), frameOffset: try next("frame offset"), storedBytes: try next("stored bytes"),
            plainBytes: try next("plain bytes"), isCompressed: flags & 2 != 0, isNode: flags & 4 != 0,
            offset: try next("offset"), length: try next("length"))
    }

    mutating func pieces() throws(TransportError) -> [ObjectPiece] {
        let count = try count("pieces", each: 15)
        guard count <= StoreMessage.piecesMax else {
            throw TransportError(
                .protocolViolation, "the peer asked for \(count) pieces at once, over \(StoreMessage.piecesMax)")
        }
        var pieces: [ObjectPiece] = []
        var total = 0
        for _ in 0..<count {
            let kind = try ObjectKind(reading: &self)
            let name = try text("name")
            let piece = ObjectPiece(
                kind: kind, name: name, offset: try next("offset"), count: Int(try next("count", as: UInt32.self)))
            guard piece.count <= StoreLimits.readMax - total else {
                throw TransportError(
                    .protocolViolation, "the peer asked for more than \(StoreLimits.readMax) bytes at once")
            }
            total += piece.count
            pieces.append(piece)
        }
        return pieces
    }
}

/// What a store's side says of itself when it is opened.
struct StoreOpening {
    var info: StoreInfo
    var version: UInt16 = 1
    /// See ``StoreBackend/damage()``; empty when there is none, or the store was opened to read only.
    var damage = ""

    var payload: [UInt8] {
        var writer = PayloadWriter()
        writer.put(text: info.uuid)
        writer.put(info.chunkBytes)
        writer.put(version)
        writer.put(text: damage)
        return writer.bytes
    }

    init(info: StoreInfo, version: UInt16 = StoreMessage.version, damage: String) {
        self.info = info
        self.version = version
        self.damage = damage
    }

    init(parsing payload: [UInt8]) throws(TransportError) {
        var reader = PayloadReader(payload)
        info = StoreInfo(uuid: try reader.text("uuid"), chunkBytes: try reader.next("chunk size"))
        guard info.uuid.utf8.count <= 64, info.uuid.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }) else {
            throw TransportError(.protocolViolation, "the peer's store has an identity that cannot be")
        }
        guard reader.remaining > 0 else { return }
        version = try reader.next("version")
        damage = try reader.text("damage")
        guard damage.isEmpty || Digest(hex: damage) != nil else {
            throw TransportError(.protocolViolation, "the peer's store tells of its damage what cannot be")
        }
        // What follows is for later versions.
    }
}

extension PackFrame {
    /// As the payload of a message: as it stands in a pack's directory.
    var payload: [UInt8] {
        var bytes: [UInt8] = []
        append(to: &bytes)
        return bytes
    }

    /// - Throws: what ends the conversation.
    init(payload: [UInt8]) throws(TransportError) {
        var fields = unsafe FieldReader(payload.span.bytes)
        let frame: PackFrame
        do throws(FieldError) {
            var offset = unsafe FieldReader(payload.span.bytes)
            let start = try offset.next("frame offset", as: UInt32.self)
            frame = try PackFrame(parsing: &fields, number: 0, from: start, end: .max)
        } catch {
            throw TransportError(.protocolViolation, "the peer told of a frame that cannot be: \(error.message)")
        }
        guard fields.remaining == 0 else {
            throw TransportError(.protocolViolation, "the peer told of a frame, and something behind it")
        }
        self = frame
    }
}

extension PayloadWriter {
    mutating func put(digests: [Digest]) {
        reserve(4 + digests.count * Digest.byteCount)
        put(UInt32(digests.count))
        for digest in digests { put(raw: digest.bytes) }
    }

    mutating func put(location: Location?) {
        guard let location else { return put(UInt8(0)) }
        put(UInt8(1 | (location.isCompressed ? 2 : 0) | (location.isNode ? 4 : 0)))
        put(raw: location.pack.bytes)
        for field in [
            location.frameOffset, location.storedBytes, location.plainBytes, location.offset, location.length,
        ] {
            put(field)
        }
    }

    mutating func put(pieces: [ObjectPiece]) {
        put(UInt32(pieces.count))
        for piece in pieces {
            put(piece.kind.rawValue)
            put(text: piece.name)
            put(piece.offset)
            put(UInt32(piece.count))
        }
    }
}
