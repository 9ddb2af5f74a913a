public import AgentAPI
internal import BlockIO
internal import DiskImage
internal import LinuxSystem
internal import SystemPackage

/// The disks attached on this host: each is served by an nbdkit process with our plugin, and has a folder below the run
/// folder that tells how. Several processes may use the same run folder; what they do to one disk is serialised.
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
        if let record = try entry.load() {
            guard try record.server.handle() == nil else {
                throw AgentError(.alreadyAttached, "\(location) is attached already, at \(record.uri)")
            }
            try clearUp(entry, record)
        }
        entry.remove()
        try entry.create()
        do throws(AgentError) {
            return try startServer(location, entry, options)
        } catch {
            entry.remove()
            throw error
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
    public func detach(_ disk: String) throws(AgentError) {
        let entry = entry(for: disk)
        let lock = try entry.lock()
        defer { withExtendedLifetime(lock) {} }
        guard let record = try entry.load() else { throw Self.notAttached(disk) }
        guard let server = try record.server.handle() else {
            try clearUp(entry, record)
            return
        }
        try removeDevice(record, entry)
        var closing: AgentError?
        do throws(ControlError) {
            try ControlClient.connect(record.controlSocket).perform(.shutdown)
        } catch {
            closing = AgentError(error)
        }
        try withAgentError { () throws(SystemError) in
            // A server that has closed the disk may still wait for idle NBD clients.
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

    /// Undoes what a dead server left: mounts and devices on it, its files.
    private func clearUp(_ entry: RunEntry, _ record: AttachedDisk) throws(AgentError) {
        if let device = record.device {
            try BlockDeviceMaker(entry: entry).remove(device, mountpoint: record.mountpoint, serverIsDead: true)
        }
        entry.remove()
    }

    // MARK: looking

    /// `nil` when the disk has no live server.
    public func attached(_ disk: String) throws(AgentError) -> AttachedDisk? {
        guard let record = try entry(for: disk).load(), try record.server.handle() != nil else { return nil }
        return record
    }

    public func list() throws(AgentError) -> [AttachedDisk] {
        var list: [AttachedDisk] = []
        for entry in try RunEntry.all(in: runFolder) {
            guard let record = try entry.load(), try record.server.handle() != nil else { continue }
            list.append(record)
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
        guard var record = try entry.load(), try record.server.handle() != nil else { throw Self.notAttached(disk) }
        let target = try Self.target(mountpoint, options)
        if let mounted = record.mountpoint {
            throw AgentError(.alreadyAttached, "\(record.disk) is mounted already, at \(mounted)")
        }
        let maker = BlockDeviceMaker(entry: entry)
        let hadDevice = record.device != nil
        if let device = record.device {
            guard target != nil else {
                throw AgentError(.alreadyAttached, "\(record.disk) has a block device already, \(device.mounted)")
            }
            if let partition = options.partition, device.partitionPath == nil {
                record.device?.partitionPath = try maker.partition(partition, of: device.path)
            }
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
            if !hadDevice, let device = record.device {
                try? maker.remove(device, mountpoint: target, serverIsDead: false)
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
        guard let record = try entry.load(), record.device != nil else {
            throw AgentError(.notAttached, "\(disk) is not mounted, and has no block device")
        }
        try removeDevice(record, entry)
    }

    private func removeDevice(_ record: AttachedDisk, _ entry: RunEntry) throws(AgentError) {
        guard let device = record.device else { return }
        let isDead = try record.server.handle() == nil
        try BlockDeviceMaker(entry: entry).remove(device, mountpoint: record.mountpoint, serverIsDead: isDead)
        var record = record
        record.device = nil
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
            case .invalid, .notADisk, .exists, .outOfBounds: .invalid
            case .unsupported: .unsupported
            case .corrupt, .io, .readOnly: .io
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
