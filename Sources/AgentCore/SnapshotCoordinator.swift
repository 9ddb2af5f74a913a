internal import AgentAPI
public import BlockIO
internal import DiskImage

/// Takes a snapshot of all the disks of one guest at one instant: prepares all, freezes their file systems, switches
/// all, thaws.
public struct SnapshotCoordinator: Sendable {
    public let attachments: DeviceAttachments
    public let hooks: HookRunner?
    /// Where the disks are that nobody has attached.
    private let fs: any FileSystem

    public init(
        attachments: DeviceAttachments = DeviceAttachments(), hooks: HookRunner? = nil,
        fs: any FileSystem = LinuxFileSystem()
    ) {
        self.attachments = attachments
        self.hooks = hooks
        self.fs = fs
    }

    /// When it fails, what was switched is merged back.
    /// - Parameter freezeDeadlineMilliseconds: the file systems thaw by themselves after this time; the snapshot then
    ///   fails with `.expired`.
    /// - Returns: one result for each of `disks`, in their order.
    public func snapshot(
        _ disks: [String], freezeDeadlineMilliseconds: UInt64 = 10_000
    ) throws(AgentError) -> [SnapshotResult] {
        var owners: [any SnapshotOwner] = []
        var frozen = FreezeList()
        for disk in disks {
            if let attached = try attachments.attached(disk) {
                let mounted = try frozen.add(attached)
                owners.append(AttachedOwner(control: try attachments.control(disk), isMounted: mounted))
            } else {
                owners.append(try DirectOwner(disk, in: fs))
            }
        }
        for owner in owners { try owner.prepare() }
        let environment = ["GODWIT_DISKS": disks.joined(separator: "\n")]
        let result: Result<[SnapshotResult], AgentError>
        do throws(AgentError) {
            try hooks?.run(.preFreeze, environment: environment)
            result = .success(try switchAll(disks, owners, frozen, freezeDeadlineMilliseconds))
        } catch {
            result = .failure(error)
        }
        // Also after a pre-freeze hook that failed: it may have done half of its work.
        do throws(AgentError) {
            try hooks?.run(.postThaw, environment: environment)
        } catch {
            // Nobody would get to know of the states, so they must not stay.
            if case .success(let taken) = result { throw rollBack(Array(zip(owners, taken.map(\.guid))), after: error) }
        }
        return try result.get()
    }

    private func switchAll(
        _ disks: [String], _ owners: [any SnapshotOwner], _ list: FreezeList, _ deadline: UInt64
    ) throws(AgentError) -> [SnapshotResult] {
        let freeze = list.isEmpty ? nil : try GuestFreeze(list, deadlineMilliseconds: deadline)
        var committed: [(guid: String, switchNanoseconds: UInt64)] = []
        var failure: AgentError?
        do throws(AgentError) {
            for owner in owners { committed.append(try owner.commit()) }
        } catch {
            failure = error
        }
        var nanoseconds: UInt64 = 0
        do throws(AgentError) {
            if let thawed = try freeze?.thaw() {
                nanoseconds = thawed.nanoseconds
                if thawed.isExpired {
                    throw AgentError(
                        .expired,
                        "the file systems thawed by themselves after \(deadline) ms, before all disks had switched: "
                            + "allow a longer freeze")
                }
            }
        } catch {
            failure = failure ?? error
        }
        if let failure {
            throw rollBack(Array(zip(owners, committed.map(\.guid))), after: failure)
        }
        return zip(disks, owners).enumerated().map { index, item in
            SnapshotResult(
                disk: item.0, guid: committed[index].guid, freezeNanoseconds: nanoseconds,
                switchNanoseconds: committed[index].switchNanoseconds,
                consistent: item.1.isConsistentWhenFrozen)
        }
    }

    /// Merges what was switched back. - Returns: the failure, with what could not be undone.
    private func rollBack(
        _ switched: [(any SnapshotOwner, String)], after failure: AgentError
    ) -> AgentError {
        var failure = failure
        for (owner, guid) in switched {
            do throws(AgentError) {
                try owner.delete(guid)
            } catch {
                failure.message += "; snapshot \(guid) is left, delete it: \(error)"
            }
        }
        return failure
    }
}

public struct SnapshotResult: Codable, Hashable, Sendable {
    public var disk: String
    /// The frozen state.
    public var guid: String
    /// How long the file systems were frozen; 0 when none was mounted here.
    public var freezeNanoseconds: UInt64
    /// How long the disk's writes stood still for the switch.
    public var switchNanoseconds: UInt64
    /// The state is as after a clean sync: the file systems were frozen, or nobody had the disk open. Otherwise it is
    /// as after a power cut.
    public var consistent: Bool
}

/// Who can switch a disk to a new top. What was prepared and not committed goes when it is dropped.
private protocol SnapshotOwner: AnyObject {
    /// Whether nobody has unwritten data for the disk once the file systems that are mounted here are frozen.
    var isConsistentWhenFrozen: Bool { get }
    func prepare() throws(AgentError)
    func commit() throws(AgentError) -> (guid: String, switchNanoseconds: UInt64)
    func delete(_ guid: String) throws(AgentError)
}

/// The server of an attached disk.
private final class AttachedOwner: SnapshotOwner {
    private let control: ControlClient
    let isConsistentWhenFrozen: Bool

    init(control: ControlClient, isMounted: Bool) {
        self.control = control
        isConsistentWhenFrozen = isMounted
    }

    func prepare() throws(AgentError) {
        do throws(ControlError) { try control.perform(.prepareSnapshot) } catch { throw AgentError(error) }
    }

    func commit() throws(AgentError) -> (guid: String, switchNanoseconds: UInt64) {
        do throws(ControlError) { return try control.commitSnapshot() } catch { throw AgentError(error) }
    }

    func delete(_ guid: String) throws(AgentError) {
        do throws(ControlError) { try control.perform(.deleteSnapshot(guid: guid)) } catch { throw AgentError(error) }
    }
}

/// This process, for a disk that nobody has attached.
private final class DirectOwner: SnapshotOwner {
    private let disk: Disk
    private var prepared: PreparedSnapshot?
    let isConsistentWhenFrozen = true

    init(_ path: String, in fs: any FileSystem) throws(AgentError) {
        do throws(DiskError) { disk = try Disk.open(path, in: fs) } catch { throw AgentError(error) }
    }

    func prepare() throws(AgentError) {
        do throws(DiskError) { prepared = try disk.prepareSnapshot() } catch { throw AgentError(error) }
    }

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
