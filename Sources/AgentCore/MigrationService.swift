public import BlockIO
internal import DiskImage
internal import Geometry
internal import LinuxSystem
public import Migration
internal import SystemPackage
public import Transport

/// Moves disks to other hosts, attached or not.
public struct MigrationService: Sendable {
    private let attachments: DeviceAttachments
    private let fs: any FileSystem
    /// Where unfinished migrations are noted, so that a start of the host finds them.
    private let register: MigrationRegister?
    /// A conversation with the agent on that host; only the hello has been said.
    /// - Parameter wantsCommands: the agent shall be one that runs a command of ours.
    public typealias Connector =
        @Sendable (_ target: SSHTarget, _ wantsCommands: Bool) throws(TransportError) -> any MessagePeer
    private let connect: Connector

    public init(
        attachments: DeviceAttachments = DeviceAttachments(), fs: any FileSystem = LinuxFileSystem(),
        register: MigrationRegister? = nil, connect: @escaping Connector = MigrationService.overSSH
    ) {
        self.attachments = attachments
        self.fs = fs
        self.register = register
        self.connect = connect
    }

    /// With what the environment says of the SSH configuration and of the far side's command.
    public static func overSSH(_ target: SSHTarget, wantsCommands: Bool) throws(TransportError) -> any MessagePeer {
        var options = SSHOptions.fromEnvironment()
        // Who may choose the command there may choose this; a forced command is not changed by it.
        if wantsCommands, options.command == SSHOptions().command { options.command += " --allow-commands" }
        return try PeerConnection.open(target, product: "godwit", options: options)
    }

    /// Moves the disk in `folder` to `[user@]host[:port]:folder`.
    /// - Parameters:
    ///   - hooks: the stop hook is run here, the start hook here after a failure; the target has its own.
    ///   - tell: called with progress on the caller's thread.
    ///   - shouldStop: asked often, from several threads.
    public func migrate(
        _ folder: String, to target: String, options: MigrationOptions = MigrationOptions(),
        hooks: HookRunner = HookRunner(hooks: [:]), tell: @escaping (MigrationProgress) -> Void = { _ in },
        shouldStop: @escaping @Sendable () -> Bool = { false }
    ) throws(MigrationError) -> MigrationReport {
        let there = try reach(target, wantsCommands: options.startCommand != nil)
        let folder = try resolved(folder)
        if let obstacle = MigrationFiles.obstacle(folder, in: fs) { throw MigrationError(.migrated, obstacle) }
        let attached = try agent { () throws(AgentError) in try self.attachments.attached(folder) }
        if attached?.readOnly == true {
            throw MigrationError(.refused, "\(folder) is attached read-only; detach it, or attach it for writing")
        }
        let disk = try describe(folder)
        register?.note(folder)
        let source: any MigrationSource
        let guest: any GuestControl
        if let attached {
            let owned = AttachedGuest(
                disk: folder, attachments: attachments, hooks: hooks,
                freezeMilliseconds: options.pauseDeadlineMilliseconds)
            source = try live(attached, owned, shouldStop)
            guest = owned
        } else {
            do throws(DiskError) { source = DiskSource(try Disk.open(folder, in: fs)) } catch {
                throw MigrationError(.source, error)
            }
            guest = NoGuest()
        }
        defer { try? (source as? DiskSource)?.close() }
        let report = try MigrationController(
            disk: disk, target: there, source: source, guest: guest, options: options, fs: fs, tell: tell,
            shouldStop: shouldStop
        ).run()
        if report.leftBehind == nil { register?.forget(folder) }
        return report
    }

    private func live(
        _ attached: AttachedDisk, _ guest: AttachedGuest, _ shouldStop: @escaping @Sendable () -> Bool
    ) throws(MigrationError) -> LiveSource {
        let folder = attached.disk
        let attachments = self.attachments
        let control = try agent { () throws(AgentError) in try attachments.control(folder) }
        return LiveSource(attached, control: control, shouldStop: shouldStop) { () throws(AgentError) in
            guest.forget()
            do throws(AgentError) { try attachments.detach(folder, isForced: true) } catch {
                // A disk that was released is not closed like others: it is enough that nobody serves it any more.
                guard try attachments.attached(folder) == nil else { throw error }
            }
        }
    }

    /// Finds out who owns the disk in `folder` after an interrupted migration, and finishes it: at the source, where it
    /// was given up, and at the target, where it was taken over.
    /// - Parameters:
    ///   - hooks: the start hook is run where a migration that died has left the guest stopped.
    ///   - startCommand: starts the guest of a disk that has arrived, in the place of what is on record or configured.
    public func recover(
        _ folder: String, hooks: HookRunner = HookRunner(hooks: [:]), startCommand: String? = nil,
        configuration: Configuration, patience: HandoverPatience = HandoverPatience()
    ) throws(MigrationError) -> MigrationOutcome {
        if let outcome = try recoverArrived(folder, startCommand, configuration) {
            if outcome.isFinished { register?.forget(folder) }
            return outcome
        }
        let folder = try resolved(folder)
        let attachments = self.attachments
        let guest = AttachedGuest(disk: folder, attachments: attachments, hooks: hooks, freezeMilliseconds: 0)
        let outcome = try MigrationRecovery(
            folder: folder, fs: fs,
            reach: { record throws(MigrationError) in
                try reach(record.target, wantsCommands: record.startCommand != nil)
            },
            retire: { () throws(MigrationError) in
                try agent { () throws(AgentError) in
                    var isServed = true
                    // A device whose owner has died would be given a new one by the question, which a disk that was
                    // given away is refused: there is something to detach then, too.
                    do throws(AgentError) { isServed = try attachments.attached(folder) != nil } catch {}
                    if isServed { try attachments.detach(folder, isForced: true) }
                }
            },
            restart: { note throws(MigrationError) in
                // Whoever can write there could have put it on record, and what is mounted is with our rights.
                let record = "\(folder)/\(MigrationFiles.outgoing)"
                guard note.mountpoint == nil || isOnlyOurs(record) else {
                    throw MigrationError(
                        .guest,
                        "the record of it may be anybody's: mount the disk's file system and start its guest by hand, "
                            + "and then remove \(record); or see that no other user can write to that file or to a "
                            + "folder above it, and run it again")
                }
                try guest.restart(note)
            },
            patience: patience
        ).run()
        if outcome.isFinished { register?.forget(folder) }
        return outcome
    }

    /// What ``recover(_:hooks:startCommand:configuration:patience:)`` is worth being called for: the disks of the
    /// configuration and those whose migration was noted, if there is something of a migration with them.
    public func unfinished(_ configuration: Configuration) throws(MigrationError) -> UnfinishedMigrations {
        let noted = try host { () throws(SystemError) in try register?.all() ?? MigrationRegister.Noted() }
        // It stays noted: its file system may only not be mounted yet.
        var disks = noted.disks.filter { disk in (try? isThere(disk)) ?? true }
        let marks = [MigrationFiles.outgoing, MigrationFiles.migrated, MigrationFiles.arrived]
        for disk in configuration.disks.map(\.path)
        where marks.contains(where: { mark in (try? fs.exists("\(disk)/\(mark)")) ?? true }) {
            let place = (try? fs.resolve(disk)) ?? disk
            if !disks.hasSame(as: place) { disks.append(place) }
        }
        return UnfinishedMigrations(
            disks: disks.sorted(), failures: noted.failures.map { MigrationError(.source, "\($0)") })
    }

    private func isThere(_ disk: String) throws(SystemError) -> Bool {
        if try fs.exists(disk) { return true }
        return try fs.exists(disk + MigrationFiles.partialSuffix)
    }

    /// - Returns: `nil` where no disk has arrived for which anything is left to do.
    private func recoverArrived(
        _ folder: String, _ startCommand: String?, _ configuration: Configuration
    ) throws(MigrationError) -> MigrationOutcome? {
        let isThere = try host { () throws(SystemError) in try fs.exists(folder) }
        // Once it was to move on, what it came with is history.
        let movesOn: Bool = try host { () throws(SystemError) -> Bool in
            if try fs.exists("\(folder)/\(MigrationFiles.outgoing)") { return true }
            return try fs.exists("\(folder)/\(MigrationFiles.migrated)")
        }
        if movesOn { return nil }
        let folder = (try? fs.resolve(folder)) ?? folder
        // A start command that is on record was allowed when it came. But whoever can write there could have put one on
        // record, and this may run with more rights than they have.
        let receiver = Self.receiver(
            attachments: attachments, configuration: configuration,
            allowsCommands: isOnlyOurs("\(folder)/\(MigrationFiles.arrived)"), startCommand: startCommand, fs: fs)
        if let arrived = try receiver.resume(folder: folder) { return .arrived(startFailure: arrived.startFailure) }
        let partial = folder + MigrationFiles.partialSuffix
        let waits = try host { () throws(SystemError) in try fs.exists(partial) }
        return !isThere && waits ? .waiting(partial: partial) : nil
    }

    /// Takes disks that are moved to this host: for ``PeerAgent``.
    /// - Parameters:
    ///   - configuration: its start hooks are run.
    ///   - allowsCommands: whether a start command of the source's is run here. Not where the peer is confined.
    ///   - startCommand: run in the place of any other, whoever's that is.
    public static func receiver(
        attachments: DeviceAttachments = DeviceAttachments(), configuration: Configuration, allowsCommands: Bool,
        startCommand: String? = nil, register: MigrationRegister? = nil, fs: any FileSystem = LinuxFileSystem()
    ) -> MigrationReceiver {
        var attach = AttachOptions()
        attach.backend = configuration.backend
        let guest = ArrivedGuest(
            attachments: attachments, attach: attach, allowsCommands: allowsCommands, startCommand: startCommand
        ) { folder in
            let folder = (try? fs.resolve(folder)) ?? folder
            return HookRunner(hooks: configuration.disk(folder)?.hooks ?? configuration.hooks)
        }
        return MigrationReceiver(fs: fs, disks: DiskFolders(fs: fs), guest: guest) { folder, isOver in
            if isOver { register?.forget(folder) } else { register?.note(folder) }
        }
    }

    /// The target of that name, whose own name is the one spelling of it.
    func reach(_ name: String, wantsCommands: Bool) throws(MigrationError) -> MigrationTarget {
        var target: SSHTarget
        do throws(TransportError) { target = try SSHTarget(parsingWithFolder: name) } catch {
            throw MigrationError(.refused, error.message, cause: .link(error.code))
        }
        target.host = target.host.lowercased()
        if target.port == 22 { target.port = nil }
        let folder = try Self.normalized(target.path ?? "", of: name)
        target.path = folder
        let connect = self.connect
        let peer = target
        let name = "\(target):\(Self.spelling(of: folder))"
        return MigrationTarget(name: name, folder: folder) { () throws(TransportError) in
            try connect(peer, wantsCommands)
        }
    }

    /// For behind a host and a colon: a folder in the user's home may look like a user, a port, or somebody's home.
    private static func spelling(of folder: String) -> String {
        let isOdd =
            folder.has(":") || folder.has("@") || folder.begins(with: "~")
            || folder.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
        return isOdd && !PathText.isAbsolute(folder) ? "./\(folder)" : folder
    }

    /// The one spelling of a folder at the target: whatever a path repeats or goes round by is left out, but not what
    /// only that host can tell.
    private static func normalized(_ path: String, of name: String) throws(MigrationError) -> String {
        // Shells replace it only where it begins a word, so scp and ssh users may well have written it.
        let path = path == "~" ? "" : path.rest(after: "~/").map(String.init) ?? path
        guard !path.begins(with: "~") else {
            throw MigrationError(
                .refused, "\(name): a folder in the user's home is written without '~', as host:folder",
                cause: .link(.invalidTarget))
        }
        let parts = PathText.parts(of: path).filter { $0 != "." }
        let folder = (PathText.isAbsolute(path) ? "/" : "") + parts.joined(separator: "/")
        guard !parts.isEmpty else {
            throw MigrationError(.refused, "\(name): name a folder at the target", cause: .link(.invalidTarget))
        }
        return folder
    }

    private func resolved(_ folder: String) throws(MigrationError) -> String {
        do throws(SystemError) { return try fs.resolve(folder) } catch {
            throw MigrationError(
                .source, error.description, cause: error.errno == .noSuchFileOrDirectory ? .disk(.notFound) : nil)
        }
    }

    private func host<R>(_ body: () throws(SystemError) -> R) throws(MigrationError) -> R {
        do throws(SystemError) { return try body() } catch { throw MigrationError(.source, error.description) }
    }

    private func describe(_ folder: String) throws(MigrationError) -> MigratedDisk {
        do throws(DiskError) {
            let info = try diskInfo(at: folder, in: fs)
            guard info.isDisk else { throw DiskError(.notADisk, "\(folder) is no disk folder", path: folder) }
            return MigratedDisk(
                folder: folder, clusterBytes: info.clusterBytes, imageVersion: info.version == 0 ? 2 : info.version,
                usedBytes: min(info.allocatedBytes, info.byteCount), sizeBytes: info.byteCount)
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
