internal import BlockIO
internal import Geometry
internal import LinuxSystem

/// Changes the device that a chain makes, in its top delta. Callers are inside the gate as writers, with the in-use
/// mark durable.
struct ChainWriter: Sendable {
    let reader: ChainReader
    let detectZeroes: Bool

    private var map: ClusterMap { reader.map }
    private var pool: BufferPool { reader.pool }
    private var locks: ClusterLocks { reader.locks }

    /// What zeros may do to whole clusters.
    enum ZeroIntent {
        /// The bytes are not needed: give back what can be.
        case discard
        /// They have to read as zeros; the space may go.
        case zero
        /// They have to read as zeros and keep, or get, their space.
        case zeroAllocated
    }

    // MARK: Writing

    func write(
        at offset: UInt64, from memory: UnsafeRawBufferPointer, _ chain: Chain, _ top: WritableDelta
    ) throws(DiskError) {
        var rest = ByteRange(offset: offset, count: UInt64(memory.count))
        while !rest.isEmpty {
            let group = ChainReader.group(of: rest, chain.clusterSize)
            let start = Int(group.offset - offset)
            let part = unsafe UnsafeRawBufferPointer(rebasing: memory[start..<start + Int(group.count)])
            if try unsafe !overwrite(group, part, chain) {
                try unsafe writeClusters(group, part, chain, top)
            }
            rest = ByteRange(offset: group.end, count: rest.end - group.end)
        }
    }

    /// The fast path: whole blocks of clusters that the top has. - Returns: `false` when they are not.
    private func overwrite(_ range: ByteRange, _ memory: UnsafeRawBufferPointer, _ chain: Chain) throws(DiskError)
        -> Bool
    {
        let unit = UInt64(chain.alignment)
        guard (range.offset | range.count) & (unit - 1) == 0 else { return false }
        let clusters = ChainReader.clusters(of: range, chain.clusterSize)
        return try locks.withLocks(clusters, exclusive: false) { () throws(DiskError) in
            let entries = try map.entries(from: clusters.lowerBound, count: clusters.count, chain: chain)
            guard entries.allSatisfy({ $0.level == chain.topLevel }) else { return false }
            // Written from, never to.
            let memory = unsafe UnsafeMutableRawBufferPointer(mutating: memory)
            if unsafe ChainReader.isAligned(range, UnsafeRawBufferPointer(memory), to: chain.alignment) {
                try unsafe reader.transfer(.write, range, entries, memory, chain: chain)
                return true
            }
            var done: UInt64 = 0
            while done < range.count {
                let piece = ByteRange(
                    offset: range.offset + done, count: min(UInt64(BufferPool.pieceBytes), range.count - done))
                let skipped = Int(chain.clusterSize.cluster(at: piece.offset) - clusters.lowerBound)
                try unsafe pool.withBuffer(Int(piece.count)) { buffer throws(DiskError) in
                    let source = unsafe memory[Int(done)..<Int(done + piece.count)]
                    unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: source))
                    try unsafe reader.transfer(.write, piece, Array(entries[skipped...]), buffer, chain: chain)
                }
                done += piece.count
            }
            return true
        }
    }

    private func writeClusters(
        _ range: ByteRange, _ memory: UnsafeRawBufferPointer, _ chain: Chain, _ top: WritableDelta
    ) throws(DiskError) {
        try forEachCluster(of: range, chain) { cluster, inner throws(DiskError) in
            let start = Int(chain.clusterSize.offset(of: cluster) + inner.lowerBound - range.offset)
            let part = unsafe UnsafeRawBufferPointer(rebasing: memory[start..<start + inner.count])
            let entry = try map.entry(of: cluster, chain: chain)
            if entry.isNone, detectZeroes, unsafe part.isAllZero { return }
            try unsafe put(part, inner, cluster, entry, chain, top)
        }
    }

    /// Calls `body` for each cluster that a range touches, with its lock held exclusively.
    private func forEachCluster(
        of range: ByteRange, _ chain: Chain,
        _ body: (_ cluster: UInt64, _ inner: Range<UInt64>) throws(DiskError) -> Void
    ) throws(DiskError) {
        for cluster in ChainReader.clusters(of: range, chain.clusterSize) {
            let start = chain.clusterSize.offset(of: cluster)
            let part = ByteRange(offset: start, count: chain.clusterSize.bytes).intersection(range)
            try locks.withLocks(cluster..<cluster + 1, exclusive: true) { () throws(DiskError) in
                try body(cluster, part.offset - start..<part.end - start)
            }
        }
    }

    /// Puts bytes into a cluster, wherever it is; `nil`: zeros.
    private func put(
        _ memory: UnsafeRawBufferPointer?, _ inner: Range<UInt64>, _ cluster: UInt64, _ entry: MapEntry, _ chain: Chain,
        _ top: WritableDelta
    ) throws(DiskError) {
        let size = chain.clusterSize.bytes
        if entry.isInvalid {
            throw DiskError(
                .corrupt, "\(top.delta.path): the block table is damaged at cluster \(cluster); check the disk",
                path: top.delta.path)
        }
        if entry.level == chain.topLevel {
            let base = chain.clusterSize.offset(of: UInt64(entry.cluster))
            let blocks = blocks(around: inner, top.delta)
            try unsafe compose(top.delta, base, blocks, memory, inner, fill: (top.delta, base))
            return
        }
        try allocate(for: cluster, chain, top) { base, isZero throws(DiskError) in
            let valid = top.delta.validBytes(of: cluster, deviceBytes: chain.byteCount)
            if entry.isNone || (inner.lowerBound == 0 && inner.upperBound >= valid) {
                let blocks = isZero ? blocks(around: inner, top.delta) : 0..<size
                try unsafe compose(top.delta, base, blocks, memory, inner, fill: nil)
                return blocks.count < Int(size)
            }
            let below = chain.deltas[Int(entry.level)]
            let source = chain.clusterSize.offset(of: UInt64(entry.cluster))
            try unsafe compose(top.delta, base, 0..<size, memory, inner, fill: (below, source))
            return false
        }
    }

    /// Gives `cluster` a place in the top and points the map to it once `body` has filled that place.
    /// - Parameter body: gets the place's offset in the file and whether it reads as zeros; returns whether it leaves
    ///   parts
    ///   of it unwritten.
    private func allocate(
        for cluster: UInt64, _ chain: Chain, _ top: WritableDelta,
        _ body: (_ base: UInt64, _ isZero: Bool) throws(DiskError) -> Bool
    ) throws(DiskError) {
        guard let allocator = top.allocator else { return }
        let place: ClusterAllocator.Allocation
        do throws(SystemError) { place = try allocator.allocate() } catch { throw top.delta.failure(error) }
        do throws(DiskError) {
            let isPartial = try body(chain.clusterSize.offset(of: place.cluster), place.isZero)
            try map.set(cluster, to: place.cluster, chain: chain)
            if isPartial { top.notePartial(cluster) }
        } catch {
            allocator.release(place.cluster)
            throw error
        }
    }

    private func blocks(around inner: Range<UInt64>, _ delta: DeltaFile) -> Range<UInt64> {
        let unit = UInt64(delta.file.alignment)
        return inner.lowerBound & ~(unit - 1)..<inner.upperBound.roundedUp(toMultipleOf: unit)
    }

    /// Writes the part `range` of a cluster that starts at `base` of the file: in `inner` the bytes of `memory` (`nil`:
    /// zeros), around it those of `fill`'s file (`nil`: zeros).
    private func compose(
        _ delta: DeltaFile, _ base: UInt64, _ range: Range<UInt64>, _ memory: UnsafeRawBufferPointer?,
        _ inner: Range<UInt64>, fill: (delta: DeltaFile, base: UInt64)?
    ) throws(DiskError) {
        var position = range.lowerBound
        while position < range.upperBound {
            let piece = position..<min(position + UInt64(BufferPool.pieceBytes), range.upperBound)
            position = piece.upperBound
            let covered = piece.clamped(to: inner)
            do throws(SystemError) {
                if covered == piece {
                    let source =
                        unsafe memory.map {
                            unsafe UnsafeRawBufferPointer(
                                rebasing: $0[
                                    Int(piece.lowerBound - inner.lowerBound)..<Int(piece.upperBound - inner.lowerBound)]
                            )
                        } ?? UnsafeRawBufferPointer(ZeroMemory.bytes(piece.count))
                    let whole = ByteRange(offset: base + piece.lowerBound, count: UInt64(piece.count))
                    if unsafe ChainReader.isAligned(whole, source, to: delta.file.alignment) {
                        try unsafe delta.file.write(at: whole.offset, from: source)
                        continue
                    }
                }
                try unsafe pool.withBuffer(piece.count) { buffer throws(SystemError) in
                    if covered != piece {
                        if let fill {
                            try unsafe fill.delta.file.read(at: fill.base + piece.lowerBound, into: buffer)
                        } else {
                            unsafe buffer.fillWithZeros()
                        }
                    }
                    if !covered.isEmpty {
                        let target = unsafe UnsafeMutableRawBufferPointer(
                            rebasing: buffer[
                                Int(covered.lowerBound - piece.lowerBound)..<Int(covered.upperBound - piece.lowerBound)]
                        )
                        if let memory = unsafe memory {
                            let source = unsafe memory[
                                Int(covered.lowerBound - inner.lowerBound)..<Int(covered.upperBound - inner.lowerBound)]
                            unsafe target.copyMemory(from: UnsafeRawBufferPointer(rebasing: source))
                        } else {
                            unsafe target.fillWithZeros()
                        }
                    }
                    try unsafe delta.file.write(at: base + piece.lowerBound, from: UnsafeRawBufferPointer(buffer))
                }
            } catch { throw delta.failure(error) }
        }
    }

    // MARK: Zeros

    func zero(_ range: ByteRange, _ intent: ZeroIntent, _ chain: Chain, _ top: WritableDelta) throws(DiskError) {
        try forEachCluster(of: range, chain) { cluster, inner throws(DiskError) in
            let valid = top.delta.validBytes(of: cluster, deviceBytes: chain.byteCount)
            let isWhole = inner.lowerBound == 0 && inner.upperBound >= valid
            let entry = try map.entry(of: cluster, chain: chain)
            if entry.isNone, intent != .zeroAllocated { return }
            guard isWhole, !entry.isInvalid else {
                if intent != .discard { try unsafe put(nil, inner, cluster, entry, chain, top) }
                return
            }
            if entry.level == chain.topLevel {
                try zeroInTop(cluster, entry, valid, intent, chain, top)
                return
            }
            if intent != .zeroAllocated, try hide(cluster, chain, top) { return }
            // A hint is not worth any space.
            if intent == .discard { return }
            try allocate(for: cluster, chain, top) { base, isZero throws(DiskError) in
                let size = chain.clusterSize.bytes
                if !isZero { try unsafe compose(top.delta, base, 0..<size, nil, 0..<size, fill: nil) }
                return isZero
            }
        }
    }

    /// Hides what a lower delta has of a cluster behind a place of the top that takes no space.
    /// - Returns: `false`, with nothing done, where the host has no such thing.
    private func hide(_ cluster: UInt64, _ chain: Chain, _ top: WritableDelta) throws(DiskError) -> Bool {
        guard let allocator = top.allocator else { return false }
        let hole = try top.delta.attempt { () throws(SystemError) in try allocator.allocateHole() }
        guard let hole else { return false }
        do throws(DiskError) { try map.set(cluster, to: hole, chain: chain) } catch {
            allocator.release(hole)
            throw error
        }
        top.noteHole()
        return true
    }

    private func zeroInTop(
        _ cluster: UInt64, _ entry: MapEntry, _ valid: UInt64, _ intent: ZeroIntent, _ chain: Chain,
        _ top: WritableDelta
    ) throws(DiskError) {
        let base = chain.clusterSize.offset(of: UInt64(entry.cluster))
        if intent != .zeroAllocated {
            if let allocator = top.allocator {
                if !entry.isCovered {
                    try map.clear(cluster, chain: chain)
                    allocator.release(UInt64(entry.cluster))
                    return
                }
                let isPunched = try top.delta.attempt { () throws(SystemError) in
                    try top.delta.file.punch(offset: base, count: chain.clusterSize.bytes)
                }
                if isPunched { return top.noteHole() }
            } else {
                let isPunched = try top.delta.attempt { () throws(SystemError) in
                    try top.delta.file.punch(offset: base, count: valid)
                }
                if isPunched { return }
            }
        }
        let count = top.delta.isRaw ? valid : chain.clusterSize.bytes
        let isZeroed = try top.delta.attempt { () throws(SystemError) in
            try top.delta.file.zero(offset: base, count: count)
        }
        if isZeroed {
            top.notePartial(cluster)
        } else {
            try unsafe compose(top.delta, base, 0..<count, nil, 0..<count, fill: nil)
        }
    }

    // MARK: Moving

    /// Moves a cluster of the top whose place in the file is at or beyond `end` to a free one below.
    /// - Returns: whether there was something to do, and room.
    func move(_ cluster: UInt64, beyond end: UInt64, _ chain: Chain, _ top: WritableDelta) throws(DiskError) -> Bool {
        try locks.withLocks(cluster..<cluster + 1, exclusive: true) { () throws(DiskError) in
            let entry = try map.entry(of: cluster, chain: chain)
            guard entry.level == chain.topLevel, UInt64(entry.cluster) >= end, let allocator = top.allocator else {
                return false
            }
            let target = try top.delta.attempt { () throws(SystemError) in try allocator.takeFree(below: end) }
            guard let target else { return false }
            try relocate(cluster, entry, to: target, chain, top, allocator)
            return true
        }
    }

    /// Moves a cluster of the top whose place in the file is in `room` to a fresh one.
    /// - Returns: whether there was something to do.
    func moveUp(
        _ cluster: UInt64, outOf room: Range<UInt64>, _ chain: Chain, _ top: WritableDelta
    ) throws(DiskError) -> Bool {
        try locks.withLocks(cluster..<cluster + 1, exclusive: true) { () throws(DiskError) in
            let entry = try map.entry(of: cluster, chain: chain)
            guard entry.level == chain.topLevel, room.contains(UInt64(entry.cluster)), let allocator = top.allocator
            else {
                return false
            }
            let target = try top.delta.attempt { () throws(SystemError) in try allocator.allocate() }
            try relocate(cluster, entry, to: target.cluster, chain, top, allocator)
            return true
        }
    }

    /// Copies a cluster of the top to another place in its file and points the map there. The lock is held.
    private func relocate(
        _ cluster: UInt64, _ entry: MapEntry, to target: UInt64, _ chain: Chain, _ top: WritableDelta,
        _ allocator: ClusterAllocator
    ) throws(DiskError) {
        let size = chain.clusterSize
        do throws(DiskError) {
            try unsafe compose(
                top.delta, size.offset(of: target), 0..<size.bytes, nil, 0..<0,
                fill: (top.delta, size.offset(of: UInt64(entry.cluster))))
            try map.set(cluster, to: target, chain: chain)
        } catch {
            allocator.release(target)
            throw error
        }
        allocator.release(UInt64(entry.cluster))
    }

    // MARK: Settling

    /// Writes what was never written of a cluster of the top, so that the host has all of it on record as data.
    func settle(_ cluster: UInt64, _ chain: Chain, _ top: WritableDelta) throws(DiskError) {
        try locks.withLocks(cluster..<cluster + 1, exclusive: true) { () throws(DiskError) in
            let entry = try map.entry(of: cluster, chain: chain)
            guard entry.level == chain.topLevel, !top.delta.isRaw else { return }
            let place = ByteRange(
                offset: chain.clusterSize.offset(of: UInt64(entry.cluster)), count: chain.clusterSize.bytes)
            do throws(SystemError) {
                guard let parts = try top.delta.file.unwrittenRanges(in: place) else { return }
                // Reserved in whole is as good as written in whole.
                for part in parts where part != place { try Tidying.rewrite(part, of: top.delta, pool) }
            } catch { throw top.delta.failure(error) }
        }
    }
}
