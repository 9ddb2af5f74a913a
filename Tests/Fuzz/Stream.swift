// modules: Geometry Codecs DeltaStream
import Codecs
import DeltaStream
import Geometry

/// The delta stream, whole and in pieces, as it is and with its checksums set right.
func fuzz(_ bytes: [UInt8]) {
    let fixed = withRightChecksums(bytes)
    for stream in [bytes, fixed] {
        let whole = decode(stream, pieces: stream.count)
        if decode(stream, pieces: 7) != whole { finding("a stream in pieces reads as another") }
    }
}

private func decode(_ bytes: [UInt8], pieces: Int) -> [StreamRecord] {
    var decoder = StreamDecoder()
    var records: [StreamRecord] = []
    var position = 0
    do throws(StreamError) {
        while position < bytes.count {
            let end = min(position + max(pieces, 1), bytes.count)
            decoder.feed(Array(bytes[position..<end]))
            position = end
            while let record = try decoder.next() {
                if case .data(let offset, let data) = record, let header = decoder.header {
                    let range = ByteRange(checking: offset, count: UInt64(data.count))
                    if range.map({ header.allows($0) }) != true { finding("a record outside the disk") }
                }
                records.append(record)
            }
        }
        try decoder.finish()
        if records.isEmpty { finding("a whole stream without a record") }
    } catch {}
    return records
}

private func withRightChecksums(_ bytes: [UInt8]) -> [UInt8] {
    var stream = bytes
    func sum(_ start: UInt32, _ range: Range<Int>) -> UInt32 {
        stream[range].withUnsafeBytes { crc32c(start, $0) }
    }
    func put(_ value: UInt32, at position: Int) {
        for index in 0..<4 { stream[position + index] = UInt8(truncatingIfNeeded: value >> UInt32(8 * index)) }
    }
    guard stream.count >= 32 else { return stream }
    var running = sum(0, 0..<28)
    put(running, at: 28)
    var position = 32
    while position + 32 <= stream.count {
        let length = stream[position + 4..<position + 8].reversed().reduce(0) { $0 << 8 | Int($1) }
        running = sum(running, position..<position + 28)
        guard position + 32 + length <= stream.count else { break }
        running = sum(running, position + 32..<position + 32 + length)
        put(running, at: position + 28)
        position += 32 + length
    }
    return stream
}

let seeds: [[UInt8]] = {
    guard let header = StreamHeader(diskBytes: 1 << 30, alignment: 4096) else { return [] }
    var compressor = PayloadCompressor()
    var all: [[UInt8]] = []
    for count in 0...3 {
        var output: [UInt8] = []
        var encoder = StreamEncoder(header, to: &output)
        for index in 0..<count {
            let plain = (0..<8192).map { UInt8(truncatingIfNeeded: index == 1 ? $0 &* $0 &* 31 >> 3 : index) }
            let payload = plain.withUnsafeBytes { compressor.payload($0) }
            encoder.append(payload, at: UInt64(index) << 20, to: &output)
            encoder.append(zeros: ByteRange(offset: UInt64(index) << 20 | 8192, count: 4096), to: &output)
        }
        encoder.finish(root: .zero, to: &output)
        all.append(output)
    }
    return all
}()
