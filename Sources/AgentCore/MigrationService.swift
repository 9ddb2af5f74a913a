public import BlockIO
internal import DiskImage
internal import LinuxSystem
public import Migration
internal import SystemPackage
public import Transport

/// Moves disks to other hosts, attached or not.
public struct MigrationService: Sendable {
    private let attachments: DeviceAttachments
    private let fs: any FileSystem
    /// A conversation with the agent on that host; only the hello has been said.
    public typealias Connector = @Sendable (SSHTarget) throws(TransportError) -> any MessagePeer
    private let connect: Connector

    public init(
        attachments: DeviceAttachments = DeviceAttachments(), fs: any FileSystem = LinuxFileSystem(),
        connect: @escaping Connector = MigrationService.overSSH
    ) {
        self.attachments = attachments
        self.fs = fs
        self.connect = connect
    }

    /// With what the environment says of the SSH configuration and of the far side's command.
    public static func overSSH(_ target: SSHTarget) throws(TransportError) -> any MessagePeer {
        try PeerConnection.open(target, product: "godwit")
    }

    /// Moves the disk in `folder` to `[user@]host[:port]:folder`.
    /// - Parameters:
    ///   - hooks: the stop hook is run here, the start hook here after a failure; the target has its own.
    ///   - tell: called with progress on the caller's thread.
    ///   - shouldStop: asked often.
    public func migrate(
        _ folder: String, to target: String, options: MigrationOptions = MigrationOptions(),
        hooks: HookRunner = HookRunner(hooks: [:]), tell: @escaping (MigrationProgress) -> Void = { _ in },
        shouldStop: @escaping () -> Bool = { false }
    ) throws(MigrationError) -> MigrationReport {
        let there = try reach(target)
        let folder = try resolved(folder)
        if let obstacle = MigrationFiles.obstacle(folder, in: fs) { throw MigrationError(.migrated, obstacle) }
        let attached = try agent { () throws(AgentError) in try self.attachments.attached(folder) }
        if attached?.readOnly == true {
            throw MigrationError(.refused, "\(folder) is attached read-only; detach it, or attach it for writing")
        }
        let disk = try describe(folder)
        guard let attached else {
            let open: Disk
            do throws(DiskError) { open = try Disk.open(folder, in: fs) } catch {
                throw MigrationError(.source, error)
            }
            let source = DiskSource(open)
            defer { try? source.close() }
            return try MigrationController(
                disk: disk, target: there, source: source, guest: NoGuest(), options: options, fs: fs, tell: tell,
                shouldStop: shouldStop
            ).run()
        }
        let control = try agent { () throws(AgentError) in try self.attachments.control(folder) }
        let guest = AttachedGuest(
            disk: folder, attachments: attachments, hooks: hooks, freezeMilliseconds: options.pauseDeadlineMilliseconds)
        let attachments = self.attachments
        let source = try LiveSource(attached, control: control) { () throws(AgentError) in
            guest.forget()
            do throws(AgentError) { try attachments.detach(folder, isForced: true) } catch {
                // A disk that was released is not closed like others: it is enough that nobody serves it any more.
                guard try attachments.attached(folder) == nil else { throw error }
            }
        }
        return try MigrationController(
            disk: disk, target: there, source: source, guest: guest, options: options, fs: fs, tell: tell,
            shouldStop: shouldStop
        ).run()
    }

    /// Finds out who owns the disk in `folder` after an interrupted migration, and finishes it when it was given up.
    public func recover(_ folder: String) throws(MigrationError) -> MigrationOutcome {
        let folder = try resolved(folder)
        let attachments = self.attachments
        return try MigrationRecovery.run(
            folder: folder, fs: fs, reach: { name throws(MigrationError) in try reach(name) },
            retire: { () throws(MigrationError) in
                try agent { () throws(AgentError) in
                    if try attachments.attached(folder) != nil { try attachments.detach(folder, isForced: true) }
                }
            })
    }

    /// Takes disks that are moved to this host: for ``PeerAgent``.
    /// - Parameters:
    ///   - configuration: its start hooks are run.
    ///   - allowsCommands: whether a start command of the source's is run here. Not where the peer is confined.
    public static func receiver(
        attachments: DeviceAttachments = DeviceAttachments(), configuration: Configuration, allowsCommands: Bool,
        fs: any FileSystem = LinuxFileSystem()
    ) -> MigrationReceiver {
        var attach = AttachOptions()
        attach.backend = configuration.backend
        let guest = ArrivedGuest(attachments: attachments, attach: attach, allowsCommands: allowsCommands) { folder in
            let folder = (try? fs.resolve(folder)) ?? folder
            return HookRunner(hooks: configuration.disk(folder)?.hooks ?? configuration.hooks)
        }
        return MigrationReceiver(fs: fs, disks: DiskFolders(fs: fs), guest: guest)
    }

    private func reach(_ name: String) throws(MigrationError) -> MigrationTarget {
        let target: SSHTarget
        do throws(TransportError) { target = try SSHTarget(parsingWithFolder: name) } catch {
            throw MigrationError(.refused, error.message, cause: .link(error.code))
        }
        guard let folder = target.path else {
            throw MigrationError(.refused, "\(name): name a folder at the target", cause: .link(.invalidTarget))
        }
        let connect = self.connect
        return MigrationTarget(name: name, folder: folder) { () throws(TransportError) in try connect(target) }
    }

    private func resolved(_ folder: String) throws(MigrationError) -> String {
        do throws(SystemError) { return try fs.resolve(folder) } catch {
            throw MigrationError(
                .source, error.description, cause: error.errno == .noSuchFileOrDirectory ? .disk(.notFound) : nil)
        }
    }

    private func describe(_ folder: String) throws(MigrationError) -> MigratedDisk {
        do throws(DiskError) {
            let info = try diskInfo(at: folder, in: fs)
            guard info.isDisk else { throw DiskError(.notADisk, "\(folder) is no disk folder", path: folder) }
            return MigratedDisk(
                folder: folder, clusterBytes: info.clusterBytes, imageVersion: info.version == 0 ? 2 : info.version,
                usedBytes: min(info.allocatedBytes, info.byteCount))
        } catch {
            throw MigrationError(.source, error)
        }
    }

    private func agent<R>(_ body: () throws(AgentError) -> R) throws(MigrationError) -> R {
        do throws(AgentError) { return try body() } catch {
            let cause: MigrationError.Cause? =
                switch error.code {
                case .inUse: .disk(.inUse)
                case .busy: .disk(.busy)
                case .notFound: .disk(.notFound)
                case .outOfSpace: .disk(.outOfSpace)
                case .notADisk: .disk(.notADisk)
                case .corrupt: .disk(.corrupt)
                case .readOnly: .disk(.readOnly)
                case .permission: .disk(.permission)
                default: nil
                }
            throw MigrationError(.source, error.message, cause: cause)
        }
    }
}
