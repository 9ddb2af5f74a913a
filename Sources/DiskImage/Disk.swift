internal import BlockIO
internal import ChangeTracking
public import Geometry
internal import LinuxSystem
internal import Synchronization

/// The owner of a disk: a stack of deltas as one block device.
///
/// All calls block, from any thread and many at once. A write is durable after a ``flush()`` that began once the write
/// had returned. Requests that overlap in time and place leave either's bytes, sector by sector.
///
/// How it works: a request enters the ``RequestGate``, takes the locks of the clusters that it touches (shared, unless
/// it moves, allocates or frees), looks their places up in the ``ClusterMap``, and hands all transfers of a file to the
/// host in one batch on the calling thread. Changes of the map stay in memory until a flush (``Disk/flush()``) has made
/// the data durable; then the pages of the block table are written and made durable.
public final class Disk: Sendable {
    public let clusterSize: ClusterSize
    /// Whether the disk had not been closed properly.
    public let repairedOnOpen: Bool

    /// As the user named it.
    let path: String
    let fs: any FileSystem
    let options: DiskOptions
    public var isReadOnly: Bool { options.readOnly }
    /// `nil` for an image without a descriptor.
    let folder: DiskFolder?
    let locks: Mutex<[any HeldLock]>
    let gate: RequestGate
    let pool: BufferPool
    let writer: ChainWriter
    let flushes = FlushGroup()
    let counters = Counters()
    let trackers = Mutex<[DirtyTracker]>([])
    /// Who changes the stack or what is below its top, and what they wait to finish.
    let maintenance = Monitor(MaintenanceState())

    var reader: ChainReader { writer.reader }
    var map: ClusterMap { writer.reader.map }

    init(
        path: String, fs: any FileSystem, options: DiskOptions, folder: DiskFolder?, locks: sending [any HeldLock],
        chain: Chain, isRepaired: Bool
    ) {
        self.path = path
        self.fs = fs
        self.options = options
        self.folder = folder
        self.locks = Mutex(locks)
        clusterSize = chain.clusterSize
        repairedOnOpen = isRepaired
        gate = RequestGate(chain: chain)
        pool = BufferPool()
        writer = ChainWriter(
            reader: ChainReader(
                map: ClusterMap(budgetBytes: options.mapCacheBytes, pool: pool), pool: pool, locks: ClusterLocks()),
            detectZeroes: options.detectZeroes)
    }

    /// Size of the device in bytes; only ``grow(to:)`` changes it.
    public var byteCount: UInt64 { gate.chain.byteCount }
    public var deltaCount: Int { gate.chain.deltas.count }

    // MARK: Requests

    /// Fills `memory` from byte `offset` of the device.
    public func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(DiskError) {
        let chain = try gate.enterRead()
        defer { gate.leaveRead() }
        let range = try check(offset, UInt64(memory.count), chain)
        counters.readRequests.wrappingAdd(1, ordering: .relaxed)
        counters.readBytes.wrappingAdd(range.count, ordering: .relaxed)
        guard !range.isEmpty else { return }
        try unsafe reader.read(at: offset, into: memory, chain: chain)
    }

    /// - Parameter durable: the write is on the medium when the call returns (FUA).
    public func write(
        at offset: UInt64, from memory: UnsafeRawBufferPointer, durable: Bool = false
    ) throws(DiskError) {
        try change(offset, UInt64(memory.count), durable: durable) { _, chain, top throws(DiskError) in
            try unsafe writer.write(at: offset, from: memory, chain, top)
        }
        // What waits for the host is tried again, and counts once.
        counters.writeRequests.wrappingAdd(1, ordering: .relaxed)
        counters.writeBytes.wrappingAdd(UInt64(memory.count), ordering: .relaxed)
    }

    /// A hint that the range holds nothing of use. Whole clusters are given back; the rest keeps its bytes.
    public func discard(_ range: ByteRange) throws(DiskError) {
        try change(range.offset, range.count, durable: false) { range, chain, top throws(DiskError) in
            try writer.zero(range, .discard, chain, top)
        }
        counters.discardedBytes.wrappingAdd(range.count, ordering: .relaxed)
    }

    /// - Parameter mayDiscard: whether the space may be given back.
    public func writeZeroes(_ range: ByteRange, mayDiscard: Bool, durable: Bool = false) throws(DiskError) {
        try change(range.offset, range.count, durable: durable) { range, chain, top throws(DiskError) in
            try writer.zero(range, mayDiscard ? .zero : .zeroAllocated, chain, top)
        }
        counters.writeRequests.wrappingAdd(1, ordering: .relaxed)
    }

    private func change(
        _ offset: UInt64, _ count: UInt64, durable: Bool,
        _ body: (ByteRange, Chain, WritableDelta) throws(DiskError) -> Void
    ) throws(DiskError) {
        try relieve()
        let chain = try gate.enterWrite()
        defer { gate.leaveWrite() }
        let range = try check(offset, count, chain)
        guard let top = chain.writable else {
            throw DiskError(.readOnly, "\(path) is open for reading only", path: path)
        }
        if !range.isEmpty {
            if !top.isMarkedInUse { try noting { () throws(DiskError) in try top.markInUse() } }
            // After the write, and before anybody is told of it; also a failed one may have changed something.
            defer { markDirty(range) }
            try body(range, chain, top)
        }
        if durable {
            counters.flushes.wrappingAdd(1, ordering: .relaxed)
            try flushInside()
        }
    }

    private func check(_ offset: UInt64, _ count: UInt64, _ chain: Chain) throws(DiskError) -> ByteRange {
        guard let range = ByteRange(checking: offset, count: count), range.end <= chain.byteCount else {
            throw DiskError(
                .outOfBounds, "\(path): \(count) bytes at \(offset) are beyond the device of \(chain.byteCount) bytes",
                path: path)
        }
        return range
    }

    /// The state of the device from the start of `range`, in at most `limit` runs; they end early at the limit.
    public func extents(in range: ByteRange, limit: Int) throws(DiskError) -> [DiskExtent] {
        let chain = try gate.enterRead()
        defer { gate.leaveRead() }
        let range = try check(range.offset, range.count, chain)
        var found: [DiskExtent] = []
        var rest = range
        while !rest.isEmpty {
            let part = ByteRange(
                offset: rest.offset, count: min(rest.count, clusterSize.offset(of: UInt64(DeltaFile.pageSlots))))
            let clusters = ChainReader.clusters(of: part, clusterSize)
            let entries = try map.entries(from: clusters.lowerBound, count: clusters.count, chain: chain)
            for (cluster, entry) in zip(clusters, entries) {
                let piece = ByteRange(offset: clusterSize.offset(of: cluster), count: clusterSize.bytes).intersection(
                    part)
                if let last = found.last, last.isAllocated == !entry.isNone {
                    found[found.count - 1].range = ByteRange(
                        offset: last.range.offset, count: piece.end - last.range.offset)
                } else {
                    if found.count >= limit { return found }
                    found.append(DiskExtent(range: piece, isAllocated: !entry.isNone, isZero: entry.isNone))
                }
            }
            rest = ByteRange(offset: part.end, count: rest.end - part.end)
        }
        return found
    }

    // MARK: Tracking

    /// - Throws: `.invalid` for a granule that is none.
    public func startTracking(granuleBytes: UInt64 = 64 << 10) throws(DiskError) -> DirtyTracker {
        try proveOwned()
        try begin(.track)
        guard let tracker = DirtyTracker(byteCount: byteCount, granuleBytes: granuleBytes) else {
            end(.track)
            throw DiskError(
                .invalid, "\(path): changes can't be tracked in granules of \(granuleBytes) bytes; use 4 KiB to 1 MiB",
                path: path)
        }
        trackers.withLock { $0.append(tracker) }
        return tracker
    }

    public func stopTracking(_ tracker: DirtyTracker) {
        let isFound = trackers.withLock { trackers in
            let index = trackers.firstIndex { $0 === tracker }
            if let index { trackers.remove(at: index) }
            return index != nil
        }
        if isFound { end(.track) }
    }

    private func markDirty(_ range: ByteRange) {
        trackers.withLock { trackers in
            for tracker in trackers { tracker.bitmap.mark(range) }
        }
    }

    // MARK: Holding back

    /// Holds new writes back; returns when those under way have ended and are durable. Pauses nest.
    public func pauseWrites() throws(DiskError) {
        try begin(.hold)
        do throws(DiskError) {
            try gate.pauseWrites()
            do throws(DiskError) { try flush() } catch {
                gate.resumeWrites()
                throw error
            }
        } catch {
            end(.hold)
            throw error
        }
    }

    public func resumeWrites() {
        gate.resumeWrites()
        end(.hold)
    }

    /// - Throws: `.inUse` when the disk's path does not lead to what was opened any more.
    public func proveInPlace() throws(DiskError) { try folder?.proveInPlace() }

    /// Whether the record of a migration gives the disk to another host: looked for in the folder that was taken,
    /// wherever that is by now.
    /// - Throws: when that can't be found out.
    public func isGivenAway() throws(DiskError) -> Bool {
        guard folder != nil else { return false }
        let held = locks.withLock { $0 }
        return try held.hasMigratedMark(path, in: fs)
    }

    /// The disk belongs to somebody else now: every later request fails, held ones too. Returns once nothing is under
    /// way.
    public func release() {
        gate.end(DiskError(.readOnly, "\(path) was released to another host", path: path))
    }

    public func statistics() -> DiskStatistics {
        var statistics = counters.values
        statistics.allocatedClusters =
            maintenance.withLock { $0.allocatedBefore }
            + (gate.chain.writable?.allocator?.allocatedCount ?? 0)
        return statistics
    }
}
