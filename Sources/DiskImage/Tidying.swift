internal import BlockIO
internal import Geometry
internal import LinuxSystem

/// Brings a file that nobody writes to into the form of a closed image: cut to what is used, and every cluster either
/// written in whole or reserved in whole, which Debian's `ploop check` demands on ext4.
enum Tidying {
    /// How much of a file one look at its extents covers; a multiple of every cluster size.
    private static let windowBytes: UInt64 = 1 << 30

    /// - Parameters:
    ///   - usedEnd: the first cluster beyond all that are in use.
    ///   - yields: readers who want the file are let in, and it is left as it is then.
    /// - Returns: whether it was finished.
    static func run(
        _ delta: DeltaFile, usedEnd: UInt64, _ pool: BufferPool, _ lease: inout ExclusiveLease, yields: Bool = false
    ) throws(DiskError) -> Bool {
        precondition(lease.path.isSame(as: delta.path), "the right to change another file")
        do throws(SystemError) {
            let end = delta.clusterSize.offset(of: usedEnd)
            if try delta.file.size() != end { try delta.file.truncate(to: end) }
            // Elsewhere than on ext4 nobody asks.
            if try delta.file.unwrittenRanges(in: ByteRange(offset: 0, count: delta.clusterSize.bytes)) != nil {
                try fillHoles(of: delta, end)
                guard try fillParts(of: delta, end, pool, &lease, yields) else { return false }
            }
        } catch { throw delta.failure(error) }
        try delta.synchronize()
        return true
    }

    private static func fillHoles(of delta: DeltaFile, _ end: UInt64) throws(SystemError) {
        var position: UInt64 = 0
        while position < end {
            let data = try delta.file.nextData(from: position)
            let gapEnd = min(data?.offset ?? end, end)
            if gapEnd > position {
                do throws(SystemError) {
                    // What is reserved already stays as it is.
                    guard try delta.file.reserve(offset: position, count: gapEnd - position) else { return }
                } catch {
                    // The image is whole with holes, too; only old tools mind them.
                    guard error.isOutOfSpace else { throw error }
                    return
                }
            }
            guard let data else { return }
            position = data.offset + data.count
        }
    }

    /// - Returns: whether all parts are filled, and none is left to a reader.
    private static func fillParts(
        of delta: DeltaFile, _ end: UInt64, _ pool: BufferPool, _ lease: inout ExclusiveLease, _ yields: Bool
    ) throws(SystemError) -> Bool {
        let size = delta.clusterSize
        var window: UInt64 = 0
        while window < end {
            let range = ByteRange(offset: window, count: min(windowBytes, end - window))
            window = range.end
            for part in try delta.file.unwrittenRanges(in: range) ?? [] {
                let headEnd =
                    size.remainder(of: part.offset) == 0
                    ? part.offset : min(part.offset.roundedUp(toMultipleOf: size.bytes), part.end)
                if headEnd > part.offset {
                    try rewrite(ByteRange(offset: part.offset, count: headEnd - part.offset), of: delta, pool)
                }
                let tailStart = max(headEnd, part.end - size.remainder(of: part.end))
                if tailStart < part.end {
                    try rewrite(ByteRange(offset: tailStart, count: part.end - tailStart), of: delta, pool)
                }
                if yields, try !lease.letReadersIn() { return false }
            }
        }
        return true
    }

    /// Reads a part of a file and writes the same bytes back. Nobody else may be writing there.
    static func rewrite(_ range: ByteRange, of delta: DeltaFile, _ pool: BufferPool) throws(SystemError) {
        let blocks = range.alignedOutward(to: UInt64(delta.file.alignment))
        var position = blocks.offset
        while position < blocks.end {
            let count = min(UInt64(BufferPool.pieceBytes), blocks.end - position)
            try unsafe pool.withBuffer(Int(count)) { buffer throws(SystemError) in
                try unsafe delta.file.read(at: position, into: buffer)
                try unsafe delta.file.write(at: position, from: UnsafeRawBufferPointer(buffer))
            }
            position += count
        }
    }
}
