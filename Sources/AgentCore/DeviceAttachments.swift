internal import AgentAPI
internal import BlockIO
internal import DeviceControl
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// The disks attached on this host: each has an owner process, and a folder below the run folder that tells how. The
/// owner is a process of this program, which serves the disk itself or controls the device of the driver. Several
/// processes may use the same run folder; what they do to one disk is serialised.
///
/// Whoever does it may be killed at any instant. So what goes on after a command begins only when it is on record
/// (``WaitingDaemon``), and what is on record, or can be seen to be there, is taken away or taken over by the next one.
public struct DeviceAttachments: Sendable {
    public let runFolder: String

    /// - Parameter runFolder: `nil` means `$GODWIT_RUN_DIR`, or /run/godwit.
    public init(runFolder: String? = nil) {
        let folder = runFolder ?? environmentVariable("GODWIT_RUN_DIR") ?? "/run/godwit"
        // Those who serve are elsewhere, and the kernel tells of mounts by such paths.
        self.runFolder = (try? LinuxFileSystem().resolveNew(folder)) ?? folder
    }

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
        let entry = entry(for: location)
        let lock = try entry.lock()
        defer { withExtendedLifetime(lock) {} }
        if let record = try live(entry) {
            if AttachedDisk.identity(of: location) != record.identity { try Self.expectInPlace(record) }
            let place = record.uri ?? record.device?.path ?? "an unknown place"
            let name = record.disk.isSame(as: location) ? "" : " under the name that it had, \(record.disk)"
            throw AgentError(.alreadyAttached, "\(location) is attached already\(name), at \(place)")
        }
        if let record = try entry.load() {
            try clearUp(entry, record)
        } else {
            try refuseUnrecorded(location)
            _ = try settled(nil, entry)
        }
        // One that was found by another name has gone.
        let own = RunEntry(runFolder: runFolder, disk: location)
        guard !own.folder.isSame(as: entry.folder) else { return try attach(location, own, options) }
        let ownLock = try own.lock()
        defer { withExtendedLifetime(ownLock) {} }
        if let record = try live(own) {
            throw AgentError(.alreadyAttached, "\(record.disk) is attached already, just now")
        }
        if let record = try own.load() { try clearUp(own, record) }
        return try attach(location, own, options)
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
    func startOwner(
        _ disk: String, _ entry: RunEntry, _ options: AttachOptions, leftBehind: AttachedDisk? = nil
    ) throws(AgentError) -> AttachedDisk {
        guard Driver.isLoaded else {
            throw AgentError(.unsupported, "the ploop driver is not loaded: 'modprobe ploop', or use --backend user")
        }
        let pipe = try withAgentError { () throws(SystemError) in try Pipe() }
        var arguments = [KernelOwnerArguments.command, disk, "--control", entry.controlSocket]
        if options.readOnly { arguments.append("--read-only") }
        if !options.direct { arguments.append("--buffered") }
        if let device = leftBehind?.driverDevice { arguments += ["--left-behind", "\(device.number)"] }
        let daemon = try WaitingDaemon(
            Installation.executable(), arguments, log: entry.serverLog, output: pipe.writing.number)
        var attached = AttachedDisk(
            disk: disk, server: daemon.mark, entry: entry, backend: .kernel, readOnly: options.readOnly)
        attached.device = leftBehind?.device
        attached.mountpoint = leftBehind?.mountpoint
        attached.repairedOnOpen = leftBehind?.repairedOnOpen ?? false
        let status = try run(daemon, reporting: pipe.keepReading(), as: attached, entry, options)
        guard let device = status.device else {
            throw AgentError(.protocolViolation, "the disk's owner names no device")
        }
        if leftBehind == nil { attached.repairedOnOpen = status.repairedOnOpen }
        if attached.device?.path.isSame(as: device) != true {
            attached.device = BlockDevice(way: .ploop, path: device, partitionPath: nil, fuse: nil)
            attached.mountpoint = nil
        }
        try entry.store(attached)
        daemon.child.detach()
        return attached
    }

    /// A process of this program that serves the disk over NBD.
    private func startServer(
        _ disk: String, _ entry: RunEntry, _ options: AttachOptions
    ) throws(AgentError) -> AttachedDisk {
        let pipe = try withAgentError { () throws(SystemError) in try Pipe() }
        var arguments = [
            DiskServerArguments.command, disk, "--socket", entry.nbdSocket, "--control", entry.controlSocket,
        ]
        if options.readOnly { arguments.append("--read-only") }
        if !options.direct { arguments.append("--buffered") }
        let daemon = try WaitingDaemon(
            Installation.executable(), arguments, log: entry.serverLog, output: pipe.writing.number)
        var attached = AttachedDisk(
            disk: disk, server: daemon.mark, entry: entry, backend: .user, readOnly: options.readOnly)
        let status = try run(daemon, reporting: pipe.keepReading(), as: attached, entry, options)
        attached.repairedOnOpen = status.repairedOnOpen
        try entry.store(attached)
        daemon.child.detach()
        return attached
    }

    /// Has the server begin once it is on record, and waits until it serves. Whoever finds our remains after a crash
    /// can tell the server by the record.
    private func run(
        _ daemon: WaitingDaemon, reporting report: consuming OwnedDescriptor, as attached: AttachedDisk,
        _ entry: RunEntry, _ options: AttachOptions
    ) throws(AgentError) -> DeviceStatus {
        try entry.store(attached)
        try daemon.begin()
        try awaitStart(LineChannel(adopting: report), log: entry.serverLog, seconds: options.startSeconds)
        do throws(ControlError) { return try ControlClient.connect(entry.controlSocket).status() } catch {
            throw AgentError(error)
        }
    }

    /// Reads the server's report. - Throws: why it did not start; the caller drops, and so kills, it.
    private func awaitStart(_ report: LineChannel, log: String, seconds: UInt64) throws(AgentError) {
        let deadline = SystemTime().monotonic() + min(seconds, 1 << 30) * 1_000_000_000
        let reply: ControlReply?
        do throws(ControlError) { reply = try report.receive(ControlReply.self, until: deadline) } catch {
            guard error.code == ControlError.timeout else { throw AgentError(error) }
            throw AgentError(.timeout, "the disk's server did not start in \(seconds) s; see \(log)")
        }
        switch reply {
        case .done: return
        case .failed(let code, let message): throw AgentError(ControlError(code: code, message: message))
        default: throw AgentError(.io, "the disk's server ended at its start: \(RunEntry.tail(log))")
        }
    }
}
