public import BlockIO
internal import LinuxSystem
public import Transport

/// The other host, and how to reach its service.
public struct MigrationTarget: Sendable {
    /// As the user wrote it.
    public let name: String
    /// Where the disk is to be, there.
    public let folder: String
    /// A new conversation, with nothing said yet but the hello.
    let open: @Sendable () throws(TransportError) -> any MessagePeer

    public init(name: String, folder: String, open: @escaping @Sendable () throws(TransportError) -> any MessagePeer) {
        self.name = name
        self.folder = folder
        self.open = open
    }

    /// A target that lives, and does nothing, is waited for so long.
    private static let openNanosecondsMax: UInt64 = 120_000_000_000

    /// - Parameter shouldStop: asked often, on a thread of its own; `nil` where there are to be no threads.
    func connect(_ shouldStop: (@Sendable () -> Bool)? = nil) throws(MigrationError) -> MigrationLink {
        let peer = try overLink { () throws(TransportError) in try open() }
        let link = MigrationLink(peer: peer, name: name)
        let watch = shouldStop.map { LinkWatch(link, shouldStop: $0) }
        watch?.set(deadline: SystemTime().monotonic() + Self.openNanosecondsMax)
        defer { watch?.end() }
        do throws(MigrationError) { try link.open(folder: folder) } catch {
            link.close()
            switch watch?.reason {
            case .cancelled: throw MigrationError(.cancelled, "stopped while \(name) was asked for nothing yet")
            case .late:
                throw MigrationError(
                    .link, "\(name) answers, but has not looked at \(folder) in two minutes: is its storage well?")
            case nil: throw error
            }
        }
        return link
    }
}

/// What became of an interrupted migration.
public enum MigrationOutcome: Hashable, Sendable {
    /// No migration was begun, or it failed before the end: the disk is this host's.
    case ownedHere(LeftHere)
    /// The disk is the target's, and it has confirmed that.
    case ownedThere(MigratedRecord, startFailure: String?, leftBehind: [String])
    /// The disk came from another host, and is this one's.
    case arrived(startFailure: String?)
    /// A copy is here that its source has not given the disk up for, as far as this host knows: it waits for the
    /// source.
    case waiting(partial: String)

    /// Whether nothing is left to do.
    public var isFinished: Bool {
        switch self {
        case .ownedHere(let left): left.restartFailure == nil
        case .ownedThere(_, _, let leftBehind): leftBehind.isEmpty
        case .arrived(let startFailure): startFailure == nil
        case .waiting: false
        }
    }

    /// What a migration that failed has left at the source.
    public struct LeftHere: Hashable, Sendable {
        /// The disk's journal names a migration that was begun.
        public var isUnderWay = false
        /// Targets where partial copies may lie.
        public var targets: [String] = []
        /// The guest was found stopped by the migration, and was started again.
        public var wasRestarted = false
        /// Why it could not be.
        public var restartFailure: String?
    }
}

/// Finishes what a crash has interrupted.
public struct MigrationRecovery {
    let place: SourcePlace
    let reach: (MigratedRecord) throws(MigrationError) -> MigrationTarget
    /// Ends what serves the disk here.
    let retire: () throws(MigrationError) -> Void
    /// Starts the guest again that the migration had stopped, and mounts its file system there first.
    let restart: (GuestStopNote) throws(MigrationError) -> Void
    let patience: HandoverPatience

    /// - Parameters:
    ///   - reach: the target that the record names.
    ///   - retire: ends what serves the disk here.
    ///   - restart: mounts the disk's file system there, if it was mounted, and starts its guest.
    public init(
        folder: String, fs: any FileSystem, reach: @escaping (MigratedRecord) throws(MigrationError) -> MigrationTarget,
        retire: @escaping () throws(MigrationError) -> Void,
        restart: @escaping (GuestStopNote) throws(MigrationError) -> Void = { (_) throws(MigrationError) in },
        patience: HandoverPatience = HandoverPatience()
    ) {
        place = SourcePlace(folder: folder, fs: fs)
        self.reach = reach
        self.retire = retire
        self.restart = restart
        self.patience = patience
    }

    /// What the source's folder says; `nil` when the disk is this host's.
    public static func record(_ folder: String, in fs: any FileSystem) throws(MigrationError) -> MigratedRecord? {
        try SourcePlace(folder: folder, fs: fs).migratedRecord()
    }

    /// Finds out who owns the disk, and has the target take over what was given up.
    public func run() throws(MigrationError) -> MigrationOutcome {
        let lock = try place.lock()
        defer { withExtendedLifetime(lock) {} }
        guard let record = try place.provenRecord() else { return .ownedHere(try recoverHere()) }
        guard record.state == .released else {
            let left = record.removesSource ? try place.finish(removesSource: true, retire: retire) : []
            return .ownedThere(record, startFailure: nil, leftBehind: left)
        }
        let reply: MigrationReply
        do throws(MigrationError) {
            reply = try Handover(place: place, target: try reach(record), patience: patience).run(record)
        } catch {
            // What the target has said is told as it is.
            throw [.link, .cancelled].contains(error.code)
                ? MigrationError.unconfirmed(place.folder, by: record.target, error) : error
        }
        guard case .active(_, let failure) = reply else {
            throw MigrationError(.protocolViolation, "\(record.target) gave the wrong reply to a commit")
        }
        let left = try place.finish(removesSource: record.removesSource, retire: retire)
        return .ownedThere(record, startFailure: failure, leftBehind: left)
    }

    private func recoverHere() throws(MigrationError) -> MigrationOutcome.LeftHere {
        place.forgetGivingUp()
        place.removeTree()
        guard let outgoing = try place.outgoing() else { return MigrationOutcome.LeftHere() }
        var left = MigrationOutcome.LeftHere(isUnderWay: true)
        for target in outgoing.attempts.map(\.target) where !left.targets.contains(target) {
            left.targets.append(target)
        }
        guard let stop = outgoing.stop else { return left }
        // A later start of the host has started its guests itself.
        if stop.boot == place.boot {
            do throws(MigrationError) {
                try restart(stop.note)
                left.wasRestarted = true
            } catch {
                left.restartFailure = error.message
                return left
            }
        }
        try place.forgetStop()
        return left
    }
}
