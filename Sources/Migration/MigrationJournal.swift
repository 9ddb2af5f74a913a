public import BlockIO
internal import DiskImage
internal import LinuxSystem
internal import SystemPackage

// The files that decide who owns the disk, godwit-stream(5). Their place and name is the state; what is in them is for
// reruns, recovery and people.

/// The names of a migration's files.
public enum MigrationFiles {
    /// In the source's folder: a migration is under way, or failed. The source owns.
    public static let outgoing = "godwit-migration.json"
    /// In the source's folder: the disk belongs to another host.
    public static let migrated = DiskFolder.migratedMarkName
    static let migratedPending = migrated + ".pending"
    /// In the target's partial folder.
    public static let incoming = "godwit-incoming.json"
    /// In the target's folder, afterwards.
    public static let arrived = "godwit-arrived.json"
    static let descriptor = "DiskDescriptor.xml"
    /// The descriptor of a copy that is not complete.
    static let descriptorPartial = "DiskDescriptor.xml.partial"
    /// The descriptor of a disk that has moved away.
    static let descriptorMigrated = "DiskDescriptor.xml.migrated"
    static let tree = "godwit-migration.tree"
    static let probe = "godwit-migration.probe"
    /// In the disk's folder on either side: held by whoever works on a migration of it.
    static let lock = DiskFolder.migrationLockName
    public static let partialSuffix = ".godwit-partial"
    static let sizeMax = 64 << 10
    /// Of a start command, which stands twice in a record, and may take six times as much there.
    static let commandMax = 4 << 10
    private static let messageMax = 2000
    /// Why a start failed, for a record: what a hook says has no end.
    static func message(of error: MigrationError) -> String {
        String(decoding: error.message.utf8.prefix(messageMax), as: UTF8.self)
    }

    /// What to tell somebody who wants to use the disk in `folder`, when it has moved to another host; otherwise `nil`.
    public static func obstacle(_ folder: String, in fs: any FileSystem) -> String? {
        let record = "\(folder)/\(migrated)"
        let target: String
        do throws(SystemError) {
            guard try fs.exists(record) else { return nil }
            let bytes = try fs.contents(of: record, limit: sizeMax)
            target = decodeJSON(MigratedRecord.self, bytes)?.target ?? "another host"
        } catch {
            return "\(error): that file says whose the disk is, so it is used here only when it can be read"
        }
        return
            "\(folder) was migrated to \(target) and is no longer used here; "
            + "`godwit migrate --recover \(folder)` tells more"
    }
}

/// ``MigrationFiles/outgoing``.
struct OutgoingRecord: Codable, Hashable, Sendable {
    struct Attempt: Codable, Hashable, Sendable {
        var attempt: String
        /// In its one spelling.
        var target: String
    }
    /// The guest was told to stop and has not been started again.
    struct Stop: Codable, Hashable, Sendable {
        /// Of the host's start during which that was: a later one starts its guests anew.
        var boot: String
        var mountpoint: String?
        var partition: Int?

        var note: GuestStopNote { GuestStopNote(mountpoint: mountpoint, partition: partition) }
    }
    var identity: String
    /// The last ones, the newest at the end: where partial copies may lie.
    var attempts: [Attempt] = []
    var stop: Stop?
    static let attemptsMax = 16

    mutating func add(_ attempt: Attempt) {
        attempts = attempts.suffix(Self.attemptsMax - 1) + [attempt]
    }
}

/// ``MigrationFiles/migrated``.
public struct MigratedRecord: Codable, Hashable, Sendable {
    public enum State: String, Codable, Hashable, Sendable {
        /// Given up here; the target has not confirmed that it has taken over.
        case released
        case finished
    }
    public var identity: String
    /// In its one spelling.
    public var target: String
    public var state: State
    /// The copy that the disk was given up for. Records of versions before 2 have none.
    public var attempt: String?
    /// Digest of the content.
    public var root: String
    public var sizeBytes: UInt64?
    public var startCommand: String?
    var removesSource: Bool

    /// What the target is asked to take over; `nil` for a record of an older version.
    var commit: MigrationCommit? {
        guard let attempt, let sizeBytes else { return nil }
        return MigrationCommit(
            identity: identity, attempt: attempt, root: root, sizeBytes: sizeBytes, startCommand: startCommand)
    }
}

/// ``MigrationFiles/incoming`` and ``MigrationFiles/arrived``.
struct IncomingRecord: Codable, Hashable, Sendable {
    enum State: String, Codable, Hashable, Sendable { case receiving, prepared, active }
    var identity: String
    var attempt: String
    var state: State
    var sizeBytes: UInt64
    var root: String?
    /// The folder that the copy lies in, as it was when the attempt began.
    var parent: FolderMark?
    /// The source's command, for a start that is yet to be begun: durable before the disk is this host's, as nobody may
    /// be there to tell it again.
    var startCommand: String?
    /// Why the source's command is on no record: the guest is started only as somebody says here.
    var refusal: String?
    var start: StartRecord?

    /// Whether this is what the source has given its disk up for.
    func matches(_ commit: MigrationCommit) -> Bool {
        identity == commit.identity && attempt == commit.attempt && root == commit.root
            && sizeBytes == commit.sizeBytes && state != .receiving
    }
}

/// What tells one folder from another that has its name later, as where a file system was not mounted.
struct FolderMark: Codable, Hashable, Sendable {
    var device: UInt64
    var inode: UInt64
    /// Numbers of devices hold for one start of the host.
    var boot: String

    func isSame(_ other: FolderMark) -> Bool {
        inode == other.inode && (device == other.device || boot != other.boot)
    }
}

/// What is known of the guest's start at the target.
struct StartRecord: Codable, Hashable, Sendable {
    enum State: String, Codable, Hashable, Sendable {
        /// Begun; the guest may run.
        case starting
        case started
        /// Known to have failed: can be tried again.
        case failed
    }
    var state: State
    /// How often it was begun, this time included.
    var attempt: Int
    /// Of the host's start: what was begun before a later one has ended.
    var boot: String
    /// The source's, where the target allows such.
    var command: String?
    var failure: String?
}

extension FileSystem {
    /// The record in a small file; `nil` when there is no file.
    /// - Throws: EBADMSG when it is none.
    func record<T: Decodable>(_ type: T.Type, at path: String) throws(SystemError) -> T? {
        guard try exists(path) else { return nil }
        guard let value = decodeJSON(type, try contents(of: path, limit: MigrationFiles.sizeMax)) else {
            throw SystemError(errno: .badMessage, operation: "understand", subject: path)
        }
        return value
    }

    /// All of the old or all of the new record, after a crash as well.
    func store(_ record: some Encodable, at path: String) throws(SystemError) {
        let bytes = encodeJSON(record) + [10]
        // Who reads it takes no more.
        guard bytes.count <= MigrationFiles.sizeMax else {
            throw SystemError(errno: .fileTooLarge, operation: "store", subject: path)
        }
        try replaceContents(of: path, with: bytes)
    }

    func removeIfThere(_ path: String) throws(SystemError) {
        do throws(SystemError) { try remove(path) } catch {
            guard error.errno == .noSuchFileOrDirectory else { throw error }
        }
    }
}
