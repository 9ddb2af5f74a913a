public import AgentAPI
internal import BlockIO
internal import DeviceControl
internal import DiskImage
internal import LinuxSystem
internal import SystemPackage

/// The disks attached on this host: each has an owner process, and a folder below the run folder that tells how. The
/// owner is nbdkit with our plugin, which serves the disk itself, or a process of this program that controls the device
/// of the driver. Several processes may use the same run folder; what they do to one disk is serialised.
public struct DeviceAttachments: Sendable {
    public let runFolder: String
    private static let exitMilliseconds = 5_000
    private static let closeMilliseconds = 60_000

    /// - Parameter runFolder: `nil` means `$GODWIT_RUN_DIR`, or /run/godwit.
    public init(runFolder: String? = nil) {
        self.runFolder = runFolder ?? environmentVariable("GODWIT_RUN_DIR") ?? "/run/godwit"
    }

    // MARK: attaching

    /// Starts a server on the disk. Returns once it serves.
    /// - Throws: `.inUse` when another process owns the disk, `.alreadyAttached`, `.notFound`, `.io`.
    public func attach(_ disk: String, options: AttachOptions = AttachOptions()) throws(AgentError) -> AttachedDisk {
        let location: String
        do throws(DiskError) {
            location =
                switch try DiskLocation.find(disk, in: LinuxFileSystem()) {
                case .folder(let folder): folder.path
                case .image(let path): path
                }
        } catch {
            throw AgentError(error)
        }
        let entry = RunEntry(runFolder: runFolder, disk: location)
        let lock = try entry.lock()
        defer { withExtendedLifetime(lock) {} }
        if let record = try live(entry) {
            throw AgentError(
                .alreadyAttached,
                "\(location) is attached already, at \(record.uri ?? record.device?.path ?? "an unknown place")")
        }
        if let record = try entry.load() { try clearUp(entry, record) }
        return try attach(location, entry, options)
    }

    /// With the entry's lock held, and nobody alive who has the disk.
    private func attach(
        _ location: String, _ entry: RunEntry, _ options: AttachOptions
    ) throws(AgentError) -> AttachedDisk {
        let isChosen = options.backend != nil
        if options.backend == .kernel || (!isChosen && Driver.isLoaded) {
            do throws(AgentError) {
                return try startFresh(entry) { () throws(AgentError) in try startOwner(location, entry, options) }
            } catch {
                guard !isChosen, error.code == .unsupported else { throw error }
            }
        }
        return try startFresh(entry) { () throws(AgentError) in try startServer(location, entry, options) }
    }

    private func startFresh(
        _ entry: RunEntry, _ start: () throws(AgentError) -> AttachedDisk
    ) throws(AgentError) -> AttachedDisk {
        entry.remove()
        try entry.create()
        do throws(AgentError) { return try start() } catch {
            entry.remove()
            throw error
        }
    }

    /// A process of this program that has the driver serve the disk: with a new device, or with the one that an owner
    /// which died has left.
    private func startOwner(
        _ disk: String, _ entry: RunEntry, _ options: AttachOptions, leftBehind: AttachedDisk? = nil
    ) throws(AgentError) -> AttachedDisk {
        guard Driver.isLoaded else {
            throw AgentError(.unsupported, "the ploop driver is not loaded: 'modprobe ploop', or use --backend user")
        }
        let pipe = try withAgentError { () throws(SystemError) in try Pipe() }
        var arguments = [KernelOwnerArguments.command, disk, "--control", entry.controlSocket]
        if options.readOnly { arguments.append("--read-only") }
        if !options.direct { arguments.append("--buffered") }
        let child = try startDaemon(
            Installation.executable(), arguments, log: entry.serverLog, output: pipe.writing.number)
        let report = pipe.keepReading()
        guard let mark = try ProcessMark(of: child) else {
            throw AgentError(.io, "the disk's owner ended at once: \(RunEntry.tail(entry.serverLog))")
        }
        var attached = AttachedDisk(
            disk: disk, server: mark, controlSocket: entry.controlSocket, nbdSocket: nil, readOnly: options.readOnly,
            device: leftBehind?.device, mountpoint: leftBehind?.mountpoint,
            repairedOnOpen: leftBehind?.repairedOnOpen ?? false)
        try entry.store(attached)
        try awaitStart(LineChannel(adopting: report), log: entry.serverLog, seconds: options.startSeconds)
        do throws(ControlError) {
            let status = try ControlClient.connect(entry.controlSocket).status()
            guard let device = status.device else {
                throw ControlError(code: ControlError.protocolViolation, message: "the disk's owner names no device")
            }
            if leftBehind == nil { attached.repairedOnOpen = status.repairedOnOpen }
            if attached.device?.path != device {
                attached.device = BlockDevice(way: .ploop, path: device, partitionPath: nil, fuse: nil)
                attached.mountpoint = nil
            }
        } catch {
            throw AgentError(error)
        }
        try entry.store(attached)
        child.detach()
        return attached
    }

    /// The disk's record when somebody owns it. A device of the driver whose owner died gets a new one. The caller
    /// holds the entry's lock.
    private func live(_ entry: RunEntry) throws(AgentError) -> AttachedDisk? {
        guard let record = try entry.load() else { return nil }
        if try record.server.handle() != nil { return record }
        guard record.backend == .kernel, try isDeviceLeft(record) else { return nil }
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

    /// Whether the driver still has a device for the disk.
    private func isDeviceLeft(_ record: AttachedDisk) throws(AgentError) -> Bool {
        let stacks = try withAgentError { () throws(SystemError) in try AttachedStack.all() }
        guard let index = record.driverDevice else {
            // The owner died between attaching and telling.
            return stacks.contains { $0.files.contains { $0 == record.disk || $0.hasPrefix(record.disk + "/") } }
        }
        return stacks.contains { stack in
            stack.device == index && stack.files.contains { $0 == record.disk || $0.hasPrefix(record.disk + "/") }
        }
    }

    private func startServer(
        _ disk: String, _ entry: RunEntry, _ options: AttachOptions
    ) throws(AgentError) -> AttachedDisk {
        let pipe = try withAgentError { () throws(SystemError) in try Pipe() }
        // Each blocks in its request. More of them than this only contend for the connection: measured on 2 processors,
        // 16 instead of 8 cost a tenth of the requests a second.
        let threads = min(16, max(4, 4 * processorCount()))
        var arguments = ["-f", "-t", "\(threads)", "-U", entry.nbdSocket]
        if options.readOnly { arguments.append("-r") }
        arguments += [
            try Installation.plugin(), "disk=\(disk)", "control=\(entry.controlSocket)", "readonly=\(options.readOnly)",
            "cache=\(options.direct ? "none" : "host")", "outlive-parent=true", "ready-fd=1",
        ]
        let child = try startDaemon("nbdkit", arguments, log: entry.serverLog, output: pipe.writing.number)
        let report = pipe.keepReading()
        guard let mark = try ProcessMark(of: child) else {
            throw AgentError(.io, "the disk's server ended at once: \(RunEntry.tail(entry.serverLog))")
        }
        // Before it serves: whoever finds our remains after a crash can tell its server by this.
        var attached = AttachedDisk(
            disk: disk, server: mark, controlSocket: entry.controlSocket, nbdSocket: entry.nbdSocket,
            readOnly: options.readOnly, device: nil, mountpoint: nil, repairedOnOpen: false)
        try entry.store(attached)
        try awaitStart(LineChannel(adopting: report), log: entry.serverLog, seconds: options.startSeconds)
        do throws(ControlError) {
            attached.repairedOnOpen = try ControlClient.connect(entry.controlSocket).status().repairedOnOpen
        } catch {
            throw AgentError(error)
        }
        try entry.store(attached)
        child.detach()
        return attached
    }

    /// Reads the server's report. - Throws: why it did not start; the caller drops, and so kills, it.
    private func awaitStart(_ report: LineChannel, log: String, seconds: UInt64) throws(AgentError) {
        let isThere = try withAgentError { () throws(SystemError) in
            var entries = [PollEntry(report.descriptor, .readable)]
            return try pollDescriptors(&entries, deadlineMilliseconds: Int(clamping: seconds) * 1000) > 0
        }
        guard isThere else { throw AgentError(.timeout, "the disk's server did not start in \(seconds) s; see \(log)") }
        let reply: ControlReply?
        do throws(ControlError) { reply = try report.receive(ControlReply.self) } catch { throw AgentError(error) }
        switch reply {
        case .done: return
        case .failed(let code, let message): throw AgentError(ControlError(code: code, message: message))
        default: throw AgentError(.io, "the disk's server ended at its start: \(RunEntry.tail(log))")
        }
    }

    // MARK: detaching

    /// Unmounts, flushes, closes the disk and ends its server. Also clears up after a server that died.
    /// - Parameter isForced: whoever uses the disk is cut off: NBD clients, and what has its device open or mounted.
    /// - Throws: `.busy` when somebody uses it; then it is as it was, but for what could be unmounted.
    public func detach(_ disk: String, isForced: Bool = false) throws(AgentError) {
        let entry = entry(for: disk)
        let lock = try entry.lock()
        defer { withExtendedLifetime(lock) {} }
        guard let record = try ownedOrGone(entry), let server = try record.server.handle() else {
            guard let record = try entry.load() else { throw Self.notAttached(disk) }
            try clearUp(entry, record)
            return
        }
        try removeDevice(record, entry, isForced: isForced)
        var closing: AgentError?
        do throws(ControlError) {
            try ControlClient.connect(record.controlSocket).perform(isForced ? .shutdownForced : .shutdown)
        } catch {
            closing = AgentError(error)
        }
        // It is as it was.
        if let closing, closing.code == .busy, !isForced || record.backend == .kernel { throw closing }
        try withAgentError { () throws(SystemError) in
            if closing == nil, try server.waitForEnd(deadlineMilliseconds: Self.exitMilliseconds) { return }
            try server.stop(graceMilliseconds: closing == nil ? Self.exitMilliseconds : Self.closeMilliseconds)
        }
        entry.remove()
        if let closing, closing.code != .notAttached {
            throw AgentError(
                closing.code,
                "\(record.disk) was not closed properly, and is repaired when it is attached again: \(closing)")
        }
    }

    /// Like ``live(_:)``, but a disk that has moved to another host gets no new owner for its device.
    private func ownedOrGone(_ entry: RunEntry) throws(AgentError) -> AttachedDisk? {
        do throws(AgentError) { return try live(entry) } catch {
            guard let record = try entry.load(),
                (try? LinuxFileSystem().exists("\(record.disk)/\(DiskFolder.migratedMarkName)")) == true
            else { throw error }
            return nil
        }
    }

    /// Undoes what a dead server left: mounts and devices on it, its files.
    private func clearUp(_ entry: RunEntry, _ record: AttachedDisk) throws(AgentError) {
        if let device = record.device {
            try BlockDeviceMaker(entry: entry).remove(device, serverIsDead: true)
        }
        if let index = record.driverDevice, try isDeviceLeft(record) {
            do throws(DriverError) { try Driver().detach(index, force: true) } catch {
                throw AgentError(error.code == .busy ? .busy : .io, error.message)
            }
        }
        entry.remove()
    }

    // MARK: looking

    /// `nil` when nobody owns the disk.
    public func attached(_ disk: String) throws(AgentError) -> AttachedDisk? { try attached(entry(for: disk)) }

    private func attached(_ entry: RunEntry) throws(AgentError) -> AttachedDisk? {
        guard let record = try entry.load() else { return nil }
        if try record.server.handle() != nil { return record }
        guard record.backend == .kernel else { return nil }
        let lock = try entry.lock()
        defer { withExtendedLifetime(lock) {} }
        return try live(entry)
    }

    public func list() throws(AgentError) -> [AttachedDisk] {
        var list: [AttachedDisk] = []
        for entry in try RunEntry.all(in: runFolder) {
            if let record = try attached(entry) { list.append(record) }
        }
        return list.sorted { $0.disk < $1.disk }
    }

    /// A connection to the disk's owner. - Throws: `.notAttached`.
    public func control(_ disk: String) throws(AgentError) -> ControlClient {
        guard let record = try attached(disk) else { throw Self.notAttached(disk) }
        do throws(ControlError) {
            return try ControlClient.connect(record.controlSocket)
        } catch {
            throw AgentError(error)
        }
    }

    // MARK: mounting

    /// Gives an attached disk a block device, and mounts it.
    public func mount(
        _ disk: String, at mountpoint: String?, options: MountOptions = MountOptions()
    ) throws(AgentError) -> AttachedDisk {
        let entry = entry(for: disk)
        let lock = try entry.lock()
        defer { withExtendedLifetime(lock) {} }
        guard var record = try live(entry) else { throw Self.notAttached(disk) }
        let target = try Self.target(mountpoint, options)
        // It may have been unmounted by hand.
        if let mounted = record.mountpoint, let device = record.device,
            try DeviceTree.mounts(on: device.path, all: true).contains(where: { $0.mountPoint == mounted })
        {
            throw AgentError(.alreadyAttached, "\(record.disk) is mounted already, at \(mounted)")
        }
        let maker = BlockDeviceMaker(entry: entry)
        let hadDevice = record.device != nil
        if let device = record.device {
            guard target != nil || record.backend == .kernel else {
                throw AgentError(.alreadyAttached, "\(record.disk) has a block device already, \(device.mounted)")
            }
            var partitionPath: String?
            if let partition = options.partition { partitionPath = try maker.partition(partition, of: device.path) }
            record.device?.partitionPath = partitionPath
            record.mountpoint = nil
        } else {
            record.device = try maker.make(record, options)
        }
        do throws(AgentError) {
            try entry.store(record)
            guard let device = record.device, let target else { return record }
            try maker.mount(device, at: target, readOnly: record.readOnly, options)
            record.mountpoint = target
            try entry.store(record)
            return record
        } catch {
            if !hadDevice, let device = record.device, (try? maker.remove(device, serverIsDead: false)) != nil {
                record.device = nil
                record.mountpoint = nil
                try? entry.store(record)
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
        guard let record = if let owned { owned } else { try entry.load() }, record.device != nil else {
            throw AgentError(.notAttached, "\(disk) is not mounted, and has no block device")
        }
        try removeDevice(record, entry, isForced: false)
    }

    private func removeDevice(_ record: AttachedDisk, _ entry: RunEntry, isForced: Bool) throws(AgentError) {
        guard let device = record.device else { return }
        let isDead = try record.server.handle() == nil
        try BlockDeviceMaker(entry: entry).remove(device, serverIsDead: isDead, isForced: isForced)
        var record = record
        if record.backend == .kernel { record.device?.partitionPath = nil } else { record.device = nil }
        record.mountpoint = nil
        try entry.store(record)
    }

    /// Where the disk's file systems are mounted on this host, each file system once.
    public func mountpoints(of disk: String) throws(AgentError) -> [String] {
        guard let device = try attached(disk)?.device else { return [] }
        return try DeviceTree.mounts(on: device.path).map { $0.mountPoint }
    }

    // MARK: names

    /// The entry of a disk that may not be there any more.
    private func entry(for disk: String) -> RunEntry {
        let path: String
        switch try? DiskLocation.find(disk, in: LinuxFileSystem()) {
        case .folder(let folder): path = folder.path
        case .image(let image): path = image
        case nil: path = (try? LinuxFileSystem().resolve(disk)) ?? disk
        }
        return RunEntry(runFolder: runFolder, disk: path)
    }

    private static func notAttached(_ disk: String) -> AgentError {
        AgentError(.notAttached, "\(disk) is not attached: use 'godwit disk attach' first")
    }
}

extension AgentError {
    init(_ error: DiskError) {
        let code: Code =
            switch error.code {
            case .notFound: .notFound
            case .inUse: .inUse
            case .outOfSpace: .outOfSpace
            case .busy: .busy
            case .invalid, .outOfBounds: .invalid
            case .notADisk: .notADisk
            case .exists: .exists
            case .unsupported: .unsupported
            case .corrupt: .corrupt
            case .readOnly: .readOnly
            case .permission: .permission
            case .io: .io
            }
        self.init(code, error.message)
    }

    init(_ error: ControlError) {
        if let code = DiskError.Code(rawValue: error.code) {
            self.init(DiskError(code, error.message, path: ""))
            return
        }
        let code: Code =
            switch error.code {
            case ControlError.unreachable: .notAttached
            case ControlError.expired: .expired
            case ControlError.protocolViolation: .protocolViolation
            case ControlError.released: .inUse
            default: .io
            }
        self.init(code, error.message)
    }
}
