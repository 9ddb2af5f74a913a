public import AgentAPI

/// The disks attached on this host: each is served by an nbdkit process with our plugin, and has a folder below the run
/// folder that tells how. Several processes may use the same run folder; what they do to one disk is serialised.
public struct DeviceAttachments: Sendable {
    public let runFolder: String

    /// - Parameter runFolder: `nil` means `$GODWIT_RUN_DIR`, or /run/godwit.
    public init(runFolder: String? = nil) {
        self.runFolder = runFolder ?? "/run/godwit"
    }

    /// Starts a server on the disk. Returns once it serves.
    /// - Throws: `.inUse` when another process owns the disk, `.alreadyAttached`, `.notFound`, `.io`.
    public func attach(_ disk: String, options: AttachOptions = AttachOptions()) throws(AgentError) -> AttachedDisk {
        throw AgentError(.unsupported, "not built yet")
    }

    /// Unmounts, flushes, closes the disk and ends its server. Also clears up after a server that died.
    public func detach(_ disk: String) throws(AgentError) {
        throw AgentError(.unsupported, "not built yet")
    }

    /// `nil` when the disk has no live server.
    public func attached(_ disk: String) throws(AgentError) -> AttachedDisk? {
        throw AgentError(.unsupported, "not built yet")
    }

    public func list() throws(AgentError) -> [AttachedDisk] {
        throw AgentError(.unsupported, "not built yet")
    }

    /// A connection to the disk's owner. - Throws: `.notAttached`.
    public func control(_ disk: String) throws(AgentError) -> ControlClient {
        throw AgentError(.unsupported, "not built yet")
    }

    /// Gives an attached disk a block device, and mounts it.
    public func mount(
        _ disk: String, at mountpoint: String?, options: MountOptions = MountOptions()
    ) throws(AgentError) -> AttachedDisk {
        throw AgentError(.unsupported, "not built yet")
    }

    /// Undoes ``mount(_:at:options:)``, also when the server or its FUSE file has died.
    public func unmount(_ disk: String) throws(AgentError) {
        throw AgentError(.unsupported, "not built yet")
    }

    /// Where the disk's file systems are mounted on this host, each file system once.
    public func mountpoints(of disk: String) throws(AgentError) -> [String] {
        throw AgentError(.unsupported, "not built yet")
    }
}
