public import Codecs
public import Geometry

/// Makes a delta stream, godwit-stream(5). Its output are the stream's bytes in order, to be cut up as one likes.
public struct StreamEncoder: Sendable {
    public let header: StreamHeader
    private var running: UInt32
    private var sequence: UInt32 = 0
    private var summary = StreamSummary(root: .zero)
    private var hasEnded = false

    /// Appends the stream's header to `output`.
    public init(_ header: StreamHeader, to output: inout [UInt8]) {
        self.header = header
        let bytes = header.encoded()
        running = crc(0, bytes[..<FrameHeader.checkedBytes])
        output += bytes
    }

    /// - Precondition: the header allows the range.
    public mutating func append(_ payload: StreamPayload, at offset: UInt64, to output: inout [UInt8]) {
        precondition(header.allows(ByteRange(offset: offset, count: payload.plainBytes)), "an allowed range")
        summary.count(data: payload.plainBytes)
        append(payload.isCompressed ? .compressed : .stored, offset, payload.plainBytes, payload.bytes, to: &output)
    }

    /// - Precondition: the header allows the range.
    public mutating func append(zeros range: ByteRange, to output: inout [UInt8]) {
        precondition(header.allows(range), "an allowed range")
        summary.count(zeros: range.count)
        append(.zeros, range.offset, range.count, [], to: &output)
    }

    /// The end frame. Nothing can follow it.
    public mutating func finish(root: Digest, to output: inout [UInt8]) {
        summary.root = root
        append(.end, 0, 0, summary.encoded(), to: &output)
        hasEnded = true
    }

    private mutating func append(
        _ kind: FrameKind, _ offset: UInt64, _ plainBytes: UInt64, _ payload: [UInt8], to output: inout [UInt8]
    ) {
        precondition(!hasEnded, "the stream has ended")
        let frame = FrameHeader(
            kind: kind, payloadBytes: UInt32(payload.count), offset: offset, plainBytes: plainBytes, sequence: sequence)
        let checked = frame.checkedPart()
        running = crc(crc(running, checked[...]), payload[...])
        sequence &+= 1
        output += checked
        output.append(littleEndian: running)
        output += payload
    }
}
