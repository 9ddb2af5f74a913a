internal import AgentAPI
internal import BlockIO
internal import DiskImage

/// Who can switch a disk to a new top. What was prepared and not committed goes when it is dropped.
protocol SnapshotOwner: AnyObject {
    /// Whether nobody has unwritten data for the disk once the file systems that are mounted here are frozen.
    var isConsistentWhenFrozen: Bool { get }
    func prepare() throws(AgentError)
    /// Holds the disk's writes back, for at most so long; returns when those under way have ended.
    func hold(milliseconds: UInt64) throws(AgentError)
    func commit() throws(AgentError) -> (guid: String, switchNanoseconds: UInt64)
    /// Undoes ``hold(milliseconds:)``. - Throws: `.expired` when the writes had gone on before.
    func letGo() throws(AgentError)
    func delete(_ guid: String) throws(AgentError)
}

/// The server of an attached disk.
final class AttachedOwner: SnapshotOwner {
    private let control: ControlClient
    private let backend: DiskBackend
    let isConsistentWhenFrozen: Bool

    init(control: ControlClient, backend: DiskBackend, isMounted: Bool) {
        self.control = control
        self.backend = backend
        isConsistentWhenFrozen = isMounted
    }

    func prepare() throws(AgentError) {
        do throws(ControlError) { try control.perform(.prepareSnapshot) } catch { throw AgentError(error) }
    }

    // The driver holds the writes of all its devices of a group with one call: see `FreezeList`.

    func hold(milliseconds: UInt64) throws(AgentError) {
        guard backend == .user else { return }
        do throws(ControlError) { try control.perform(.pause(deadlineMilliseconds: milliseconds)) } catch {
            throw AgentError(error)
        }
    }

    func letGo() throws(AgentError) {
        guard backend == .user else { return }
        do throws(ControlError) { try control.perform(.resume) } catch { throw AgentError(error) }
    }

    func commit() throws(AgentError) -> (guid: String, switchNanoseconds: UInt64) {
        do throws(ControlError) { return try control.commitSnapshot() } catch { throw AgentError(error) }
    }

    func delete(_ guid: String) throws(AgentError) {
        do throws(ControlError) { try control.perform(.deleteSnapshot(guid: guid)) } catch { throw AgentError(error) }
    }
}

/// This process, for a disk that nobody has attached.
final class DirectOwner: SnapshotOwner {
    private let disk: Disk
    private var prepared: PreparedSnapshot?
    /// A disk that its server has not closed holds what had reached it by then.
    var isConsistentWhenFrozen: Bool { !disk.repairedOnOpen }

    init(_ path: String, in fs: any FileSystem) throws(AgentError) {
        do throws(DiskError) { disk = try Disk.open(path, in: fs) } catch { throw AgentError(error) }
    }

    func prepare() throws(AgentError) {
        do throws(DiskError) { prepared = try disk.prepareSnapshot() } catch { throw AgentError(error) }
    }

    // Nobody else can write to it.
    func hold(milliseconds: UInt64) {}
    func letGo() {}

    func commit() throws(AgentError) -> (guid: String, switchNanoseconds: UInt64) {
        guard let prepared else { throw AgentError(.invalid, "no snapshot is prepared") }
        self.prepared = nil
        do throws(DiskError) {
            let committed = try disk.commitSnapshot(prepared)
            return (committed.guid, committed.switchNanoseconds)
        } catch {
            throw AgentError(error)
        }
    }

    func delete(_ guid: String) throws(AgentError) {
        do throws(DiskError) { try disk.deleteSnapshot(guid) } catch { throw AgentError(error) }
    }

    // A disk that could not be closed properly is repaired when it is opened next.
    deinit {
        if let prepared { disk.abandonSnapshot(prepared) }
        try? disk.close()
    }
}
