internal import Codecs
internal import Geometry

/// Reads a delta stream from untrusted bytes that arrive in pieces of any length. It holds at most one frame and the
/// last piece; no length in the stream makes it allocate more than that.
public struct StreamDecoder: ~Copyable {
    /// Known once the first 32 bytes are there.
    public private(set) var header: StreamHeader?
    /// Bytes of the stream that records were made of so far.
    public private(set) var consumed: UInt64 = 0
    public private(set) var hasEnded = false

    private let decompressor = Decompressor()
    private var pending: [UInt8] = []
    private var position = 0
    private var frame: FrameHeader?
    private var frameChecksum: UInt32 = 0
    private var running: UInt32 = 0
    private var sequence: UInt32 = 0
    private var summary = StreamSummary(root: .zero)
    private var failure: StreamError?

    public init() {}

    /// Adds the next piece of the stream.
    public mutating func feed(_ bytes: [UInt8]) {
        pending.removeFirst(position)
        position = 0
        pending += bytes
    }

    /// The next record, or `nil` when more bytes are needed. After an error every call throws it again.
    public mutating func next() throws(StreamError) -> StreamRecord? {
        if let failure { throw failure }
        do throws(StreamError) {
            return try decode()
        } catch {
            failure = error
            throw error
        }
    }

    /// To be called when the last piece has been fed and ``next()`` has returned `nil`.
    /// - Throws: `.truncated` unless the end frame was there and nothing after it.
    public func finish() throws(StreamError) {
        if let failure { throw failure }
        guard hasEnded else {
            throw StreamError(.truncated, "the delta stream ends after \(place) without its end frame")
        }
    }

    private var place: String { "byte \(consumed)" }
    private var available: Int { pending.count - position }

    private mutating func decode() throws(StreamError) -> StreamRecord? {
        if hasEnded {
            guard available == 0 else { throw StreamError(.corrupt, "the delta stream goes on after its end frame") }
            return nil
        }
        if header == nil {
            guard let bytes = take(StreamHeader.byteCount) else { return nil }
            header = try StreamHeader(parsing: bytes)
            running = crc(0, bytes.prefix(FrameHeader.checkedBytes))
        }
        guard let header else { return nil }
        if frame == nil {
            guard let bytes = take(FrameHeader.byteCount) else { return nil }
            let parsed = try FrameHeader(parsing: bytes, header: header, sequence: sequence, place: place)
            running = crc(running, bytes.prefix(FrameHeader.checkedBytes))
            frame = parsed
            frameChecksum = bytes.suffix(4).reversed().reduce(0) { $0 << 8 | UInt32($1) }
        }
        guard let current = frame, let payload = take(Int(current.payloadBytes)) else { return nil }
        running = crc(running, payload)
        guard running == frameChecksum else {
            throw StreamError(.corrupt, "a frame of the delta stream has a wrong checksum before \(place)")
        }
        frame = nil
        sequence &+= 1
        return try record(current, payload)
    }

    private mutating func record(_ frame: FrameHeader, _ payload: ArraySlice<UInt8>) throws(StreamError) -> StreamRecord
    {
        switch frame.kind {
        case .stored:
            summary.count(data: frame.plainBytes)
            return .data(offset: frame.offset, bytes: [UInt8](payload))
        case .compressed:
            summary.count(data: frame.plainBytes)
            guard let plain = decompress(payload, Int(frame.plainBytes)) else {
                throw StreamError(.corrupt, "a frame of the delta stream cannot be decompressed before \(place)")
            }
            return .data(offset: frame.offset, bytes: plain)
        case .zeros:
            summary.count(zeros: frame.plainBytes)
            return .zeros(ByteRange(offset: frame.offset, count: frame.plainBytes))
        case .end:
            summary.root = unsafe payload.withUnsafeBytes { unsafe Digest(loading: $0, at: 32) }
            guard summary.encoded() == [UInt8](payload) else {
                throw StreamError(.corrupt, "the end frame of the delta stream contradicts what came before")
            }
            hasEnded = true
            return .end(summary)
        }
    }

    private func decompress(_ payload: ArraySlice<UInt8>, _ plainBytes: Int) -> [UInt8]? {
        var isRight = false
        let plain = unsafe [UInt8](unsafeUninitializedCapacity: plainBytes) { target, count in
            let length = unsafe payload.withUnsafeBytes { source in
                unsafe decompressor.decompress(source, into: UnsafeMutableRawBufferPointer(target))
            }
            count = length ?? 0
            isRight = length == plainBytes
        }
        return isRight ? plain : nil
    }

    private mutating func take(_ count: Int) -> ArraySlice<UInt8>? {
        guard available >= count else { return nil }
        defer {
            position += count
            consumed += UInt64(count)
        }
        return pending[position..<position + count]
    }
}

extension StreamHeader {
    init(parsing bytes: ArraySlice<UInt8>) throws(StreamError) {
        guard bytes.starts(with: Self.magic) else { throw StreamError(.notAStream, "these bytes are no delta stream") }
        let found: (UInt16, UInt16, UInt32, UInt64, UInt32, UInt32)
        do throws(FieldError) {
            var fields = unsafe FieldReader(bytes.span.bytes)
            try fields.skip("magic", count: Self.magic.count)
            found = (
                try fields.next("version"), try fields.next("flags"), try fields.next("alignment"),
                try fields.next("disk size"), try fields.next("reserved"), try fields.next("checksum")
            )
        } catch {
            throw StreamError(.truncated, error.message)
        }
        guard found.5 == crc(0, bytes.prefix(FrameHeader.checkedBytes)) else {
            throw StreamError(.corrupt, "the header of the delta stream has a wrong checksum")
        }
        guard found.0 == Self.version, found.1 == 0 else {
            throw StreamError(
                .unsupported,
                "the delta stream has version \(found.0) and flags \(found.1); this program reads version 1")
        }
        guard found.4 == 0, let header = StreamHeader(diskBytes: found.3, alignment: found.2) else {
            throw StreamError(.corrupt, "the header of the delta stream names an impossible disk")
        }
        self = header
    }
}

extension FrameHeader {
    /// Checks everything that bounds what a payload may be, before any of it is waited for.
    init(
        parsing bytes: ArraySlice<UInt8>, header: StreamHeader, sequence: UInt32, place: String
    ) throws(StreamError) {
        func corrupt(_ what: String) -> StreamError {
            StreamError(.corrupt, "a frame of the delta stream before \(place) \(what)")
        }
        let found: (UInt32, UInt32, UInt64, UInt64, UInt32)
        do throws(FieldError) {
            var fields = unsafe FieldReader(bytes.span.bytes)
            found = (
                try fields.next("kind"), try fields.next("payload length"), try fields.next("offset"),
                try fields.next("length"), try fields.next("sequence number")
            )
        } catch {
            throw StreamError(.truncated, error.message)
        }
        guard found.0 < 256, let kind = FrameKind(rawValue: UInt8(found.0)) else {
            throw corrupt("is of no known kind")
        }
        guard found.4 == sequence else { throw corrupt("is number \(found.4) where \(sequence) was due") }
        self.init(kind: kind, payloadBytes: found.1, offset: found.2, plainBytes: found.3, sequence: found.4)
        if kind == .end {
            guard offset == 0, plainBytes == 0, payloadBytes == StreamSummary.byteCount else {
                throw corrupt("is an end frame with a range")
            }
            return
        }
        guard let range = ByteRange(checking: offset, count: plainBytes), header.allows(range) else {
            throw corrupt("has a range that the disk does not have")
        }
        let payloadFits =
            switch kind {
            case .stored: plainBytes <= Self.plainMax && UInt64(payloadBytes) == plainBytes
            case .compressed: plainBytes <= Self.plainMax && UInt64(payloadBytes) < plainBytes
            default: payloadBytes == 0
            }
        guard payloadFits else { throw corrupt("has a payload of \(payloadBytes) bytes for \(plainBytes)") }
    }
}
