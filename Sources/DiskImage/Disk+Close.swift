internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import Synchronization

extension Disk {
    /// Flushes, fills partly written clusters, cuts the files to what is used, marks them closed, drops the lock.
    /// No request may follow. Without it the next open repairs.
    public func close() throws(DiskError) {
        let isFirst = maintenance.change { state in
            defer { state.isClosed = true }
            return !state.isClosed
        }
        guard isFirst else { return }
        defer { locks.withLock { $0.removeAll() } }
        maintenance.await { state -> Void? in
            state.isMerging || state.isGrowing || state.isSwitching || (state.isPreparing && state.prepared == nil)
                ? nil : ()
        }
        if let prepared = maintenance.withLock({ $0.prepared }) { abandonSnapshot(prepared) }
        maintenance.withLock { $0.finisher }?.join()
        gate.end(DiskError(.invalid, "\(path) was closed", path: path))
        guard let top = gate.chain.writable else { return }
        var failure: DiskError?
        do throws(DiskError) { try finishFrozen() } catch { failure = error }
        try finishTop(top)
        if let failure { throw failure }
    }

    private func finishTop(_ top: WritableDelta) throws(DiskError) {
        guard top.isMarkedInUse else { return }
        try flushInside()
        guard !top.delta.isRaw else { return }
        try compact()
        var lease = ExclusiveLease.ofTop(top.delta.path, in: fs)
        _ = try finish(top, &lease)
    }

    /// Compacts until nothing is left to move; requests may run.
    /// - Parameter progress: called between the parts with clusters moved and in all; `false` stops.
    /// - Returns: whether it was finished.
    public func compactNow(progress: (_ done: UInt64, _ total: UInt64) -> Bool) throws(DiskError) -> Bool {
        try beginMaintenance { state in
            guard !state.isMerging, !state.isGrowing else { return nil }
            state.isMerging = true
            return ()
        }
        defer { endMaintenance { $0.isMerging = false } }
        // What is freed but not yet durably so can't be used.
        try flush()
        let total = gate.chain.writable?.allocator?.freeCount ?? 0
        var rest = total
        while rest > 0 {
            guard progress(total - min(total, rest), total) else { return false }
            try compact()
            let left = gate.chain.writable?.allocator?.freeCount ?? 0
            guard left < rest else { break }
            rest = left
        }
        return true
    }

    /// Moves clusters from the end of the top's file into places that were freed, so that the file can be cut. Requests
    /// may run. What is too much to move in one go stays.
    func compact() throws(DiskError) {
        let chain = gate.chain
        guard let top = chain.writable, let allocator = top.allocator, let scanner = BatScanner(top.delta) else {
            return
        }
        guard allocator.freeCount > 0 else { return }
        try cutEnd(top)
        let movesMax = options.compactBytesMax / clusterSize.bytes
        let end = allocator.end - min(allocator.freeCount, movesMax)
        guard allocator.freeCount > 0, movesMax > 0 else { return }
        var moves: UInt64 = 0
        try scanner.forEachEntry { cluster, raw throws(DiskError) in
            guard moves < movesMax, let place = scanner.place(raw), place >= end else { return }
            if try writer.move(cluster, beyond: end, chain, top) { moves += 1 }
        }
        guard moves > 0 else { return }
        try flushInside()
        try cutEnd(top)
    }

    private func cutEnd(_ top: WritableDelta) throws(DiskError) {
        try top.delta.attempt { () throws(SystemError) in try top.allocator?.cutEnd() }
    }
}
