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
    private let open: @Sendable () throws(TransportError) -> any MessagePeer

    public init(name: String, folder: String, open: @escaping @Sendable () throws(TransportError) -> any MessagePeer) {
        self.name = name
        self.folder = folder
        self.open = open
    }

    func connect() throws(MigrationError) -> MigrationLink {
        let peer = try overLink { () throws(TransportError) in try open() }
        let link = MigrationLink(peer: peer, name: name)
        do throws(MigrationError) { try link.open(folder: folder) } catch {
            link.close()
            throw error
        }
        return link
    }
}

/// What became of an interrupted migration.
public enum MigrationOutcome: Hashable, Sendable {
    /// No migration was begun, or it failed before the end: the disk is this host's.
    case ownedHere(isUnderWay: Bool)
    /// The disk is the target's, and it has confirmed that.
    case ownedThere(MigratedRecord, startFailure: String?)
}

/// Finishes what a crash has interrupted.
public struct MigrationRecovery {
    let place: SourcePlace
    let target: MigrationTarget

    init(place: SourcePlace, target: MigrationTarget) {
        self.place = place
        self.target = target
    }

    /// What the source's folder says; `nil` when the disk is this host's.
    public static func record(_ folder: String, in fs: any FileSystem) throws(MigrationError) -> MigratedRecord? {
        try SourcePlace(folder: folder, fs: fs).migratedRecord()
    }

    /// Finds out who owns the disk in `folder`, and has the target take over what was given up.
    /// - Parameters:
    ///   - reach: the target of that name.
    ///   - retire: ends what serves the disk here.
    public static func run(
        folder: String, fs: any FileSystem, reach: (String) throws(MigrationError) -> MigrationTarget,
        retire: () throws(MigrationError) -> Void
    ) throws(MigrationError) -> MigrationOutcome {
        let place = SourcePlace(folder: folder, fs: fs)
        guard let record = try place.migratedRecord() else {
            place.forgetGivingUp()
            place.removeTree()
            return .ownedHere(isUnderWay: try place.isUnderWay())
        }
        guard record.state == .released else { return .ownedThere(record, startFailure: nil) }
        let recovery = MigrationRecovery(place: place, target: try reach(record.target))
        guard case .active(_, let failure)? = try recovery.commitAgain(attempts: 1) else {
            throw MigrationError(.protocolViolation, "\(record.target) gave the wrong reply to a commit")
        }
        try place.finish(removesSource: record.removesSource, retire: retire)
        return .ownedThere(record, startFailure: failure)
    }

    /// Tells the target over a new connection that the disk is its own. - Returns: `nil` when it is not.
    func commitAgain(attempts: Int) throws(MigrationError) -> MigrationReply? {
        guard let record = try place.migratedRecord() else { return nil }
        var last = MigrationError(.link, "not tried")
        for _ in 0..<max(attempts, 1) {
            do throws(MigrationError) {
                let link = try target.connect()
                defer { link.close() }
                return try link.call(.commit(identity: record.identity, startCommand: record.startCommand))
            } catch {
                last = error
                guard error.code == .link else { break }
            }
        }
        throw last
    }
}
