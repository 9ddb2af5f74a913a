internal import BlockIO
internal import ChunkTree
internal import Codecs
internal import DeltaStream
internal import DiskImage
internal import Geometry
internal import LinuxSystem

/// The copy as it grows: the disk, the stream that is applied to it, and the hashes of what was applied. For one
/// thread.
final class IncomingCopy {
    let offer: MigrationOffer
    private let disk: any TargetDisk
    private let tree: HashTreeFile
    private var decoder = StreamDecoder()
    private var received: UInt64 = 0
    private var end: StreamSummary?
    /// Chunks that were changed in part: hashed when they are needed, from the disk.
    private var pending: Set<UInt64> = []
    private static let pendingMax = 1 << 16
    private static let readBytes: UInt64 = 1 << 20
    private let chunkBytes: UInt64
    private let buffer = AlignedBuffer(byteCount: Int(readBytes))

    init(offer: MigrationOffer, disk: any TargetDisk, tree: HashTreeFile) {
        self.offer = offer
        self.disk = disk
        self.tree = tree
        chunkBytes = UInt64(offer.chunkBytes)
    }

    /// Hashes all that is on the disk, and tells of it.
    func rehash(_ tell: (LeafRun) throws(MigrationError) -> Void) throws(MigrationError) {
        var position: UInt64 = 0
        var run = LeafRun(first: 0, ids: [])
        while position < disk.byteCount {
            let rest = ByteRange(offset: position, count: disk.byteCount - position)
            let extents = try onDisk { () throws(DiskError) in try disk.extents(in: rest, limit: 1024) }
            guard let last = extents.last, last.range.end > position else {
                throw MigrationError(.target, "the partial copy does not tell what it holds")
            }
            for extent in extents where extent.isAllocated && !extent.isZero {
                var part = extent.range.alignedOutward(to: chunkBytes).intersection(rest)
                // The extent before may have ended in the chunk that this one begins in.
                let done = run.ids.isEmpty ? 0 : (run.first + UInt64(run.ids.count)) * chunkBytes
                if part.end <= done { continue }
                if part.offset < done { part = ByteRange(offset: done, count: part.end - done) }
                try rehash(part, &run, tell)
            }
            position = last.range.end
        }
        if !run.ids.isEmpty { try tell(run) }
    }

    private func rehash(
        _ range: ByteRange, _ run: inout LeafRun, _ tell: (LeafRun) throws(MigrationError) -> Void
    ) throws(MigrationError) {
        var position = range.offset / chunkBytes * chunkBytes
        while position < range.end {
            let count = min(
                Self.readBytes, disk.byteCount - position, range.end.roundedUp(toMultipleOf: chunkBytes) - position)
            let memory = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.memory[..<Int(count)])
            try onDisk { () throws(DiskError) in try unsafe disk.read(at: position, into: memory) }
            var offset: UInt64 = 0
            while offset < count {
                let length = min(chunkBytes, count - offset)
                let chunk = unsafe UnsafeRawBufferPointer(rebasing: memory[Int(offset)..<Int(offset + length)])
                let index = (position + offset) / chunkBytes
                let id = unsafe ChunkID.of(chunk)
                try tree.setLeaf(index, id)
                if run.first + UInt64(run.ids.count) != index || run.ids.count >= MigrationMessage.leavesMax {
                    if !run.ids.isEmpty { try tell(run) }
                    run = LeafRun(first: index, ids: [])
                }
                run.ids.append(id)
                offset += length
            }
            position += count
        }
    }

    /// Applies the next piece of the stream. - Returns: how much of the stream has come so far.
    func apply(_ bytes: [UInt8]) throws(MigrationError) -> UInt64 {
        received += UInt64(bytes.count)
        decoder.feed(bytes)
        while let record = try decoded() {
            switch record {
            case .data(let offset, let bytes): try write(bytes, at: offset)
            case .zeros(let range): try zero(range)
            case .end(let summary): end = summary
            }
        }
        return received
    }

    private func decoded() throws(MigrationError) -> StreamRecord? {
        do throws(StreamError) {
            let record = try decoder.next()
            if let header = decoder.header, header.diskBytes != offer.sizeBytes {
                throw StreamError(.corrupt, "the delta stream is of a disk of \(header.diskBytes) bytes")
            }
            return record
        } catch {
            throw MigrationError(.protocolViolation, error.message)
        }
    }

    private func write(_ bytes: [UInt8], at offset: UInt64) throws(MigrationError) {
        var failure: DiskError?
        unsafe bytes.withUnsafeBytes { memory in
            do throws(DiskError) { try unsafe disk.write(at: offset, from: memory, durable: false) } catch {
                failure = error
            }
        }
        if let failure { throw MigrationError(.target, failure.message) }
        let range = ByteRange(offset: offset, count: UInt64(bytes.count))
        for index in offset / chunkBytes..<range.end.dividedRoundingUp(by: chunkBytes) {
            let chunk = ByteRange(offset: index * chunkBytes, count: UInt64(tree.shape.length(of: index)))
            guard range.contains(chunk) else {
                try postpone(index)
                continue
            }
            let start = Int(chunk.offset - offset)
            let id = unsafe bytes.withUnsafeBytes { memory in
                unsafe ChunkID.of(UnsafeRawBufferPointer(rebasing: memory[start..<start + Int(chunk.count)]))
            }
            pending.remove(index)
            try tree.setLeaf(index, id)
        }
    }

    private func zero(_ range: ByteRange) throws(MigrationError) {
        try onDisk { () throws(DiskError) in try disk.writeZeroes(range, mayDiscard: true, durable: false) }
        let first = range.offset.dividedRoundingUp(by: chunkBytes)
        let last = range.end == disk.byteCount ? tree.shape.chunkCount : range.end / chunkBytes
        if first < last {
            if !pending.isEmpty { pending = pending.filter { $0 < first || $0 >= last } }
            try tree.clear(first..<last)
        }
        for edge in [range.offset / chunkBytes, (range.end - 1) / chunkBytes] where edge < first || edge >= last {
            try postpone(edge)
        }
    }

    private func postpone(_ index: UInt64) throws(MigrationError) {
        pending.insert(index)
        if pending.count >= Self.pendingMax { try settle() }
    }

    /// Hashes the chunks that were changed in part.
    private func settle() throws(MigrationError) {
        for index in pending.sorted() {
            let memory = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.memory[..<tree.shape.length(of: index)])
            try onDisk { () throws(DiskError) in try unsafe disk.read(at: index * chunkBytes, into: memory) }
            try tree.setLeaf(index, unsafe ChunkID.of(UnsafeRawBufferPointer(memory)))
        }
        pending = []
    }

    /// Makes durable what has come. - Returns: how long that took, in nanoseconds.
    func sync(_ time: any TimeSource) throws(MigrationError) -> UInt64 {
        try settle()
        _ = try tree.root()
        let start = time.monotonic()
        try onDisk { () throws(DiskError) in try disk.flush() }
        return time.elapsed(since: start)
    }

    /// Proves that the copy is whole, and closes it.
    func prepare() throws(MigrationError) -> Digest {
        do throws(StreamError) { try decoder.finish() } catch {
            throw MigrationError(.protocolViolation, error.message)
        }
        guard let end else { throw MigrationError(.protocolViolation, "the stream has not ended") }
        try settle()
        let root = try tree.root()
        guard root == end.root else {
            throw MigrationError(.digestMismatch, "the copy has digest \(root), the source's disk \(end.root)")
        }
        try close()
        return root
    }

    func close() throws(MigrationError) {
        try onDisk { () throws(DiskError) in try disk.close() }
    }

    private func onDisk<R>(_ body: () throws(DiskError) -> R) throws(MigrationError) -> R {
        do throws(DiskError) { return try body() } catch { throw MigrationError(.target, error.message) }
    }
}
