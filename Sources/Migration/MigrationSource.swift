public import Geometry

/// The disk that is to move, on the host that has it. Calls block and come from one thread, except that
/// ``read(_:into:)`` comes from another one.
public protocol MigrationSource: Sendable {
    /// Size in bytes; does not change from ``startTracking(granuleBytes:)`` to ``stopTracking()``, and is not asked for
    /// before.
    var byteCount: UInt64 { get }
    /// Reads all ranges, one behind the other, into `memory`; they may be under way together.
    func read(_ ranges: [ByteRange], into memory: UnsafeMutableRawBufferPointer) throws(MigrationError)
    /// What may hold anything but zeros in `range`: runs ascending, complete up to `coveredTo`.
    func dataRuns(in range: ByteRange) throws(MigrationError) -> (runs: [ByteRange], coveredTo: UInt64)
    /// Makes durable what was written.
    func flush() throws(MigrationError)

    /// From here on changes are recorded, and the size stays as it is.
    func startTracking(granuleBytes: UInt64) throws(MigrationError)
    /// Reads and clears: runs ascending, complete up to `coveredTo`.
    func takeDirty(from offset: UInt64) throws(MigrationError) -> (runs: [ByteRange], coveredTo: UInt64)
    func dirtyBytes() throws(MigrationError) -> UInt64
    func stopTracking()

    /// Holds writes back; when it returns, none is under way and all are durable and recorded.
    /// - Returns: `false` where there is nobody whose writes are to be held back, and no deadline.
    /// - Throws: `.refused` when the size is another one than it was.
    func pause(deadlineMilliseconds: UInt64) throws(MigrationError) -> Bool
    /// Writes go on, also after ``release()``. Harmless when there is no pause.
    func resume()
    /// From here on writes are held back without a deadline, for as long as this object lives: the record that gives
    /// the disk up can be made. If this object is gone before, they go on where there is no record.
    /// - Throws: `.expired` when the pause has ended by itself; nothing has changed then.
    func release() throws(MigrationError)
    /// The record is durable: what is held back fails, as does all that follows. Whether this comes through does not
    /// matter: the record counts.
    func confirmRelease()
    /// The disk is another host's now: ends whatever serves it here.
    func retire() throws(MigrationError)
}

/// The guest on the source's host.
public protocol GuestControl: Sendable {
    /// Brings what the guest's system holds back to the disk, while it runs: the switch then has less to do.
    func settle()
    /// What somebody has to know who finds the guest stopped by a migration that died; `nil` where it goes on by
    /// itself.
    func stopNote() -> GuestStopNote?
    /// Stops the guest, or at least its writes.
    func stop() throws(MigrationError)
    /// Undoes ``stop()``, also a half done one; harmless without one.
    func restart() throws(MigrationError)
}

/// How to start a guest again that was stopped.
public struct GuestStopNote: Hashable, Sendable {
    /// Where its file system was mounted by us.
    public var mountpoint: String?
    /// Of the disk, if only that was mounted.
    public var partition: Int?

    public init(mountpoint: String?, partition: Int? = nil) {
        self.mountpoint = mountpoint
        self.partition = partition
    }
}

/// No guest: a disk that nobody uses.
public struct NoGuest: GuestControl {
    public init() {}
    public func settle() {}
    public func stopNote() -> GuestStopNote? { nil }
    public func stop() throws(MigrationError) {}
    public func restart() throws(MigrationError) {}
}
