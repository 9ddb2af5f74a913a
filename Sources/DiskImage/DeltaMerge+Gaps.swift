internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

extension DeltaMerge {
    /// Moves clusters from the end of the parent's file into places that nobody uses, durably, so that what the child
    /// had given up comes back to the host. Until the map has forgotten the places that were moved from they keep their
    /// bytes, and wait among the allocator's freed ones. On a full host less is moved, or nothing: it is not needed.
    /// - Parameters:
    ///   - lease: of the parent.
    ///   - bytesMax: what is more to move stays.
    func closeGaps(_ lease: borrowing ExclusiveLease, bytesMax: UInt64) throws(DiskError) {
        precondition(lease.path.isSame(as: parent.delta.path), "the right to change another file")
        guard let allocator = parent.allocator, let scanner = BatScanner(parent.delta) else { return }
        let movesMax = min(allocator.freeCount, bytesMax / parent.delta.clusterSize.bytes)
        guard movesMax > 0 else { return }
        let end = allocator.end - movesMax
        var moves: [BatGrowth.Move] = []
        var left: [UInt64] = []
        var isFull = false
        try scanner.forEachEntry { cluster, raw throws(DiskError) in
            guard !isFull, UInt64(moves.count) < movesMax, let place = scanner.place(raw), place >= end else { return }
            let target: UInt64?
            do throws(DiskError) {
                target = try parent.delta.attempt { () throws(SystemError) in try allocator.takeFree(below: end) }
            } catch {
                // Room that was given back can't be had again. The child's file, which goes next, gives some.
                guard error.code == .outOfSpace else { throw error }
                isFull = true
                return
            }
            guard let target else { return }
            try BatGrowth.copy(place, to: target, parent.delta, pool)
            moves.append(BatGrowth.Move(cluster: cluster, raw: scanner.bat.encode(target) ?? 0))
            left.append(place)
        }
        guard !moves.isEmpty else { return }
        try BatGrowth.enter(moves, in: parent.delta)
        for place in left { allocator.release(place) }
    }
}
