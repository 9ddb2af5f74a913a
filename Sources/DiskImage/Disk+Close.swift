internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import Synchronization

extension Disk {
    /// Flushes, fills partly written clusters, cuts the files to what is used, marks them closed, drops the lock.
    /// No request may follow. Without it the next open repairs.
    /// - Throws: what failed, every time that it is called: a disk that is not closed well is repaired when it is
    ///   opened.
    public func close() throws(DiskError) {
        guard maintenance.change({ $0.activities.beginClosing() }) else {
            if let failure = maintenance.withLock({ $0.closeFailure }) { throw failure }
            return
        }
        defer { locks.withLock { $0.removeAll() } }
        maintenance.await { state -> Void? in state.activities.mayClose ? () : nil }
        if let prepared = maintenance.withLock({ $0.prepared }) { abandonSnapshot(prepared) }
        maintenance.withLock { $0.finisher }?.join()
        gate.end(DiskError(.invalid, "\(path) was closed", path: path))
        guard let top = gate.chain.writable else { return }
        var failure: DiskError?
        // Each of them whatever became of those before it.
        do throws(DiskError) { try finishFrozen() } catch { failure = error }
        do throws(DiskError) { try finishTop(top) } catch { failure = failure?.and(error) ?? error }
        var left: DiskError?
        do throws(DiskError) { try recordSizeIfPossible() } catch { left = error }
        // What is wrong with the descriptor this tells better.
        do throws(DiskError) { try folder?.leave() } catch { left = error }
        if let left { failure = failure?.and(left) ?? left }
        // What the host could not store must not be what the next one reads.
        if failure != nil || maintenance.withLock({ !$0.doubtful.isEmpty }) {
            for delta in gate.chain.deltas { delta.file.dropCache() }
        }
        guard let failure else { return }
        maintenance.change { $0.closeFailure = failure }
        throw failure
    }

    private func finishTop(_ top: WritableDelta) throws(DiskError) {
        if let failure = gate.failure { throw failure }
        guard top.isMarkedInUse else { return }
        try flushInside()
        guard !top.delta.isRaw else { return }
        do throws(DiskError) { _ = try compact(bytesMax: options.compactBytesMax, .alone) } catch {
            // On a full host what was trimmed stays where it is.
            guard error.code == .outOfSpace else { throw error }
        }
        var lease = ExclusiveLease.ofTop(top.delta.path, in: fs)
        _ = try finish(top, &lease)
    }

    // MARK: Compaction

    /// Compacts until nothing is left to move; requests may run, and snapshots are taken meanwhile.
    /// - Parameter progress: called between the parts with clusters moved and in all; `false` stops.
    /// - Returns: whether it was finished.
    public func compactNow(progress: (_ done: UInt64, _ total: UInt64) -> Bool) throws(DiskError) -> Bool {
        try begin(.compact)
        defer { end(.compact) }
        try proveOwned()
        var total: UInt64?
        var rest: UInt64 = 0
        var wasInterrupted = false
        while true {
            guard try beginStep({ progress((total ?? rest) - min(total ?? rest, rest), total ?? rest) }) else {
                return false
            }
            defer { end(.step) }
            // What is freed but not yet durably so can't be used.
            try flush()
            let free = gate.chain.writable?.allocator?.freeCount ?? 0
            // A snapshot in between began a file without gaps.
            let isFirst = total == nil || free > rest
            if isFirst { total = free }
            guard free > 0, isFirst || free < rest || wasInterrupted else { return true }
            rest = free
            guard progress((total ?? free) - min(total ?? free, free), total ?? free) else { return false }
            wasInterrupted = try !compact(bytesMax: options.compactBytesMax)
        }
    }

    /// Waits until no snapshot is on its way.
    /// - Returns: `false` when `mayWait`, which is asked now and then, or the end of the disk says so.
    private func beginStep(_ mayWait: () -> Bool) throws(DiskError) -> Bool {
        while true {
            let deadline = SystemTime().monotonic() + 1_000_000_000
            let answer: Activities.Answer? = maintenance.wait(until: deadline) { state in
                let answer = state.activities.begin(.step)
                return answer == .waits ? nil : answer
            }
            switch answer {
            case .begun, .stopping: return true
            case .refused(.close): return false
            case .refused(let running): throw DiskError.busy(running, path: path)
            case .waits, nil: if !mayWait() { return false }
            }
        }
    }

    /// Moves clusters from the end of the top's file into places that were freed, so that the file can be cut. Requests
    /// may run.
    /// - Parameters:
    ///   - bytesMax: what is more to move stays.
    /// - Returns: `false` when a snapshot came in between.
    func compact(bytesMax: UInt64, _ entry: Entry = .waiting) throws(DiskError) -> Bool {
        guard let top = gate.chain.writable, let allocator = top.allocator, let scanner = BatScanner(top.delta) else {
            return true
        }
        guard allocator.freeCount > 0 else { return true }
        guard try changing(top, entry, { _ throws(DiskError) in try cutEnd(top) }) != nil else { return false }
        let movesMax = bytesMax / clusterSize.bytes
        let end = allocator.end(without: movesMax)
        guard allocator.freeCount > 0, movesMax > 0 else { return true }
        var moves: UInt64 = 0
        var isInterrupted = false
        try scanner.forEachEntry { cluster, raw throws(DiskError) in
            guard !isInterrupted, moves < movesMax, let place = scanner.place(raw), place >= end else { return }
            let isMoved = try changing(top, entry) { chain throws(DiskError) in
                try writer.move(cluster, beyond: end, chain, top)
            }
            if isMoved == true { moves += 1 }
            isInterrupted = isMoved == nil || isAskedToStop(.step)
        }
        if moves > 0 {
            if entry == .alone { try flushInside() } else { try flush() }
            guard try changing(top, entry, { _ throws(DiskError) in try cutEnd(top) }) != nil else { return false }
        }
        return !isInterrupted
    }

    /// How a change that is no request of the guest comes in.
    enum Entry {
        /// Like a write: it waits while writes are held.
        case waiting
        /// Like a write, but does not wait.
        case atOnce
        /// The disk has ended: no request is let in any more.
        case alone
    }

    /// Lets a change of the top in that is no request of the guest.
    /// - Returns: `nil`, with nothing done, when `top` is not the top any more, or it would have to wait.
    func changing<R>(
        _ top: WritableDelta, _ entry: Entry = .waiting, _ body: (Chain) throws(DiskError) -> R
    ) throws(DiskError) -> R? {
        let chain: Chain
        switch entry {
        case .alone: return try body(gate.chain)
        case .waiting: chain = try gate.enterWrite()
        case .atOnce:
            guard let entered = try gate.enterWriteNow() else { return nil }
            chain = entered
        }
        defer { gate.leaveWrite() }
        guard chain.writable === top else { return nil }
        return try body(chain)
    }

    private func cutEnd(_ top: WritableDelta) throws(DiskError) {
        try top.delta.attempt { () throws(SystemError) in try top.allocator?.cutEnd() }
    }
}
