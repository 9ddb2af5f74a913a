internal import BlockIO
internal import Geometry
internal import LinuxSystem
internal import Synchronization

extension Disk {
    /// Makes all writes that have returned durable: at most two flushes of the host, one when nothing was allocated.
    public func flush() throws(DiskError) {
        counters.flushes.wrappingAdd(1, ordering: .relaxed)
        _ = try gate.enterRead()
        defer { gate.leaveRead() }
        try flushInside()
    }

    /// Flushes on behalf of a request that is inside the gate, or of who holds everybody out.
    func flushInside() throws(DiskError) {
        try flushes.flush { () throws(DiskError) in try flushOnce(gate.chain) }
    }

    /// I1 and I2: data, then block table, then what was freed.
    private func flushOnce(_ chain: Chain) throws(DiskError) {
        if let failure = gate.failure { throw failure }
        guard let top = chain.writable, top.isMarkedInUse else { return }
        // Frees first: the pages that are collected after them are without those clusters.
        let freed = top.allocator?.takePending() ?? []
        let pages = map.collectDirty(chain: chain, header: top.headerBytes)
        var isWritten = false
        defer {
            if let pages { map.finish(pages, written: isWritten) }
            if !isWritten, !freed.isEmpty { top.allocator?.putBack(freed) }
        }
        try synchronize(top.delta)
        if let pages {
            try write(pages, to: top.delta)
            try synchronize(top.delta)
        }
        isWritten = true
        if !freed.isEmpty { top.allocator?.reclaim(freed) }
    }

    /// A failure here is for good: the host may have dropped what it could not store, and would not say so twice.
    private func synchronize(_ delta: DeltaFile) throws(DiskError) {
        counters.hostFlushes.wrappingAdd(1, ordering: .relaxed)
        do throws(DiskError) {
            try delta.synchronize()
        } catch {
            gate.fail(error)
            throw error
        }
    }

    private func write(_ pages: ClusterMap.DirtyPages, to delta: DeltaFile) throws(DiskError) {
        var transfers = unsafe [Transfer]()
        var index = 0
        while index < pages.numbers.count {
            var end = index + 1
            while end < pages.numbers.count, pages.numbers[end] == pages.numbers[end - 1] + 1 { end += 1 }
            let bytes = unsafe UnsafeMutableRawBufferPointer(
                rebasing: pages.bytes.memory[index * DeltaFile.pageBytes..<end * DeltaFile.pageBytes])
            unsafe transfers.append(
                Transfer(.write, at: pages.numbers[index] * UInt64(DeltaFile.pageBytes), memory: bytes))
            index = end
        }
        try delta.attempt { () throws(SystemError) in try unsafe delta.file.perform(transfers) }
    }

    /// Keeps what waits for a flush, or was written in part, within its bounds. Called outside of requests.
    func relieve() throws(DiskError) {
        let chain = gate.chain
        guard let top = chain.writable else { return }
        if map.dirtyCount > map.dirtyMax || (top.allocator?.pendingCount ?? 0) > ClusterAllocator.pendingMax {
            _ = try gate.enterRead()
            defer { gate.leaveRead() }
            try flushInside()
        }
        let limit = Int(clamping: max(16, options.partialBytesMax / clusterSize.bytes))
        guard let cluster = top.takePartial(beyond: limit) else { return }
        // What can't be filled now is when the disk is closed: no reason to fail a write.
        _ = try? changing(top) { chain throws(DiskError) in try writer.settle(cluster, chain, top) }
    }
}
