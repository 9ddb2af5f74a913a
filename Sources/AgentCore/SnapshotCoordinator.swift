public import BlockIO
internal import Geometry
internal import LinuxSystem

/// Takes a snapshot of all the disks of one guest at one instant: prepares all, freezes their file systems, holds the
/// writes of all, whoever makes them, switches all, and lets go again.
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

    /// When it fails, what was switched is merged back, as far as that goes: ``AgentError/mayLeaveState``.
    /// - Parameter freezeDeadlineMilliseconds: the file systems thaw by themselves after this time; the snapshot then
    ///   fails with `.expired`.
    /// - Returns: one result for each of `disks`, in their order.
    public func snapshot(
        _ disks: [String], freezeDeadlineMilliseconds: UInt64 = 10_000
    ) throws(AgentError) -> [SnapshotResult] {
        var owners: [any SnapshotOwner] = []
        // One disk switches at one instant by itself.
        let isGroup = disks.count > 1
        var frozen = FreezeList(holdsWrites: isGroup)
        for disk in disks {
            if let attached = try attachments.attached(disk) {
                let mounted = try frozen.add(attached)
                owners.append(
                    AttachedOwner(
                        control: try attachments.control(disk), backend: attached.backend, isMounted: mounted))
            } else {
                owners.append(try DirectOwner(disk, in: fs))
            }
        }
        for owner in owners { try owner.prepare() }
        if let hooks, hooks.has(.preFreeze) || hooks.has(.postThaw),
            let odd = disks.first(where: { $0.has("\n") })
        {
            throw AgentError(
                .invalid, "\(odd) has a line end in its name, and hooks are told of disks by lines: rename it")
        }
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
        // First: a freeze writes, which held writes would stop.
        let freeze = list.isEmpty ? nil : try GuestFreeze(list, deadlineMilliseconds: deadline)
        var committed: [(guid: String, switchNanoseconds: UInt64)] = []
        var failure: AgentError?
        let start = SystemTime().monotonic()
        do throws(AgentError) {
            // From the last of these on no disk changes, so what is switched one after the other is of one instant.
            if list.holdsWrites { for owner in owners { try owner.hold(milliseconds: deadline) } }
            for owner in owners { committed.append(try Self.commit(owner)) }
        } catch {
            failure = error
        }
        if list.holdsWrites {
            for owner in owners {
                do throws(AgentError) { try owner.letGo() } catch {
                    failure = failure ?? (error.code == .expired ? Self.heldTooLong(deadline) : error)
                }
            }
        }
        var held = list.holdsWrites ? SystemTime().elapsed(since: start) : 0
        var nanoseconds: UInt64 = 0
        do throws(AgentError) {
            if let thawed = try freeze?.thaw() {
                if list.hasMounts { nanoseconds = thawed.nanoseconds }
                if list.holdsWrites { held = max(held, thawed.nanoseconds) }
                if thawed.isExpired { throw Self.heldTooLong(deadline) }
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
                switchNanoseconds: max(committed[index].switchNanoseconds, held),
                consistent: item.1.isConsistentWhenFrozen)
        }
    }

    /// An owner that does not answer may have switched all the same, or do it later.
    private static func commit(
        _ owner: any SnapshotOwner
    ) throws(AgentError) -> (guid: String, switchNanoseconds: UInt64) {
        do throws(AgentError) { return try owner.commit() } catch {
            var error = error
            error.mayLeaveState = true
            throw error
        }
    }

    private static func heldTooLong(_ deadline: UInt64) -> AgentError {
        AgentError(
            .expired,
            "the freeze ended by itself after \(deadline) ms, before all disks had switched: allow a longer freeze")
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
                failure.mayLeaveState = true
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
    /// How long the disk's writes stood still: for its switch, or in a group for the switches of all.
    public var switchNanoseconds: UInt64
    /// The state is as after a clean sync: the file systems were frozen, or nobody had the disk open, and it had been
    /// closed. Otherwise it is as after a power cut.
    public var consistent: Bool
}
