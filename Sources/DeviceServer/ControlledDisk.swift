internal import AgentAPI
internal import DiskImage
internal import Geometry

/// What the control socket asks of a disk, whoever moves its data: the engine in this process (``EngineDisk``), or the
/// driver in the kernel (``KernelDisk``). Calls block, from any thread.
protocol ControlledDisk: AnyObject, Sendable {
    /// All but what only the owner knows: ``DeviceStatus/isPaused`` and ``DeviceStatus/isReleased``.
    func status() throws(DiskError) -> DeviceStatus

    /// Makes the next top delta, durably and without effect on the device. One at a time.
    func prepareSnapshot() throws(DiskError) -> any PreparedSwitch
    func snapshots() throws(DiskError) -> [SnapshotInfo]
    /// See ``Disk/deleteSnapshot(_:progress:)``. - Returns: whether it was finished.
    func deleteSnapshot(_ guid: String, progress: (UInt64, UInt64) -> Bool) throws(DiskError) -> Bool
    func grow(to bytes: UInt64) throws(DiskError)
    /// Moves clusters from the top's end into freed places, and cuts its file.
    /// - Parameter bytesPerSecond: 0: as fast as it goes. Of the kernel's only.
    /// - Returns: whether it was finished.
    func compact(bytesPerSecond: UInt64, progress: (UInt64, UInt64) -> Bool) throws(DiskError) -> Bool

    func startTracking(granuleBytes: UInt64) throws(DiskError) -> any ChangeTracker

    /// Holds new writes back; returns when those under way have ended and are durable.
    /// - Parameter milliseconds: they may go on after that time, or later.
    func holdWrites(milliseconds: UInt64) throws(DiskError)
    /// Undoes one ``holdWrites(milliseconds:)``; blocks no longer than a file system takes to go on.
    func letWritesGo()
    /// The disk's folder, or its image where it has none.
    var location: String { get }
    /// Whether the record of a migration gives the disk to another host, wherever its folder is by now.
    /// - Throws: when that can't be found out.
    func isGivenAway() throws(DiskError) -> Bool
    /// While writes are held: no deadline lets them go on from here on.
    /// - Throws: `.busy` when they were no longer held, `.inUse` when the disk is not in its place; nothing has changed
    ///   then.
    func beginRelease() throws(DiskError)
    /// The disk is another host's: what is held fails, and all that comes.
    func finishRelease()
    /// It is not: as before ``beginRelease()``, but for what has failed meanwhile.
    func cancelRelease()

    /// Does what can be refused before the disk is closed; it stays open when this throws.
    /// - Parameter isForced: whoever uses it loses it, where that is possible.
    func prepareToClose(isForced: Bool) throws(DiskError)
    /// Closes the disk and drops its lock. Nothing may follow.
    func close() throws(DiskError)
}

/// A new top in waiting.
protocol PreparedSwitch: AnyObject, Sendable {
    /// - Throws: when it fails it is still prepared.
    func commit() throws(DiskError) -> CommittedSnapshot
    func abandon()
}

/// A map of what is written.
protocol ChangeTracker: AnyObject, Sendable {
    /// See ``DirtyTracker/take(in:limit:)``.
    func take(in range: ByteRange, limit: Int) throws(DiskError) -> (runs: [ByteRange], coveredTo: UInt64)
    func dirtyBytes() throws(DiskError) -> UInt64
    func stop()
}
