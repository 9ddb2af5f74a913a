internal import BlockIO
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// A disk that is attached for being mounted, and detached with its unmounting.
extension DeviceAttachments {
    private static let unmountSeconds = 600

    /// Attaches the disk unless it is, and mounts it. When that fails, what was made for it is undone.
    public func attachAndMount(
        _ disk: String, at mountpoint: String, attach: AttachOptions, mount: MountOptions
    ) throws(AgentError) -> AttachedDisk {
        let wasAttached = try attached(disk) != nil
        if !wasAttached { _ = try self.attach(disk, options: attach) }
        do throws(AgentError) {
            return try self.mount(disk, at: mountpoint, options: mount)
        } catch {
            if !wasAttached { try? detach(disk) }
            throw error
        }
    }

    /// Whether a file system of the disk is mounted there, and nothing above it.
    public func isMounted(_ disk: String, at mountpoint: String) throws(AgentError) -> Bool {
        guard let record = try attached(disk), let device = record.device else { return false }
        let path = try resolved(mountpoint)
        return try DeviceTree.mounts(on: device.path, all: true).map(\.mountPoint).hasSame(as: path)
    }

    /// Unmounts what was mounted there, and detaches the disk unless more of it is mounted.
    /// - Parameters:
    ///   - flags: of umount(8).
    ///   - isLazy: they say that it may be in use: then the disk stays attached.
    public func unmountAndDetach(_ mountpoint: String, flags: [String], isLazy: Bool) throws(AgentError) {
        let path = try resolved(mountpoint)
        let mounted = try records().first { record in
            if let known = record.mountpoint, known.isSame(as: path) { return true }
            guard let device = record.device else { return false }
            return (try? DeviceTree.mounts(on: device.path, all: true))?.map(\.mountPoint).hasSame(as: path) == true
        }
        guard let record = mounted else { throw AgentError(.notAttached, "no disk is mounted at \(path)") }
        let server = ServerSign(controlSocket: record.controlSocket)
        try server.expect(of: record.disk)
        try runCommand("umount", ["-i"] + flags + [path], limitSeconds: Self.unmountSeconds, server: server)
        guard !isLazy, try mountpoints(of: record.disk).isEmpty else { return }
        try detach(record.disk)
    }

    private func resolved(_ path: String) throws(AgentError) -> String {
        try withAgentError { () throws(SystemError) in try LinuxFileSystem().resolve(path) }
    }
}
