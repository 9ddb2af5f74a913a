import Codecs
import DeltaStream
import Geometry
import Testing

private let alignment: UInt32 = 4096
private let diskBytes: UInt64 = 1 << 20

private func header() throws -> StreamHeader {
    try #require(StreamHeader(diskBytes: diskBytes + 512, alignment: alignment))
}

/// A small stream with each kind of frame.
private func sample() throws -> (bytes: [UInt8], records: [StreamRecord]) {
    var bytes: [UInt8] = []
    var encoder = StreamEncoder(try header(), to: &bytes)
    var compressor = PayloadCompressor()
    var state: UInt64 = 7
    let noise = (0..<4096).map { _ -> UInt8 in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return UInt8(truncatingIfNeeded: state >> 56)
    }
    let text = (0..<8192).map { UInt8($0 % 7) }
    encoder.append(text.withUnsafeBytes { compressor.payload($0) }, at: 4096, to: &bytes)
    encoder.append(zeros: ByteRange(offset: 8192, count: diskBytes + 512 - 8192), to: &bytes)
    encoder.append(noise.withUnsafeBytes { compressor.payload($0) }, at: 0, to: &bytes)
    let root = Digest.hash(text)
    encoder.finish(root: root, to: &bytes)
    var summary = StreamSummary(root: root)
    summary.dataFrames = 2
    summary.zeroFrames = 1
    summary.dataBytes = 8192 + 4096
    summary.zeroBytes = diskBytes + 512 - 8192
    return (
        bytes,
        [
            .data(offset: 4096, bytes: text), .zeros(ByteRange(offset: 8192, count: diskBytes + 512 - 8192)),
            .data(offset: 0, bytes: noise), .end(summary),
        ]
    )
}

/// All records of a stream fed in pieces; throws what the decoder throws, at the latest at the end.
private func decode(_ bytes: [UInt8], piece: Int = .max) throws(StreamError) -> [StreamRecord] {
    var decoder = StreamDecoder()
    var records: [StreamRecord] = []
    var position = 0
    repeat {
        let end = position + min(piece, bytes.count - position)
        decoder.feed(Array(bytes[position..<end]))
        position = end
        while let record = try decoder.next() { records.append(record) }
    } while position < bytes.count
    try decoder.finish()
    return records
}

private func code(_ bytes: [UInt8]) -> StreamError.Code? {
    do {
        _ = try decode(bytes)
        return nil
    } catch {
        return error.code
    }
}

@Suite struct StreamTests {
    @Test("what was encoded is decoded, in pieces of any length", arguments: [1, 2, 31, 32, 33, 100, 5000, Int.max])
    func roundTrip(piece: Int) throws {
        let (bytes, records) = try sample()
        #expect(try decode(bytes, piece: piece) == records)
    }

    @Test("a stream cut off at any byte is refused")
    func truncations() throws {
        let bytes = try sample().bytes
        for count in 0..<bytes.count { #expect(code(Array(bytes.prefix(count))) == .truncated, "\(count) bytes") }
    }

    @Test("a stream with any bit flipped is refused")
    func bitFlips() throws {
        var bytes = try sample().bytes
        for bit in 0..<bytes.count * 8 {
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(code(bytes) != nil, "bit \(bit)")
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
        }
        #expect(code(bytes) == nil)
    }

    @Test("frames left out, repeated, swapped or appended are refused")
    func reordered() throws {
        let bytes = try sample().bytes
        var frames: [[UInt8]] = []
        var position = StreamHeader.byteCount
        while position < bytes.count {
            let length = 32 + (0..<4).reduce(0) { $0 | Int(bytes[position + 4 + $1]) << (8 * $1) }
            frames.append(Array(bytes[position..<position + length]))
            position += length
        }
        #expect(frames.count == 4)
        func stream(_ order: [Int]) -> [UInt8] {
            Array(bytes.prefix(StreamHeader.byteCount)) + order.flatMap { frames[$0] }
        }
        #expect(code(stream([0, 1, 2, 3])) == nil)
        for order in [
            [1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 0, 1, 2, 3], [1, 0, 2, 3], [0, 2, 1, 3], [0, 1, 2, 3, 3], [3],
        ] {
            #expect(code(stream(order)) == .corrupt, "\(order)")
        }
        #expect(code(stream([0, 1, 2, 3]) + [0]) == .corrupt)
        #expect(code(bytes + bytes) == .corrupt)
    }

    @Test(
        "a frame that names a giant length is refused from its header alone",
        arguments: [
            (1, UInt32.max, UInt64(1 << 20)), (2, UInt32.max, UInt64.max), (1, UInt32(2 << 20), UInt64(2 << 20)),
            (2, UInt32(100), UInt64(2 << 20)), (3, UInt32(1), UInt64(4096)), (4, UInt32.max, UInt64(0)),
            (9, UInt32(0), UInt64(4096)),
        ])
    func giants(kind: Int, payload: UInt32, plain: UInt64) throws {
        var bytes: [UInt8] = []
        _ = StreamEncoder(try #require(StreamHeader(diskBytes: 1 << 40, alignment: 512)), to: &bytes)
        bytes += [UInt8(kind), 0, 0, 0]
        bytes.append(littleEndian: payload)
        bytes.append(littleEndian: UInt64(0))
        bytes.append(littleEndian: plain)
        bytes.append(littleEndian: UInt64(0))
        #expect(code(bytes) == .corrupt)
    }

    @Test("later versions are refused as such")
    func versions() throws {
        var bytes = try sample().bytes
        bytes[8] = 2
        let checksum = bytes.prefix(28).withUnsafeBytes { crc32c(0, $0) }
        bytes.replaceSubrange(28..<32, with: (0..<4).map { UInt8(truncatingIfNeeded: checksum >> (8 * $0)) })
        #expect(code(bytes) == .unsupported)
        #expect(code(Array("not a stream, but long enough for a header".utf8)) == .notAStream)
    }

    @Test("an error stays")
    func sticky() throws {
        var bytes = try sample().bytes
        bytes[40] ^= 1
        var decoder = StreamDecoder()
        decoder.feed(bytes)
        var errors = 0
        for _ in 0..<3 {
            do { _ = try decoder.next() } catch { errors += 1 }
        }
        #expect(errors == 3)
    }

    @Test("ranges are aligned, except at the end of the disk")
    func ranges() throws {
        let header = try header()
        #expect(header.allows(ByteRange(offset: 0, count: 4096)))
        #expect(header.allows(ByteRange(offset: diskBytes, count: 512)))
        #expect(header.allows(ByteRange(offset: 0, count: diskBytes + 512)))
        #expect(!header.allows(ByteRange(offset: 0, count: 512)))
        #expect(!header.allows(ByteRange(offset: 512, count: 4096)))
        #expect(!header.allows(ByteRange(offset: 0, count: 0)))
        #expect(!header.allows(ByteRange(offset: diskBytes, count: 4096)))
    }

    @Test("incompressible data is stored, and mostly not even tried")
    func adaptive() {
        var compressor = PayloadCompressor()
        var random = SystemRandomNumberGenerator()
        let noise = (0..<65536).map { _ in UInt8.random(in: 0...255, using: &random) }
        for _ in 0..<40 {
            let payload = noise.withUnsafeBytes { compressor.payload($0) }
            #expect(!payload.isCompressed && payload.bytes == noise)
        }
        // After the pause it finds out that the data has changed.
        let text = [UInt8](repeating: 65, count: 65536)
        let tries = (0..<200).map { _ in text.withUnsafeBytes { compressor.payload($0) }.isCompressed }
        #expect(tries.last == true)
    }
}
