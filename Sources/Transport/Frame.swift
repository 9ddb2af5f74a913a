internal import Codecs

/// The fixed part in front of every payload, godwit-peer(5).
struct FrameHeader: Hashable {
    static let byteCount = 20

    var payloadCount: Int
    var kind: UInt16
    var id: UInt32
    var payloadChecksum: UInt32

    init(of message: Message) {
        payloadCount = message.payload.count
        kind = message.kind
        id = message.id
        payloadChecksum = unsafe message.payload.withUnsafeBytes { unsafe crc32c(0, $0) }
    }

    /// - Parameter bytes: exactly ``byteCount`` of them, from the peer.
    init(parsing bytes: [UInt8]) throws(TransportError) {
        var reader = PayloadReader(bytes)
        let length = try reader.next("length", as: UInt32.self)
        kind = try reader.next("kind")
        let reserved = try reader.next("reserved", as: UInt16.self)
        id = try reader.next("id")
        payloadChecksum = try reader.next("payload checksum")
        let checksum = try reader.next("header checksum", as: UInt32.self)
        // First of all, so that a damaged length is not believed and waited for.
        guard checksum == Self.checksum(of: bytes) else {
            throw TransportError(
                .protocolViolation, "the peer's frame has a wrong header checksum: the stream is damaged")
        }
        guard reserved == 0 else {
            throw TransportError(.protocolViolation, "the peer's frame has the unknown flags \(reserved)")
        }
        guard length <= UInt32(Message.payloadMax) else {
            throw TransportError(
                .protocolViolation, "the peer's frame of \(length) bytes is over the limit of \(Message.payloadMax)")
        }
        payloadCount = Int(length)
    }

    func append(to bytes: inout [UInt8]) {
        let start = bytes.count
        bytes.append(littleEndian: UInt32(payloadCount))
        bytes.append(littleEndian: kind)
        bytes.append(littleEndian: UInt16(0))
        bytes.append(littleEndian: id)
        bytes.append(littleEndian: payloadChecksum)
        bytes.append(littleEndian: Self.checksum(of: bytes[start...]))
    }

    private static func checksum(of bytes: some Collection<UInt8>) -> UInt32 {
        let covered = [UInt8](bytes.prefix(byteCount - 4))
        return unsafe covered.withUnsafeBytes { unsafe crc32c(0, $0) }
    }
}

/// Kinds of the channel itself. Those from 128 up may be ignored by who doesn't know them.
enum ChannelKind {
    static let hello: UInt16 = 1
    static let ping: UInt16 = 2
    static let pong: UInt16 = 3
    static let credit: UInt16 = 4
    static let failure: UInt16 = 5
    static let bye: UInt16 = 6
    static let firstIgnorable: UInt16 = 128
    static let firstOfServices: UInt16 = 256
}

/// Reads frames from a stream: small ones through a buffer, large payloads straight into their array.
struct FrameReader {
    private let stream: any ByteStream
    private let peerName: String
    private var buffer = [UInt8](repeating: 0, count: 128 << 10)
    private var next = 0
    private var end = 0

    init(stream: any ByteStream, peerName: String) {
        self.stream = stream
        self.peerName = peerName
    }

    /// - Returns: `nil` when the stream ended between two frames.
    mutating func nextMessage() throws(TransportError) -> Message? {
        guard let bytes = try take(FrameHeader.byteCount, mayEnd: true) else { return nil }
        let header = try FrameHeader(parsing: bytes)
        guard let payload = try take(header.payloadCount, mayEnd: false) else { return nil }
        guard unsafe payload.withUnsafeBytes({ unsafe crc32c(0, $0) }) == header.payloadChecksum else {
            throw TransportError(
                .protocolViolation, "a message from \(peerName) has a wrong checksum: the stream is damaged")
        }
        return Message(kind: header.kind, id: header.id, payload: payload)
    }

    /// `count` bytes. - Returns: `nil` when the stream ended before the first one and it may.
    mutating func take(_ count: Int, mayEnd: Bool) throws(TransportError) -> [UInt8]? {
        var failure: TransportError?
        var ended = false
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { memory, initialized in
            do throws(TransportError) {
                initialized = try unsafe fill(UnsafeMutableRawBufferPointer(memory))
                ended = initialized < count
            } catch { failure = error }
        }
        if let failure { throw failure }
        guard ended else { return bytes }
        if bytes.isEmpty && mayEnd { return nil }
        throw TransportError(.closed, "the connection to \(peerName) ended in the middle of a message")
    }

    /// - Returns: how much was filled in; less than all only at the end of the stream.
    private mutating func fill(_ memory: UnsafeMutableRawBufferPointer) throws(TransportError) -> Int {
        var filled = 0
        while filled < memory.count {
            if next < end {
                let part = min(end - next, memory.count - filled)
                unsafe buffer.withUnsafeBytes { buffered in
                    unsafe UnsafeMutableRawBufferPointer(rebasing: memory[filled..<filled + part])
                        .copyMemory(from: UnsafeRawBufferPointer(rebasing: buffered[next..<next + part]))
                }
                next += part
                filled += part
            } else if memory.count - filled >= buffer.count {
                let got = try unsafe stream.read(into: UnsafeMutableRawBufferPointer(rebasing: memory[filled...]))
                guard got > 0 else { return filled }
                filled += got
            } else {
                guard try refill() else { return filled }
            }
        }
        return filled
    }

    private mutating func refill() throws(TransportError) -> Bool {
        var failure: TransportError?
        next = 0
        end = 0
        unsafe buffer.withUnsafeMutableBytes { memory in
            do throws(TransportError) { end = try unsafe stream.read(into: memory) } catch { failure = error }
        }
        if let failure { throw failure }
        return end > 0
    }
}
