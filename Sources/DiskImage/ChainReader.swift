internal import BlockIO
internal import Geometry
internal import LinuxSystem

/// Reads the device that a chain makes: one batch of transfers per file and group of clusters.
struct ChainReader: Sendable {
    /// How much of the device one batch covers, at most.
    private static let groupBytes: UInt64 = 8 << 20

    let map: ClusterMap
    let pool: BufferPool
    let locks: ClusterLocks

    /// The part of `range` from its start on that is handled under one set of locks.
    static func group(of range: ByteRange, _ clusterSize: ClusterSize) -> ByteRange {
        let clusters = min(max(1, groupBytes / clusterSize.bytes), ClusterLocks.runMax)
        let end = clusterSize.offset(of: clusterSize.cluster(at: range.offset) + clusters)
        return ByteRange(offset: range.offset, count: min(range.end, end) - range.offset)
    }

    /// The clusters that a range of bytes touches.
    static func clusters(of range: ByteRange, _ clusterSize: ClusterSize) -> Range<UInt64> {
        clusterSize.cluster(at: range.offset)..<clusterSize.cluster(at: range.end - 1) + 1
    }

    func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer, chain: Chain) throws(DiskError) {
        var rest = ByteRange(offset: offset, count: UInt64(memory.count))
        while !rest.isEmpty {
            let group = Self.group(of: rest, chain.clusterSize)
            let clusters = Self.clusters(of: group, chain.clusterSize)
            let start = Int(group.offset - offset)
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + Int(group.count)])
            try locks.withLocks(clusters, exclusive: false) { () throws(DiskError) in
                let entries = try map.entries(from: clusters.lowerBound, count: clusters.count, chain: chain)
                try unsafe readGroup(group, entries, into: part, chain: chain)
            }
            rest = ByteRange(offset: group.end, count: rest.end - group.end)
        }
    }

    private func readGroup(
        _ range: ByteRange, _ entries: [MapEntry], into memory: UnsafeMutableRawBufferPointer, chain: Chain
    ) throws(DiskError) {
        if unsafe Self.isAligned(range, UnsafeRawBufferPointer(memory), to: chain.alignment) {
            return try unsafe transfer(.read, range, entries, memory, chain: chain)
        }
        // Through an aligned buffer, in pieces of whole blocks.
        let unit = UInt64(chain.alignment)
        let first = chain.clusterSize.cluster(at: range.offset)
        var piece = range.offset & ~(unit - 1)
        while piece < range.end {
            let count = min(UInt64(BufferPool.pieceBytes), (range.end - piece).roundedUp(toMultipleOf: unit))
            let block = ByteRange(offset: piece, count: count)
            let wanted = block.intersection(range)
            let skipped = Int(chain.clusterSize.cluster(at: piece) - first)
            try unsafe pool.withBuffer(Int(count)) { buffer throws(DiskError) in
                try unsafe transfer(.read, block, Array(entries[skipped...]), buffer, chain: chain)
                let start = Int(wanted.offset - range.offset)
                unsafe UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + Int(wanted.count)]).copyMemory(
                    from: UnsafeRawBufferPointer(
                        rebasing: buffer[Int(wanted.offset - piece)..<Int(wanted.end - piece)]))
            }
            piece += count
        }
    }

    static func isAligned(_ range: ByteRange, _ memory: UnsafeRawBufferPointer, to alignment: Int) -> Bool {
        if alignment == 1 { return true }
        let mask = UInt64(alignment) - 1
        let address = UInt64(UInt(bitPattern: memory.baseAddress))
        return (range.offset | range.count | address) & mask == 0
    }

    /// Moves a range between memory and the files that `entries` name, one entry per cluster that it touches. Holes
    /// read as zeros; writes need all of them in the top.
    func transfer(
        _ operation: Transfer.Operation, _ range: ByteRange, _ entries: [MapEntry],
        _ memory: UnsafeMutableRawBufferPointer, chain: Chain
    ) throws(DiskError) {
        var plan = unsafe TransferPlan()
        var position = range.offset
        for entry in entries {
            guard position < range.end else { break }
            let inner = chain.clusterSize.remainder(of: position)
            let count = min(chain.clusterSize.bytes - inner, range.end - position)
            let start = Int(position - range.offset)
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + Int(count)])
            if entry.isInvalid {
                throw DiskError(
                    .corrupt,
                    "an image of the disk with \(chain.top?.path ?? "") is damaged, so byte \(position) of the disk "
                        + "can't be read: 'godwit disk check' tells which one, and what is wrong with it",
                    path: chain.top?.path ?? "")
            } else if entry.isNone {
                unsafe part.fillWithZeros()
            } else {
                let offset = chain.clusterSize.offset(of: UInt64(entry.cluster)) + inner
                unsafe plan.add(Transfer(operation, at: offset, memory: part), level: Int(entry.level))
            }
            position += count
        }
        try unsafe plan.perform(chain)
    }
}

/// Transfers of a batch by file; those that continue each other are joined.
@unsafe struct TransferPlan {
    @unsafe private struct Batch {
        var level: Int
        var transfers: [Transfer]
    }
    private var batches: [Batch]
    init() { unsafe batches = [] }

    mutating func add(_ transfer: Transfer, level: Int) {
        guard let index = unsafe batches.firstIndex(where: { unsafe $0.level == level }) else {
            unsafe batches.append(Batch(level: level, transfers: [transfer]))
            return
        }
        let end = unsafe batches[index].transfers.count - 1
        let last = unsafe batches[index].transfers[end]
        if unsafe last.offset + UInt64(last.memory.count) == transfer.offset,
            let start = unsafe last.memory.baseAddress, let next = unsafe transfer.memory.baseAddress,
            unsafe start + last.memory.count == next
        {
            let joined = unsafe UnsafeMutableRawBufferPointer(
                start: start, count: last.memory.count + transfer.memory.count)
            unsafe batches[index].transfers[end] = Transfer(last.operation, at: last.offset, memory: joined)
        } else {
            unsafe batches[index].transfers.append(transfer)
        }
    }

    func perform(_ chain: Chain) throws(DiskError) {
        for index in unsafe batches.indices {
            let batch = unsafe batches[index]
            let delta = unsafe chain.deltas[batch.level]
            do throws(SystemError) {
                try unsafe delta.file.perform(batch.transfers)
            } catch { throw delta.failure(error) }
        }
    }
}
