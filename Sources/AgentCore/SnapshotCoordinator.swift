/// Takes a snapshot of all the disks of one guest at one instant: prepares all, freezes their file systems, switches all,
/// thaws.
public struct SnapshotCoordinator: Sendable {
    public let attachments: DeviceAttachments
    public let hooks: HookRunner?

    public init(attachments: DeviceAttachments = DeviceAttachments(), hooks: HookRunner? = nil) {
        self.attachments = attachments
        self.hooks = hooks
    }

    /// - Parameter freezeDeadlineMilliseconds: the file systems thaw by themselves after this time; the snapshot then
    ///   fails with `.expired`, and what was switched is merged back.
    /// - Returns: one result for each of `disks`, in their order.
    public func snapshot(
        _ disks: [String], freezeDeadlineMilliseconds: UInt64 = 10_000
    ) throws(AgentError) -> [SnapshotResult] {
        throw AgentError(.unsupported, "not built yet")
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
    /// The state is as after a clean sync: the file systems were frozen, or nobody had the disk open. Otherwise it is as
    /// after a power cut.
    public var consistent: Bool
}
