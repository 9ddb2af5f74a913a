public import AgentAPI
internal import BlockIO
internal import DeviceControl
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

extension DeviceAttachments {
    /// `nil` when nobody owns the disk.
    /// - Throws: `.inUse` when what is served is not what the disk's path leads to any more.
    public func attached(_ disk: String) throws(AgentError) -> AttachedDisk? {
        guard let record = try attached(entry(for: disk)) else { return nil }
        try Self.expectInPlace(record)
        return record
    }

    /// A server goes by the path that it was given, so nothing but its end may be asked of one whose disk has moved.
    /// - Throws: `.inUse`, with the place that the disk has by now.
    static func expectInPlace(_ record: AttachedDisk) throws(AgentError) {
        guard let identity = record.identity, AttachedDisk.identity(of: record.disk) != identity else { return }
        let place = Self.servedFolder(record.server.pid).map { ": it is \($0) now" } ?? ""
        throw AgentError(
            .inUse,
            "the disk that was attached as \(record.disk) was renamed or replaced since\(place). Detach it with "
                + "'godwit disk detach \(record.disk)', then attach it where it is")
    }

    /// Where a folder is by now whose lock the process holds open.
    private static func servedFolder(_ process: Int32) -> String? {
        let files = LinuxFileSystem()
        let open = "/proc/\(process)/fd"
        for name in (try? files.list(open)) ?? [] {
            guard let path = try? files.resolve("\(open)/\(name)"),
                PathText.name(of: path).isSame(as: DiskFolder.ownerLockName)
            else { continue }
            return PathText.parent(of: path)
        }
        return nil
    }

    private func attached(_ entry: RunEntry) throws(AgentError) -> AttachedDisk? {
        if let record = try entry.load() {
            if try record.server.handle() != nil { return try withoutForeignDevice(record, entry) }
            guard record.backend == .kernel else { return nil }
        } else {
            guard (try? LinuxFileSystem().exists(entry.controlSocket)) == true else { return nil }
        }
        let lock = try entry.lock()
        defer { withExtendedLifetime(lock) {} }
        return try live(entry)
    }

    /// Those that have an owner.
    public func list() throws(AgentError) -> [AttachedDisk] {
        var list: [AttachedDisk] = []
        for entry in try RunEntry.all(in: runFolder) {
            if let record = try attached(entry) { list.append(record) }
        }
        return list.sorted { $0.disk < $1.disk }
    }

    /// What is on record of the disk, also when its server has died.
    public func record(_ disk: String) throws(AgentError) -> AttachedDisk? {
        let entry = entry(for: disk)
        if let record = try attached(entry) { return record }
        return try entry.load()
    }

    /// What is on record, also of disks whose server has died.
    public func records() throws(AgentError) -> [AttachedDisk] {
        var list: [AttachedDisk] = []
        for entry in try RunEntry.all(in: runFolder) {
            var record = try entry.load()
            if record == nil { record = try attached(entry) }
            if let record { list.append(record) }
        }
        return list.sorted { $0.disk < $1.disk }
    }

    /// A connection to the disk's owner, which has just given a sign of life. - Throws: `.notAttached`, `.timeout`.
    public func control(_ disk: String) throws(AgentError) -> ControlClient {
        guard let record = try attached(disk) else { throw Self.notAttached(disk) }
        do throws(ControlError) {
            // One that hangs is found out before anything waits for it.
            _ = try ControlClient.connect(record.controlSocket, silenceMilliseconds: ServerSign.milliseconds).status()
            return try ControlClient.connect(record.controlSocket)
        } catch {
            throw AgentError(error)
        }
    }

    /// Where the disk's file systems are mounted on this host, each file system once; by way of a process where that is
    /// in another mount namespace only.
    public func mountpoints(of disk: String) throws(AgentError) -> [String] {
        guard let device = try attached(disk)?.device else { return [] }
        return try DeviceTree.toFreeze(on: device.path, isOfDriver: false).map(\.path)
    }

    /// The disk's block device, where that does not follow when the disk grows: neither NBD clients nor FUSE files do.
    public func fixedDevice(_ disk: String) throws(AgentError) -> (path: String, sizeBytes: UInt64)? {
        guard let device = try attached(disk)?.device, device.way != .ploop,
            let sectors = try BlockDeviceMaker.attribute("/sys/block/\(BlockDeviceMaker.name(of: device.path))/size")
        else { return nil }
        return UInt64(sectors).map { (device.path, $0 * 512) }
    }

    /// The disk's record when somebody owns it. A device of the driver whose owner died gets a new one. The caller
    /// holds the entry's lock.
    func live(_ entry: RunEntry) throws(AgentError) -> AttachedDisk? {
        var found = try entry.load()
        if found == nil { found = try adopted(entry) }
        guard let record = found else { return nil }
        if try record.server.handle() != nil { return try withoutForeignDevice(record, entry) }
        guard record.backend == .kernel, try isDeviceLeft(record) else { return nil }
        if let identity = record.identity, AttachedDisk.identity(of: record.disk) != identity {
            throw Self.isElsewhere(record)
        }
        var options = AttachOptions()
        options.readOnly = record.readOnly
        do throws(AgentError) {
            return try startOwner(record.disk, entry, options, leftBehind: record)
        } catch {
            // As it was: the next one tries again.
            try? entry.store(record)
            throw error
        }
    }

    private static func isElsewhere(_ record: AttachedDisk) -> AgentError {
        AgentError(
            .inUse,
            "the disk that was attached as \(record.disk) has another name now, and its server has died, while "
                + "\(record.device?.path ?? "its device") goes on: give it its name back, and run it again")
    }

    /// A device that was taken away by hand, and is another's by now, is no device of this disk.
    private func withoutForeignDevice(_ record: AttachedDisk, _ entry: RunEntry) throws(AgentError) -> AttachedDisk {
        guard let device = record.device, try BlockDeviceMaker(entry: entry).isOfAnother(device) else { return record }
        var record = record
        record.device = nil
        record.mountpoint = nil
        return record
    }

    /// A server whose record is lost, by what it says of itself.
    private func adopted(_ entry: RunEntry) throws(AgentError) -> AttachedDisk? {
        guard (try? LinuxFileSystem().exists(entry.controlSocket)) == true,
            let control = try? ControlClient.connect(entry.controlSocket, silenceMilliseconds: ServerSign.milliseconds),
            let status = try? control.status(),
            let server = try withAgentError({ () throws(SystemError) in try ProcessHandle(status.pid) })
        else { return nil }
        var record = AttachedDisk(
            disk: status.folder, server: ProcessMark(pid: server.identifier, startTicks: server.startTicks),
            entry: entry, backend: status.device == nil ? .user : .kernel, readOnly: status.isReadOnly ?? false)
        record.device = status.device.map { BlockDevice(way: .ploop, path: $0, partitionPath: nil, fuse: nil) }
        if record.device == nil {
            record.device = try BlockDeviceMaker.device(ofClients: status.clients?.map(\.pid) ?? [])
        }
        record.repairedOnOpen = status.repairedOnOpen
        try entry.store(record)
        return record
    }

    /// Whether the driver still has a device for the disk.
    func isDeviceLeft(_ record: AttachedDisk) throws(AgentError) -> Bool {
        let stacks = try withAgentError { () throws(SystemError) in try AttachedStack.all() }
        guard let index = record.driverDevice else {
            // The owner died between attaching and telling.
            return stacks.contains { $0.files.contains { isOf(record, $0) } }
        }
        return stacks.contains { $0.device == index && $0.files.contains { isOf(record, $0) } }
    }

    /// Whether the file is the disk, or lies in its folder. The kernel tells the path that a file has by now.
    private func isOf(_ record: AttachedDisk, _ file: String) -> Bool {
        if let identity = record.identity, let folder = AttachedDisk.identity(of: PathText.parent(of: file)) {
            return folder == identity || AttachedDisk.identity(of: file) == identity
        }
        return file.isSame(as: record.disk) || PathText.isInside(file, record.disk)
    }

    // MARK: names

    /// The entry of a disk that may not be there any more, or has another name than when it was attached.
    func entry(for disk: String) -> RunEntry {
        let files = LinuxFileSystem()
        let path: String
        switch try? DiskLocation.find(disk, in: files) {
        case .folder(let folder): path = folder.path
        case .image(let image): path = image
        case nil: path = (try? files.resolve(disk)) ?? Self.absolute(disk)
        }
        let entry = RunEntry(runFolder: runFolder, disk: path)
        guard let identity = AttachedDisk.identity(of: path), (try? entry.load()).flatMap({ $0 }) == nil
        else { return entry }
        let others = (try? RunEntry.all(in: runFolder)) ?? []
        let renamed = others.first { (try? $0.load()).flatMap { $0 }?.identity == identity }
        return renamed ?? entry
    }

    /// Of a file that is not there: its folder's path, without symbolic links, with its name.
    private static func absolute(_ path: String) -> String {
        let files = LinuxFileSystem()
        guard let name = PathText.parts(of: path).last, let parent = try? files.resolve(PathText.parent(of: path))
        else { return path }
        return PathText.join(parent, name)
    }

    static func notAttached(_ disk: String) -> AgentError {
        AgentError(.notAttached, "\(disk) is not attached: use 'godwit disk attach' first")
    }
}
