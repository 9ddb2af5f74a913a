/// What the owner of a disk can be asked over its control socket: one JSON object a line, answered by one
/// ``ControlReply`` line, after any number of `.progress` lines for the long ones.
public enum ControlRequest: Codable, Hashable, Sendable {
    /// Who serves what: answered by `.status`.
    case status
    /// Makes the next top delta and gives it to the file system, without effect on the guest. Answered by `.done`.
    /// Prepared snapshots end with the connection that made them.
    case prepareSnapshot
    /// Switches to the prepared delta: the only step that has to be inside a freeze. Answered by `.snapshot`.
    case commitSnapshot
    case abandonSnapshot
    /// Merges the delta above snapshot `guid` into it, while the guest runs. Answered by `.progress`…, `.done`.
    case deleteSnapshot(guid: String)
    case listSnapshots
    /// Online grow to `bytes`. Answered by `.done`.
    case grow(bytes: UInt64)
    /// Moves clusters from the end of the top's file into freed places, and cuts it. Answered by `.progress`…,
    /// `.done`. 0 bytes per second: as fast as it goes.
    case compact(bytesPerSecond: UInt64)
    /// Starts a dirty map of granules of `granuleBytes`. Answered by `.tracker`. It ends with the connection.
    case startTracking(granuleBytes: UInt64)
    /// Reads and clears, atomically per granule, what is dirty in `[offset, offset + count)`; answered by `.dirty` with
    /// at most `limit` runs, which cover everything up to their `coveredTo`; the rest is still set.
    case takeDirty(tracker: UInt32, offset: UInt64, count: UInt64, limit: Int)
    /// Bytes in dirty granules, without clearing. Answered by `.dirtyBytes`.
    case countDirty(tracker: UInt32)
    case stopTracking(tracker: UInt32)
    /// Holds new writes back, and returns when those in flight have ended and are durable. They go on by themselves
    /// after `deadlineMilliseconds`, at `.resume`, or when the connection ends. Answered by `.done`.
    case pause(deadlineMilliseconds: UInt64)
    /// Answered by `.done`, or by `.failed` (code `expired`) when the pause had ended by itself before.
    case resume
    /// While paused: writes are held without a deadline from here on, until `.confirmRelease`, `.resume`, or the end of
    /// the connection, at which they go on unless the disk's folder holds the record that gives it to another host.
    /// Answered by `.done`, or by `.failed` (code `expired`) when the pause had ended by itself before.
    case release
    /// After `.release`: that record is there. All held and later writes fail, reads too. Answered by `.done` once
    /// nothing can be written any more.
    case confirmRelease
    /// Flush, mark clean, end the server. Answered by `.done` before the server ends; by `.failed` (code `busy`) while
    /// somebody uses the disk, and then nothing has changed.
    case shutdown
    /// The same, and NBD clients are cut off.
    case shutdownForced
}

/// A run of the disk.
public struct Extent: Codable, Hashable, Sendable {
    public var offset: UInt64
    public var count: UInt64
    public init(offset: UInt64, count: UInt64) {
        self.offset = offset
        self.count = count
    }
}

public enum ControlReply: Codable, Hashable, Sendable {
    case done
    case failed(code: String, message: String)
    case progress(done: UInt64, total: UInt64)
    case status(DeviceStatus)
    /// The frozen state's GUID, and how long the guest's writes stood still for the switch.
    case snapshot(guid: String, switchNanoseconds: UInt64)
    case snapshots([SnapshotStatus])
    case tracker(UInt32)
    case dirty(runs: [Extent], coveredTo: UInt64)
    case dirtyBytes(UInt64)
}

public struct SnapshotStatus: Codable, Hashable, Sendable {
    public var guid: String
    public var parent: String?
    public var file: String
    public var isTop: Bool
    public var isTemporary: Bool
    /// Bytes that the delta's file takes up on the host.
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

/// What a device server tells about itself. Counters start at 0 when it starts.
public struct DeviceStatus: Codable, Hashable, Sendable {
    public var folder: String
    public var pid: Int32
    public var sizeBytes: UInt64
    public var clusterBytes: UInt64
    public var deltas: Int
    public var readRequests: UInt64 = 0
    public var readBytes: UInt64 = 0
    public var writeRequests: UInt64 = 0
    public var writeBytes: UInt64 = 0
    public var flushes: UInt64 = 0
    public var hostFlushes: UInt64 = 0
    public var discardedBytes: UInt64 = 0
    public var allocatedClusters: UInt64 = 0
    public var repairedOnOpen: Bool = false
    /// It is served for reading only. `nil` of a server of before.
    public var isReadOnly: Bool?
    public var isPaused: Bool = false
    public var isReleased: Bool = false
    /// Somebody keeps a map of changes: the disk is being migrated.
    public var isTracked: Bool?
    /// The block device of a disk that the driver serves.
    public var device: String?
    /// Who is connected over NBD. Of the engine only.
    public var clients: [ClientStatus]?
    /// Writes wait for space on the host.
    public var isOutOfSpace: Bool?
    /// What requests wait for that the host lacks, space included. Of the engine only.
    public var waitsFor: String?
    /// Writes fail, after an error of the host. Of the driver only.
    public var isAborted: Bool?
    public init(folder: String, pid: Int32, sizeBytes: UInt64, clusterBytes: UInt64, deltas: Int) {
        self.folder = folder
        self.pid = pid
        self.sizeBytes = sizeBytes
        self.clusterBytes = clusterBytes
        self.deltas = deltas
    }
}

/// An NBD client.
public struct ClientStatus: Codable, Hashable, Sendable {
    /// Of the process that connected; -1 where nobody knows.
    public var pid: Int32
    public var name: String
    public init(pid: Int32, name: String) {
        self.pid = pid
        self.name = name
    }
}
