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
    static let migratedPending = "godwit-migrated.json.pending"
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
    public static let partialSuffix = ".godwit-partial"
    static let sizeMax = 64 << 10

    /// What to tell somebody who wants to use the disk in `folder`, when it has moved to another host; otherwise `nil`.
    public static func obstacle(_ folder: String, in fs: any FileSystem) -> String? {
        guard let bytes = try? fs.contents(of: folder + "/" + migrated, limit: sizeMax) else { return nil }
        let target = decodeJSON(MigratedRecord.self, bytes)?.target ?? "another host"
        return
            "\(folder) was migrated to \(target) and is no longer used here; "
            + "`godwit migrate --recover \(folder)` tells more"
    }
}

/// ``MigrationFiles/outgoing``.
struct OutgoingRecord: Codable, Hashable, Sendable {
    var identity: String
    var target: String
}

/// ``MigrationFiles/migrated``.
public struct MigratedRecord: Codable, Hashable, Sendable {
    public enum State: String, Codable, Hashable, Sendable {
        /// Given up here; the target has not confirmed that it has taken over.
        case released
        case finished
    }
    public var identity: String
    /// As in `godwit migrate`.
    public var target: String
    public var state: State
    /// Digest of the content.
    public var root: String
    public var startCommand: String?
    var removesSource: Bool
}

/// ``MigrationFiles/incoming`` and ``MigrationFiles/arrived``.
struct IncomingRecord: Codable, Hashable, Sendable {
    enum State: String, Codable, Hashable, Sendable { case receiving, prepared, active }
    var identity: String
    var state: State
    var sizeBytes: UInt64
    var root: String?
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
        try replaceContents(of: path, with: encodeJSON(record) + [10])
    }

    func removeIfThere(_ path: String) throws(SystemError) {
        do throws(SystemError) { try remove(path) } catch {
            guard error.errno == .noSuchFileOrDirectory else { throw error }
        }
    }
}
