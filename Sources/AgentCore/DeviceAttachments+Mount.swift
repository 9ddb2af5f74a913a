internal import BlockIO
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

extension DeviceAttachments {
    /// Gives an attached disk a block device, and mounts it.
    public func mount(
        _ disk: String, at mountpoint: String?, options: MountOptions = MountOptions()
    ) throws(AgentError) -> AttachedDisk {
        let entry = entry(for: disk)
        let lock = try entry.lock()
        defer { withExtendedLifetime(lock) {} }
        guard let before = try settled(try live(entry), entry) else { throw Self.notAttached(disk) }
        try Self.expectInPlace(before)
        let target = try Self.target(mountpoint, options)
        // It may have been unmounted by hand.
        if let mounted = before.mountpoint, let device = before.device,
            try DeviceTree.mounts(on: device.path, all: true).map(\.mountPoint).hasSame(as: mounted)
        {
            throw AgentError(.alreadyAttached, "\(before.disk) is mounted already, at \(mounted)")
        }
        try ServerSign(controlSocket: before.controlSocket).expect(of: before.disk)
        let maker = BlockDeviceMaker(entry: entry)
        var record = before
        if let device = record.device {
            guard target != nil || record.backend == .kernel else {
                throw AgentError(.alreadyAttached, "\(record.disk) has a block device already, \(device.mounted)")
            }
            var partitionPath: String?
            if let partition = options.partition { partitionPath = try maker.partition(partition, of: device.path) }
            record.device?.partitionPath = partitionPath
            record.mountpoint = nil
        } else {
            record.device = try maker.make(record, options) { intended throws(AgentError) in
                var noted = before
                noted.intended = intended
                try entry.store(noted)
            }
        }
        do throws(AgentError) {
            try entry.store(record)
            guard let device = record.device, let target else { return record }
            do throws(AgentError) { try maker.mount(device, at: target, readOnly: record.readOnly, options) } catch {
                // The mount of a command that was killed may have got through just before this one.
                guard before.device != nil,
                    try DeviceTree.mounts(on: device.path, all: true).map(\.mountPoint).hasSame(as: target)
                else { throw error }
            }
            record.mountpoint = target
            try entry.store(record)
            return record
        } catch {
            // As it was, unless what was made can't be undone: then that stays on record.
            if before.device != nil {
                try? entry.store(before)
            } else if let device = record.device, (try? maker.remove(device, serverIsDead: false)) != nil {
                try? entry.store(before)
            }
            throw error
        }
    }

    private static func target(_ mountpoint: String?, _ options: MountOptions) throws(AgentError) -> String? {
        guard !options.deviceOnly else { return nil }
        guard let mountpoint else { throw AgentError(.invalid, "say where to mount the disk") }
        return try withAgentError { () throws(SystemError) in
            let path = try LinuxFileSystem().resolve(mountpoint)
            guard try LinuxFileSystem().isFolder(path) else {
                throw SystemError(errno: .notDirectory, operation: "mount at", subject: path)
            }
            return path
        }
    }

    /// Undoes ``mount(_:at:options:)``, also when the server or its FUSE file has died.
    public func unmount(_ disk: String) throws(AgentError) {
        let entry = entry(for: disk)
        let lock = try entry.lock()
        defer { withExtendedLifetime(lock) {} }
        let owned = try live(entry)
        // Before anything waits for a device that does.
        if let owned { try ServerSign(controlSocket: owned.controlSocket).expect(of: owned.disk) }
        let found = if let owned { owned } else { try entry.load() }
        let hadRemains = found?.intended != nil
        guard let record = try settled(found, entry), record.device != nil || hadRemains else {
            throw AgentError(.notAttached, "\(disk) is not mounted, and has no block device")
        }
        try removeDevice(record, entry, isForced: false)
    }
}
