internal import BlockIO
internal import ChunkTree
internal import Codecs
internal import DeltaStream
internal import Geometry

/// What is to be copied next.
enum CopyWork: Hashable, Sendable {
    /// Ranges of whole chunks that may hold data, ascending, apart, at most ``CopyStages/batchBytes`` together.
    case read([ByteRange])
    /// A range that reads as zeros at the source.
    case zeros(ByteRange)
}

/// Something for the stream.
enum CopyItem: Hashable, Sendable {
    case data(offset: UInt64, StreamPayload)
    case zeros(ByteRange)
    /// That much of the data is dealt with, sent or not.
    case looked(UInt64)
}

/// The stages between the source's disk and the stream: read, then hash, compare and compress.
///
/// The hash tree holds what the target has. A chunk whose hash is there already is not sent, so a resumed migration
/// sends only what differs, and a granule that was written with what it held costs nothing. That needs whole chunks:
/// the chunks are never larger than the granules of the dirty map.
final class CopyStages: @unchecked Sendable {
    // @unchecked: the tree, the compressor and the digests belong to whoever runs `process`, one thread at a time: the
    // pass's worker while it runs, which is joined before the controller touches the tree again.
    let source: any MigrationSource
    let tree: HashTreeFile
    private var compressor: PayloadCompressor
    private let chunkBytes: UInt64
    /// Bytes that are read together.
    static let batchBytes: UInt64 = 8 << 20
    /// Most plain bytes in one data frame.
    private static let frameBytes: UInt64 = 1 << 20

    init(source: any MigrationSource, tree: HashTreeFile, level: Int32) {
        self.source = source
        self.tree = tree
        compressor = PayloadCompressor(level: level)
        chunkBytes = UInt64(tree.shape.chunkBytes)
    }

    /// Bytes as read.
    struct Batch: Sendable {
        /// Ranges of whole chunks, and where the buffer has their bytes.
        var parts: [(range: ByteRange, position: Int)]
        var buffer: AlignedBuffer
    }

    /// A gap up to this between two ranges is read along: a request of its own costs more.
    private static let gapMax: UInt64 = 32 << 10

    func read(_ ranges: [ByteRange]) throws(MigrationError) -> Batch {
        var requests: [ByteRange] = []
        var parts: [(range: ByteRange, position: Int)] = []
        var position: UInt64 = 0
        for range in ranges {
            if let last = requests.last, range.offset - last.end <= Self.gapMax {
                requests[requests.count - 1] = ByteRange(offset: last.offset, count: range.end - last.offset)
                position += range.offset - last.end
            } else {
                requests.append(range)
            }
            parts.append((range, Int(position)))
            position += range.count
        }
        let buffer = AlignedBuffer(byteCount: Int(position))
        try unsafe source.read(requests, into: buffer.memory)
        return Batch(parts: parts, buffer: buffer)
    }

    /// Hashes a batch, and gives on what the target does not have.
    func process(_ batch: Batch, _ emit: (CopyItem) -> Bool) throws(MigrationError) {
        var looked: UInt64 = 0
        for (range, position) in batch.parts {
            let bytes = unsafe UnsafeRawBufferPointer(
                rebasing: batch.buffer.memory[position..<position + Int(range.count)])
            var run = Run()
            var offset = range.offset
            while offset < range.end {
                let chunk = ByteRange(offset: offset, count: min(chunkBytes, range.end - offset))
                let start = Int(offset - range.offset)
                let id = unsafe ChunkID.of(UnsafeRawBufferPointer(rebasing: bytes[start..<start + Int(chunk.count)]))
                if try tree.setLeaf(offset / chunkBytes, id),
                    !run.extend(chunk, isZero: id.isZero, max: Self.frameBytes)
                {
                    guard unsafe finish(&run, bytes, of: range, emit) else { return }
                    _ = run.extend(chunk, isZero: id.isZero, max: Self.frameBytes)
                }
                offset = chunk.end
            }
            guard unsafe finish(&run, bytes, of: range, emit) else { return }
            looked += range.count
        }
        _ = emit(.looked(looked))
    }

    /// Gives on that the whole chunks in the range read as zeros, wherever the target's do not.
    func clear(_ range: ByteRange, _ emit: (CopyItem) -> Bool) throws(MigrationError) {
        let last = range.end == source.byteCount ? tree.shape.chunkCount : range.end / chunkBytes
        var index = range.offset.dividedRoundingUp(by: chunkBytes)
        var run = Run()
        while let found = try tree.nextContent(from: index), found < last {
            try tree.setLeaf(found, .zero)
            let start = found * chunkBytes
            let chunk = ByteRange(offset: start, count: min(chunkBytes, source.byteCount - start))
            if !run.extend(chunk, isZero: true, max: .max) {
                guard emit(.zeros(run.range)) else { return }
                run = Run()
                _ = run.extend(chunk, isZero: true, max: .max)
            }
            index = found + 1
        }
        if !run.range.isEmpty { guard emit(.zeros(run.range)) else { return } }
    }

    private func finish(
        _ run: inout Run, _ bytes: UnsafeRawBufferPointer, of range: ByteRange, _ emit: (CopyItem) -> Bool
    ) -> Bool {
        defer { run = Run() }
        guard !run.range.isEmpty else { return true }
        if run.isZero { return emit(.zeros(run.range)) }
        let start = Int(run.range.offset - range.offset)
        let plain = unsafe UnsafeRawBufferPointer(rebasing: bytes[start..<start + Int(run.range.count)])
        return emit(.data(offset: run.range.offset, unsafe compressor.payload(plain)))
    }

    /// Neighbouring parts of one kind, to be sent in one frame.
    private struct Run {
        var range = ByteRange(offset: 0, count: 0)
        var isZero = false

        mutating func extend(_ part: ByteRange, isZero: Bool, max: UInt64) -> Bool {
            if range.isEmpty {
                range = part
                self.isZero = isZero
                return true
            }
            guard self.isZero == isZero, range.end == part.offset, isZero || range.count + part.count <= max else {
                return false
            }
            range = ByteRange(offset: range.offset, count: range.count + part.count)
            return true
        }
    }
}
