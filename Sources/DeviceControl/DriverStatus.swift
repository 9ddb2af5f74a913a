internal import CDeviceABI

/// State and counters of a device; counters start at 0 when it does.
public struct DriverStatus: Hashable, Sendable {
    public var isRunning: Bool
    public var isReadOnly: Bool
    /// Writes fail until the device is stopped.
    public var isAborted: Bool
    /// Writes wait for space on the host, or within the limit.
    public var isOutOfSpace: Bool
    public var levels: Int
    public var clusterBytes: UInt64
    /// 1 or 2; 0 for a raw file alone.
    public var version: Int
    /// How often it is open, mounts included.
    public var openCount: UInt32
    public var deviceBytes: UInt64
    /// Used part of the top's file, and what of it is free for reuse.
    public var fileBytes: UInt64
    public var freeBytes: UInt64
    public var reads: UInt64
    public var writes: UInt64
    public var flushes: UInt64
    public var discards: UInt64
    public var readBytes: UInt64
    public var writtenBytes: UInt64
    /// Clusters newly used, and those of them that were filled from a lower level.
    public var allocations: UInt64
    public var copies: UInt64
    /// Writes that wait for space now.
    public var parkedWrites: UInt64
    public var hostFlushes: UInt64
    /// Of the last snapshot: I/O to the host between freeze and thaw, and how long that took.
    public var frozenRequests: UInt64
    public var frozenMicroseconds: UInt64
    public var deltaBytesMax: UInt64
    public var reserveBytes: UInt64
    public var cookie: String

    init(_ status: ploop_status) {
        isRunning = status.state & PLOOP_STATE_RUNNING != 0
        isReadOnly = status.state & PLOOP_STATE_RDONLY != 0
        isAborted = status.state & PLOOP_STATE_ABORTED != 0
        isOutOfSpace = status.state & PLOOP_STATE_NOSPACE != 0
        levels = Int(status.nr_levels)
        clusterBytes = 512 << UInt64(min(status.cluster_log, 32))
        version = Int(status.format_version)
        openCount = status.open_count
        deviceBytes = status.device_bytes
        fileBytes = status.file_bytes
        freeBytes = status.free_bytes
        reads = status.reads
        writes = status.writes
        flushes = status.flushes
        discards = status.discards
        readBytes = status.read_bytes
        writtenBytes = status.written_bytes
        allocations = status.allocations
        copies = status.copies
        parkedWrites = status.parked
        hostFlushes = status.host_syncs
        frozenRequests = status.frozen_ios
        frozenMicroseconds = status.frozen_us
        deltaBytesMax = status.max_delta_bytes
        reserveBytes = status.reserve_bytes
        cookie = Driver.name(status.cookie)
    }
}
