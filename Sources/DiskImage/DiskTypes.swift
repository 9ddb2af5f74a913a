public import ChangeTracking
public import Geometry

/// How a disk is opened.
public struct DiskOptions: Hashable, Sendable {
    /// Nothing is changed, no lock is taken, unclean images are not repaired.
    public var readOnly = false
    /// Bypass the host's page cache where its file system allows it.
    public var direct = true
    /// Memory for the map of clusters, whatever the size of the disk.
    public var mapCacheBytes = 32 << 20
    /// How far ahead of need the top delta's file is extended, at most. Given back on close.
    public var reserveAheadBytes: UInt64 = 64 << 20
    /// How many bytes of clusters may be written in part at a time; beyond it, older ones are filled with zeros.
    public var partialBytesMax: UInt64 = 4 << 30
    /// Bytes that are moved at most, to cut a file in which clusters were freed, on close and at a time; before a
    /// snapshot it is less.
    public var compactBytesMax: UInt64 = 256 << 20
    /// Bytes a second that a merge moves at most; 0: as fast as it goes.
    public var mergeBytesPerSecond: UInt64 = 0
    /// What is left to do for a delta that was frozen is done by a thread of its own; otherwise by the next operation
    /// on snapshots, or on close.
    public var finishInBackground = true
    /// Clusters that would hold only zeros are not allocated.
    public var detectZeroes = true

    public init() {}
    public static let standard = DiskOptions()
    public static var readOnly: DiskOptions {
        var options = DiskOptions()
        options.readOnly = true
        return options
    }
}

/// Counters since the disk was opened.
public struct DiskStatistics: Hashable, Sendable {
    public var readRequests: UInt64 = 0
    public var readBytes: UInt64 = 0
    public var writeRequests: UInt64 = 0
    public var writeBytes: UInt64 = 0
    /// Flushes asked for: explicit ones and durable writes.
    public var flushes: UInt64 = 0
    /// Times a host file was synchronised for them.
    public var hostFlushes: UInt64 = 0
    public var discardedBytes: UInt64 = 0
    /// Clusters newly allocated in the top delta.
    public var allocatedClusters: UInt64 = 0
    public init() {}
}

/// A run of the device in one state.
public struct DiskExtent: Hashable, Sendable {
    public var range: ByteRange
    /// Some delta holds data for it.
    public var isAllocated: Bool
    /// It reads as zeros; `false` when that isn't known.
    public var isZero: Bool
    public init(range: ByteRange, isAllocated: Bool, isZero: Bool) {
        self.range = range
        self.isAllocated = isAllocated
        self.isZero = isZero
    }
}

/// A state in a disk's snapshot tree.
public struct SnapshotInfo: Hashable, Sendable {
    public var guid: String
    /// `nil` for the base.
    public var parent: String?
    /// The file with the changes since the parent state, as the descriptor names it.
    public var file: String
    /// The writable state.
    public var isTop: Bool
    /// Waits to be merged away.
    public var isTemporary: Bool
    /// Bytes that the file takes up on the host.
    public var allocatedBytes: UInt64
    public init(guid: String, parent: String?, file: String, isTop: Bool, isTemporary: Bool, allocatedBytes: UInt64) {
        self.guid = guid
        self.parent = parent
        self.file = file
        self.isTop = isTop
        self.isTemporary = isTemporary
        self.allocatedBytes = allocatedBytes
    }
}

/// The outcome of a switch to a new top delta.
public struct CommittedSnapshot: Hashable, Sendable {
    /// Names the state that was frozen.
    public var guid: String
    /// How long writes stood still.
    public var switchNanoseconds: UInt64
    public init(guid: String, switchNanoseconds: UInt64) {
        self.guid = guid
        self.switchNanoseconds = switchNanoseconds
    }
}

/// Records which granules are written from ``Disk/startTracking(granuleBytes:)`` on. A granule is marked once its write
/// has completed: who takes it and then reads the disk sees at least that write, and a write still under way is in a
/// later round.
public final class DirtyTracker: Sendable {
    public let bitmap: DirtyBitmap

    init?(byteCount: UInt64, granuleBytes: UInt64) {
        guard let bitmap = DirtyBitmap(byteCount: byteCount, granuleBytes: granuleBytes) else { return nil }
        self.bitmap = bitmap
    }

    public var granuleBytes: UInt64 { bitmap.granuleBytes }
    public var dirtyBytes: UInt64 { bitmap.dirtyBytes }
    /// Reads and clears, atomically per granule: at most `limit` runs that are all that was dirty up to `coveredTo`.
    public func take(in range: ByteRange, limit: Int) -> (runs: [ByteRange], coveredTo: UInt64) {
        bitmap.take(in: range, limit: limit)
    }
}
