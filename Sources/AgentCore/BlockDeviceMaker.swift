internal import AgentAPI
internal import BlockIO
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// Makes a kernel block device of a disk's NBD export, mounts it, and undoes both.
///
/// With the kernel's NBD client where there is one. Elsewhere nbdfuse shows the export as a file, and a loop device
/// makes a block device of that; its direct I/O stays off, which FUSE files don't have.
struct BlockDeviceMaker {
    let entry: RunEntry
    private static let connections = "4"
    /// In seconds. The kernel takes a connection for dead whose request has no answer in so long, 30 s when nothing is
    /// said, and its data for lost; writes that are held, or wait for space, are neither. As long as there may be: the
    /// kernel counts it in ticks of a thousandth, in 32 bits.
    private static let requestLimit = "4000000"
    private static let fuseStartMilliseconds: UInt64 = 30_000
    private static let fuseEndMilliseconds = 10_000
    private static let mountSeconds = 600
    private static let glanceNanoseconds: UInt64 = 1_000_000_000
    private static let glanceStepMilliseconds = 50

    private var files: LinuxFileSystem { LinuxFileSystem() }
    private var server: ServerSign { ServerSign(controlSocket: entry.controlSocket) }

    /// For a disk that the engine serves; the driver's has its device already.
    /// - Parameter note: puts what is about to be made on record, before it can outlive this process.
    func make(
        _ record: AttachedDisk, _ options: MountOptions, note: (BlockDevice) throws(AgentError) -> Void
    ) throws(AgentError) -> BlockDevice {
        guard let socket = record.nbdSocket else { throw AgentError(.notFound, "\(record.disk) has lost its device") }
        let readOnly = record.readOnly || options.readOnly
        var device: BlockDevice
        if Self.hasKernelClient() {
            let path = try connectKernelClient(socket, note)
            device = BlockDevice(way: .nbd, path: path, partitionPath: nil, fuse: nil)
            device.client = try Self.nbdClient(path)
        } else {
            device = try makeFuseLoop(
                socket, readOnly: readOnly, scanPartitions: options.partition != nil || options.deviceOnly, note)
        }
        do throws(AgentError) {
            if let number = options.partition { device.partitionPath = try partition(number, of: device.path) }
            return device
        } catch {
            try? remove(device, serverIsDead: false)
            throw error
        }
    }

    // MARK: the kernel's NBD client

    /// `$GODWIT_BLOCK_DEVICE` may say `fuse`.
    static func hasKernelClient() -> Bool {
        guard environmentVariable("GODWIT_BLOCK_DEVICE") != "fuse" else { return false }
        if (try? LinuxFileSystem().exists("/sys/block/nbd0")) == true { return true }
        // The module is loaded where it is installed.
        _ = try? runCommand("modprobe", ["-q", "nbd"])
        return (try? LinuxFileSystem().exists("/sys/block/nbd0")) == true
    }

    private func connectKernelClient(
        _ socket: String, _ note: (BlockDevice) throws(AgentError) -> Void
    ) throws(AgentError) -> String {
        let names = try withAgentError { () throws(SystemError) in try files.list("/sys/block") }
        var failure: AgentError?
        for name in names where name.begins(with: "nbd") {
            let isUsed = try withAgentError { () throws(SystemError) in try files.exists("/sys/block/\(name)/pid") }
            guard !isUsed else { continue }
            try note(BlockDevice(way: .nbd, path: "/dev/\(name)", partitionPath: nil, fuse: nil))
            do throws(AgentError) {
                try runCommand(
                    "nbd-client",
                    [
                        "-unix", socket, "/dev/\(name)", "-connections", Self.connections, "-timeout",
                        Self.requestLimit,
                    ], server: server)
                return "/dev/\(name)"
            } catch {
                // Another process may have taken it meanwhile.
                guard error.code == .commandFailed else { throw error }
                failure = error
            }
        }
        throw failure ?? AgentError(.busy, "all /dev/nbd* are in use: load the nbd module with more (nbds_max)")
    }

    // MARK: nbdfuse and a loop device

    private func makeFuseLoop(
        _ socket: String, readOnly: Bool, scanPartitions: Bool, _ note: (BlockDevice) throws(AgentError) -> Void
    ) throws(AgentError) -> BlockDevice {
        try withAgentError { () throws(SystemError) in try createPrivateFolder(entry.fuseFolder) }
        let watch = try withAgentError { () throws(SystemError) in try MountWatch() }
        let daemon = try WaitingDaemon(
            "nbdfuse",
            (readOnly ? ["-r"] : [])
                + ["-C", Self.connections, entry.fuseFile, AttachedDisk.uri(of: socket, export: Self.fuseExport)],
            log: entry.fuseLog)
        var device = BlockDevice(way: .fuseLoop, path: "", partitionPath: nil, fuse: daemon.mark)
        try note(device)
        try daemon.begin()
        do throws(AgentError) {
            try awaitMount(watch, daemon.child)
            device.path = try makeLoop(readOnly: readOnly, scanPartitions: scanPartitions)
            daemon.child.detach()
            return device
        } catch {
            try? endFuse(daemon.mark.handle())
            throw error
        }
    }

    /// The loop device asks for zeros and for a discard by one call, a punched hole, of which nbdfuse makes a TRIM: so
    /// it is served by the export whose TRIM leaves zeros.
    private static let fuseExport = "trim-zeroes"

    /// Waits until nbdfuse has mounted its file.
    private func awaitMount(_ watch: MountWatch, _ child: ChildProcess) throws(AgentError) {
        let time = SystemTime()
        let start = time.monotonic()
        while true {
            let isThere = try withAgentError { () throws(SystemError) in
                try MountTable.current().mount(at: entry.fuseFolder) != nil
            }
            if isThere { return }
            let passed = time.elapsed(since: start) / 1_000_000
            guard passed < Self.fuseStartMilliseconds else {
                throw AgentError(.timeout, "nbdfuse did not mount \(entry.fuseFolder): \(RunEntry.tail(entry.fuseLog))")
            }
            let hasEnded = try withAgentError { () throws(SystemError) in
                var entries = [watch.entry, PollEntry(child.descriptor, .readable)]
                try pollDescriptors(&entries, deadlineMilliseconds: Int(Self.fuseStartMilliseconds - passed))
                return !entries[1].ready.isEmpty
            }
            if hasEnded { throw fuseEnded }
        }
    }

    private var fuseEnded: AgentError { AgentError(.io, "nbdfuse ended at its start: \(RunEntry.tail(entry.fuseLog))") }

    private func makeLoop(readOnly: Bool, scanPartitions: Bool) throws(AgentError) -> String {
        let arguments =
            ["--find", "--show"] + (readOnly ? ["--read-only"] : []) + (scanPartitions ? ["--partscan"] : [])
            + [entry.fuseFile]
        do throws(AgentError) {
            return try runCommand("losetup", arguments, server: server)
        } catch {
            // Without udev the kernel's next free device may have no node yet.
            guard let free = try? runCommand("losetup", ["--find"]), free.begins(with: "/dev/loop"),
                (try? files.exists(free)) == false
            else { throw error }
            try withAgentError { () throws(SystemError) in
                try createBlockNode(free, device: "7:\(free.dropFirst("/dev/loop".count))")
            }
            return try runCommand("losetup", arguments, server: server)
        }
    }

    // MARK: partitions

    /// The device of a partition; makes its node where no udev does.
    func partition(_ number: Int, of device: String) throws(AgentError) -> String {
        let name = Self.name(of: device)
        let partition = "\(name)p\(number)"
        let number = try partitionNumber(device, name, partition)
        let path = "/dev/\(partition)"
        try withAgentError { () throws(SystemError) in
            if try !files.exists(path) { try createBlockNode(path, device: number) }
        }
        return path
    }

    /// `major:minor`.
    private func partitionNumber(_ device: String, _ name: String, _ partition: String) throws(AgentError) -> String {
        let file = "/sys/block/\(name)/\(partition)/dev"
        if let text = try Self.attribute(file) { return text }
        // The kernel scanned before the table was written, or was not told to scan.
        _ = try? runCommand("partx", ["--update", device], server: server)
        if let text = try Self.attribute(file) { return text }
        throw AgentError(
            .notFound, "\(device) has no partition \(partition.dropFirst(name.count + 1)): see 'fdisk -l \(device)'")
    }

    // MARK: mounting

    func mount(
        _ device: BlockDevice, at target: String, readOnly: Bool, _ options: MountOptions
    ) throws(AgentError) {
        var arguments: [String] = []
        if let type = options.fileSystem { arguments += ["-t", type] }
        var words = options.options.map { [$0] } ?? []
        if readOnly || options.readOnly { words.append("ro") }
        if !words.isEmpty { arguments += ["-o", words.joined(separator: ",")] }
        try runCommand("mount", arguments + [device.mounted, target], limitSeconds: Self.mountSeconds, server: server)
    }

    // MARK: undoing

    /// Unmounts whatever of the device is mounted, then removes it. What is gone already is no error.
    /// - Parameters:
    ///   - serverIsDead: nothing can be saved: what is still in use is detached, and sees I/O errors.
    ///   - isForced: the same is done to a device that works.
    /// - Throws: `.busy` when somebody has the device open, or mounted where this process can't unmount it.
    func remove(_ device: BlockDevice, serverIsDead: Bool, isForced: Bool = false) throws(AgentError) {
        let fuse = try device.fuse?.handle()
        let isFuseMounted = try isFuseMounted()
        let isDead = serverIsDead || (device.way == .fuseLoop && fuse == nil && (device.fuse != nil || !isFuseMounted))
        // Requests to a dead server, or to one that waits itself, fail at once only when its client is gone, too.
        if isDead || (isForced && fuse != nil && server.stall() != nil) {
            try withAgentError { () throws(SystemError) in try fuse?.send(Signal.kill) }
        }
        guard try isOurs(device) else {
            // A loop device that a command which was killed had made in its stead.
            try removeLoops(besides: "", fuse: device.fuse, serverIsDead: serverIsDead, isForced: isForced)
            try endFuse(fuse)
            return
        }
        // The driver goes on without its owner: nothing is dead then. Its device goes when the disk is detached.
        guard device.way != .ploop else {
            try unmountAll(device, force: isForced)
            return
        }
        let force = isDead || isForced
        // Before anything is unmounted: who is refused has changed nothing.
        if !force { try refuseUsers(of: device, exceptFollowers: true) }
        try unmountAll(device, force: force)
        if !force { try refuseUsers(of: device, exceptFollowers: false) }
        do throws(AgentError) {
            if device.way == .fuseLoop {
                try runCommand("losetup", ["--detach", device.path], server: server)
            } else {
                try runCommand("nbd-client", ["-d", device.path], server: server)
            }
        } catch {
            // Left to itself, it ends when the server has.
            guard force, error.isStall else { throw error }
        }
        // The kernel keeps a loop device that was opened meanwhile until it is closed.
        if !force, device.way == .fuseLoop, try isOurs(device) { throw Self.isInUse(device, "open") }
        if let partition = device.partitionPath,
            try Self.attribute("/sys/class/block/\(Self.name(of: partition))/dev") == nil
        {
            try? files.remove(partition)
        }
        try removeLoops(besides: device.path, fuse: device.fuse, serverIsDead: serverIsDead, isForced: isForced)
        try endFuse(fuse)
    }

    /// Takes away what a command that was killed had begun to make, by what it noted and by what is there.
    /// - Throws: `.busy` for one with a mounted file system: the record of that is lost.
    func removeRemains(_ record: AttachedDisk?, serverIsDead: Bool) throws(AgentError) {
        let intended = record?.intended
        try removeLoops(
            besides: "", fuse: intended?.fuse, serverIsDead: serverIsDead, isForced: false,
            isUnrecorded: !serverIsDead)
        try endFuse(intended?.fuse?.handle())
        guard let record, let intended, intended.way == .nbd, try isOurs(intended) else { return }
        // Somebody else may have taken it: the disk's server knows who has connected.
        let client = try Self.attribute("/sys/block/\(Self.name(of: intended.path))/pid").flatMap { Int32($0) }
        let clients = try? ControlClient.connect(
            record.controlSocket, silenceMilliseconds: ServerSign.milliseconds
        ).status().clients
        guard let client, clients?.contains(where: { $0.pid == client }) == true else { return }
        try remove(intended, serverIsDead: serverIsDead)
    }

    /// Loop devices on nbdfuse's file.
    private func removeLoops(
        besides known: String, fuse: ProcessMark?, serverIsDead: Bool, isForced: Bool, isUnrecorded: Bool = false
    ) throws(AgentError) {
        let names = try withAgentError { () throws(SystemError) in try files.list("/sys/block") }
        for name in names where name.begins(with: "loop") && "/dev/\(name)" != known {
            let device = BlockDevice(way: .fuseLoop, path: "/dev/\(name)", partitionPath: nil, fuse: fuse)
            guard try isOurs(device) else { continue }
            if isUnrecorded, let mount = try DeviceTree.mounts(on: device.path).first {
                throw AgentError(
                    .busy,
                    "\(device.path) is mounted at \(mount.mountPoint), but what \(entry.folder) held of that is lost: "
                        + "unmount it, and run it again")
            }
            try remove(device, serverIsDead: serverIsDead, isForced: isForced)
        }
    }

    private func isFuseMounted() throws(AgentError) -> Bool {
        try withAgentError { () throws(SystemError) in try MountTable.current().mount(at: entry.fuseFolder) != nil }
    }

    /// - Parameter exceptFollowers: mounts of other namespaces that go with those of this one don't count.
    private func refuseUsers(of device: BlockDevice, exceptFollowers: Bool) throws(AgentError) {
        let numbers = try DeviceTree.numbers(Self.name(of: device.path))
        let groups =
            exceptFollowers ? Set(try DeviceTree.mounts(on: device.path, all: true).compactMap(\.peerGroup)) : []
        // The kernel's NBD client of an older kind is a process that has the device open.
        let client = try Self.attribute("/sys/block/\(Self.name(of: device.path))/pid").flatMap { Int32($0) }
        let deadline = SystemTime().monotonic() + Self.glanceNanoseconds
        while true {
            let users = try withAgentError { () throws(SystemError) in try blockUsers(of: numbers, besides: groups) }
                .filter { $0.process != client && $0.name != "nbd-client" }
            let use: String
            if let first = users.first {
                use = "\(first)"
            } else if !exceptFollowers,
                try withAgentError({ () throws(SystemError) in try isClaimed(device.path) })
            {
                use = "mounted, or held by another block device"
            } else {
                return
            }
            // udev and its like open a device for a moment only, and so does mount(8); an unmounted file system lets
            // go of it a moment later.
            guard SystemTime().monotonic() < deadline else {
                // An unmounting that was left to itself waits for the server, and holds the device.
                if users.isEmpty, let stall = server.stall() {
                    throw AgentError(
                        stalled: stall.code,
                        "\(device.path) is held by an unmounting that waits for the disk's server: \(stall). "
                            + "It goes on when the server does; 'godwit disk detach --force' ends the server: what is "
                            + "not flushed is lost then")
                }
                throw Self.isInUse(device, use)
            }
            var none: [PollEntry] = []
            try withAgentError { () throws(SystemError) in
                _ = try pollDescriptors(&none, deadlineMilliseconds: Self.glanceStepMilliseconds)
            }
        }
    }

    private static func isInUse(_ device: BlockDevice, _ how: String) -> AgentError {
        AgentError(.busy, "\(device.path) is \(how): end that first, or detach with --force, which takes it away")
    }

    private func unmountAll(_ device: BlockDevice, force: Bool) throws(AgentError) {
        for mount in try DeviceTree.mounts(on: device.path, all: true).reversed() {
            // Its path leads to what lies over it, which is somebody else's.
            let isHidden = try withAgentError { () throws(SystemError) in
                let table = try MountTable.current()
                return table.mounts.first { $0.identifier == mount.identifier }.map { table.isHidden($0) }
            }
            guard let isHidden else { continue }
            guard !isHidden else {
                throw AgentError(
                    .busy,
                    "\(mount.mountPoint) can't be unmounted from \(device.path), as another file system lies over it: "
                        + "unmount that one, and run it again")
            }
            try unmount(mount.mountPoint, force: force)
        }
    }

    /// By a process of its own, which can be left when it hangs in the kernel: umount(2) writes what is left to write.
    private func unmount(_ mountPoint: String, force: Bool) throws(AgentError) {
        do throws(AgentError) {
            try umount([], mountPoint)
        } catch {
            // One that waits for the host goes on, or fails, when the device is gone.
            if force, error.isStall {
                if try isMounted(mountPoint) { try umount(["-l"], mountPoint) }
                return
            }
            guard error.code == .commandFailed, try isMounted(mountPoint) else {
                // It was unmounted meanwhile.
                if error.code == .commandFailed { return }
                throw error
            }
            if force { return try umount(["-l"], mountPoint) }
            guard error.message.contains("busy") else { throw error }
            throw AgentError(
                .busy, "\(mountPoint) is in use: end what uses it (see 'fuser -vm \(mountPoint)') and retry")
        }
    }

    private func umount(_ flags: [String], _ mountPoint: String) throws(AgentError) {
        try runCommand("umount", ["-i"] + flags + [mountPoint], limitSeconds: Self.mountSeconds, server: server)
    }

    private func isMounted(_ mountPoint: String) throws(AgentError) -> Bool {
        try withAgentError { () throws(SystemError) in try MountTable.current().mount(at: mountPoint) != nil }
    }

    /// Whether the device is still the one that was made: a loop device or nbd may have become another's.
    private func isOurs(_ device: BlockDevice) throws(AgentError) -> Bool {
        let name = Self.name(of: device.path)
        switch device.way {
        case .ploop: return true
        case .nbd:
            guard let client = try Self.nbdClient(device.path) else { return false }
            return device.client == nil || device.client == client
        case .fuseLoop: return try Self.attribute("/sys/block/\(name)/loop/backing_file") == entry.fuseFile
        }
    }

    /// Whether somebody else has made it theirs since.
    func isOfAnother(_ device: BlockDevice) throws(AgentError) -> Bool {
        switch device.way {
        case .ploop: return false
        case .nbd:
            guard let client = try Self.nbdClient(device.path), let own = device.client else { return false }
            return client != own
        case .fuseLoop:
            guard let file = try Self.attribute("/sys/block/\(Self.name(of: device.path))/loop/backing_file"),
                !file.isSame(as: entry.fuseFile)
            else { return false }
            // Of a mount that can't be reached from here the kernel gives no path that leads there.
            return (try? LinuxFileSystem().exists(file)) == true
        }
    }

    /// The kernel's NBD client that is one of these.
    static func device(ofClients clients: [Int32]) throws(AgentError) -> BlockDevice? {
        guard !clients.isEmpty else { return nil }
        let names = try withAgentError { () throws(SystemError) in try LinuxFileSystem().list("/sys/block") }
        for name in names where name.begins(with: "nbd") {
            guard let client = try nbdClient("/dev/\(name)"), clients.contains(client) else { continue }
            var device = BlockDevice(way: .nbd, path: "/dev/\(name)", partitionPath: nil, fuse: nil)
            device.client = client
            return device
        }
        return nil
    }

    /// `nil` when nobody is connected.
    private static func nbdClient(_ path: String) throws(AgentError) -> Int32? {
        try attribute("/sys/block/\(name(of: path))/pid").flatMap { Int32($0) }
    }

    /// Takes nbdfuse's mount away, and waits for its end: then all is with the server. One whose server takes nothing
    /// is not waited for.
    private func endFuse(_ fuse: ProcessHandle?) throws(AgentError) {
        let mayTake = fuse != nil && server.stall() != nil ? 0 : Self.fuseEndMilliseconds
        try withAgentError { () throws(SystemError) in
            // One that has not mounted its file yet would do so later.
            if try MountTable.current().mount(at: entry.fuseFolder) == nil { try fuse?.send(Signal.terminate) }
            var hasEnded = false
            while true {
                if try MountTable.current().mount(at: entry.fuseFolder) != nil {
                    try detachFileSystem(at: entry.fuseFolder)
                } else if hasEnded {
                    return
                }
                hasEnded = true
                guard let fuse, try !fuse.waitForEnd(deadlineMilliseconds: mayTake) else { continue }
                try fuse.stop(graceMilliseconds: mayTake)
            }
        }
    }

    static func name(of device: String) -> String { PathText.parts(of: device).last.map(String.init) ?? "" }

    /// The one line of a file in /sys.
    static func attribute(_ path: String) throws(AgentError) -> String? {
        let text = try withAgentError { () throws(SystemError) in try kernelText(path) }
        return text.map { String($0.prefix { $0 != "\n" }) }
    }
}
