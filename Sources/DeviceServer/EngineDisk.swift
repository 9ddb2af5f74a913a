internal import AgentAPI
internal import DiskImage
internal import Geometry
internal import LinuxSystem

/// A disk that the engine in this process serves.
final class EngineDisk: ControlledDisk {
    let disk: Disk
    let clients = NBDClients()
    private let path: String

    init(_ disk: Disk, path: String) {
        self.disk = disk
        self.path = path
    }

    func status() throws(DiskError) -> DeviceStatus {
        let counters = disk.statistics()
        var status = DeviceStatus(
            folder: path, pid: ownProcess(), sizeBytes: disk.byteCount,
            clusterBytes: disk.clusterSize.bytes, deltas: disk.deltaCount)
        status.readRequests = counters.readRequests
        status.readBytes = counters.readBytes
        status.writeRequests = counters.writeRequests
        status.writeBytes = counters.writeBytes
        status.flushes = counters.flushes
        status.hostFlushes = counters.hostFlushes
        status.discardedBytes = counters.discardedBytes
        status.allocatedClusters = counters.allocatedClusters
        status.repairedOnOpen = disk.repairedOnOpen
        status.isReadOnly = disk.isReadOnly
        status.clients = clients.all
        return status
    }

    func prepareSnapshot() throws(DiskError) -> any PreparedSwitch {
        Switch(disk: disk, prepared: try disk.prepareSnapshot())
    }

    private final class Switch: PreparedSwitch {
        private let disk: Disk
        private let prepared: PreparedSnapshot
        init(disk: Disk, prepared: PreparedSnapshot) {
            self.disk = disk
            self.prepared = prepared
        }
        func commit() throws(DiskError) -> CommittedSnapshot { try disk.commitSnapshot(prepared) }
        func abandon() { disk.abandonSnapshot(prepared) }
    }

    func snapshots() throws(DiskError) -> [SnapshotInfo] { try disk.snapshots() }

    func deleteSnapshot(_ guid: String, progress: (UInt64, UInt64) -> Bool) throws(DiskError) -> Bool {
        try disk.deleteSnapshot(guid, progress: progress)
    }

    func grow(to bytes: UInt64) throws(DiskError) { try disk.grow(to: bytes) }

    func compact(bytesPerSecond: UInt64, progress: (UInt64, UInt64) -> Bool) throws(DiskError) -> Bool {
        try disk.compactNow(progress: progress)
    }

    func startTracking(granuleBytes: UInt64) throws(DiskError) -> any ChangeTracker {
        Tracker(disk: disk, tracker: try disk.startTracking(granuleBytes: granuleBytes))
    }

    private final class Tracker: ChangeTracker {
        private let disk: Disk
        private let tracker: DirtyTracker
        init(disk: Disk, tracker: DirtyTracker) {
            self.disk = disk
            self.tracker = tracker
        }
        func take(in range: ByteRange, limit: Int) throws(DiskError) -> (runs: [ByteRange], coveredTo: UInt64) {
            tracker.take(in: range, limit: limit)
        }
        func dirtyBytes() throws(DiskError) -> UInt64 { tracker.dirtyBytes }
        func stop() { disk.stopTracking(tracker) }
    }

    func holdWrites(milliseconds: UInt64) throws(DiskError) { try disk.pauseWrites() }
    func letWritesGo() { disk.resumeWrites() }
    var location: String { path }
    func isGivenAway() throws(DiskError) -> Bool { try disk.isGivenAway() }
    // The engine holds writes until it is told otherwise: the deadline is the pause's.
    func beginRelease() throws(DiskError) { try disk.proveInPlace() }
    func finishRelease() { disk.release() }
    func cancelRelease() {}
    func prepareToClose(isForced: Bool) throws(DiskError) {
        if !isForced { try clients.refuseWhileConnected(path) }
    }
    func close() throws(DiskError) { try disk.close() }
}
