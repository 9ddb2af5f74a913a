public import BlockIO
public import Geometry

/// The owner of a disk: a stack of deltas as one block device.
///
/// All calls block, from any thread and many at once. A write is durable after a ``flush()`` that began once the write
/// had returned. Requests that overlap in time and place leave either's bytes, sector by sector.
public final class Disk: Sendable {
    public let clusterSize: ClusterSize
    /// Whether the disk had not been closed properly.
    public let repairedOnOpen: Bool

    init(clusterSize: ClusterSize, repairedOnOpen: Bool) {
        self.clusterSize = clusterSize
        self.repairedOnOpen = repairedOnOpen
    }

    /// Takes the lock (unless only reading), repairs what was not closed, and opens the chain of deltas.
    /// - Parameter path: the disk's folder, its `DiskDescriptor.xml`, or a bare image.
    public static func open(
        _ path: String, in fs: any FileSystem, options: DiskOptions = .standard
    ) throws(DiskError) -> Disk {
        throw DiskError(.unsupported, "not there yet", path: path)
    }

    /// Size of the device in bytes; only ``grow(to:)`` changes it.
    public var byteCount: UInt64 { 0 }
    public var deltaCount: Int { 0 }

    private var missing: DiskError { DiskError(.unsupported, "not there yet", path: "") }

    /// Fills `memory` from byte `offset` of the device.
    public func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(DiskError) { throw missing }
    /// - Parameter durable: the write, and no more than it, is on the medium when the call returns (FUA).
    public func write(
        at offset: UInt64, from memory: UnsafeRawBufferPointer, durable: Bool = false
    ) throws(DiskError) { throw missing }
    public func flush() throws(DiskError) { throw missing }
    /// A hint that the range holds nothing of use. Whole clusters are given back; the rest keeps its bytes.
    public func discard(_ range: ByteRange) throws(DiskError) { throw missing }
    /// - Parameter mayDiscard: whether the space may be given back.
    public func writeZeroes(_ range: ByteRange, mayDiscard: Bool, durable: Bool = false) throws(DiskError) {
        throw missing
    }
    /// The state of the device from the start of `range`, in at most `limit` runs; they end early at the limit.
    public func extents(in range: ByteRange, limit: Int) throws(DiskError) -> [DiskExtent] { throw missing }

    /// Makes the next top delta, durably and without effect on the device.
    /// - Parameter guid: the name that the frozen state will have; `nil`: a new one.
    public func prepareSnapshot(guid: String? = nil) throws(DiskError) -> PreparedSnapshot { throw missing }
    /// Switches to the prepared delta. Writes are held while it runs; what was written before is in the frozen state.
    public func commitSnapshot(_ prepared: PreparedSnapshot) throws(DiskError) -> CommittedSnapshot { throw missing }
    /// Removes a prepared delta that will not be used.
    public func abandonSnapshot(_ prepared: PreparedSnapshot) {}
    /// Removes the state `guid` from the tree: the delta above it is merged into its file while the device is in use.
    /// - Parameter progress: called now and then with clusters done and in all; `false` stops, and a later call goes on.
    /// - Returns: whether it was finished.
    @discardableResult public func deleteSnapshot(
        _ guid: String, progress: (_ done: UInt64, _ total: UInt64) -> Bool = { _, _ in true }
    ) throws(DiskError) -> Bool { throw missing }
    /// The whole tree, parents before their children.
    public func snapshots() throws(DiskError) -> [SnapshotInfo] { throw missing }

    /// Makes the device larger; `bytes` is rounded up to whole clusters.
    public func grow(to bytes: UInt64) throws(DiskError) { throw missing }

    public func startTracking(granuleBytes: UInt64 = 64 << 10) throws(DiskError) -> DirtyTracker { throw missing }
    public func stopTracking(_ tracker: DirtyTracker) {}

    /// Holds new writes back; returns when those under way have ended and are durable. Pauses nest.
    public func pauseWrites() throws(DiskError) { throw missing }
    public func resumeWrites() {}
    /// The disk belongs to somebody else now: every later request fails, held ones too. Returns once nothing is under way.
    public func release() {}

    public func statistics() -> DiskStatistics { DiskStatistics() }

    /// Flushes, fills partly written clusters, cuts the files to what is used, marks them closed, drops the lock.
    /// No request may follow. Without it the next open repairs.
    public func close() throws(DiskError) { throw missing }
}

/// A top delta in waiting.
public final class PreparedSnapshot: Sendable {
    public let guid: String
    init(guid: String) { self.guid = guid }
}
