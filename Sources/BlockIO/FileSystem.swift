internal import Geometry
public import LinuxSystem
internal import SystemPackage

/// How a file is opened.
public struct OpenMode: Hashable, Sendable {
    public enum Creation: Hashable, Sendable {
        case never
        /// Fails with EEXIST when there is one.
        case exclusive
        /// An existing file is emptied.
        case replace
        /// An existing file is kept.
        case ifMissing
    }
    public var writable: Bool
    public var creation: Creation
    /// Bypass the page cache where the host file system allows it; the file then has an ``StorageFile/alignment``.
    public var direct: Bool
    /// A block device is to be nobody else's: EBUSY when it is mounted or part of another device.
    public var isClaimed = false
    /// Of an existing file: a symbolic link at the end of the path is followed, and is ELOOP otherwise.
    public var followsLink = true

    public init(writable: Bool, creation: Creation = .never, direct: Bool = false) {
        self.writable = writable
        self.creation = creation
        self.direct = direct
    }
    public static let read = OpenMode(writable: false)
    public static let update = OpenMode(writable: true)
}

/// What a path leads to, links followed.
public enum FileKind: Hashable, Sendable {
    case regular
    case folder
    case blockDevice
    /// A pipe, a socket, a terminal: nothing that has places to read and write at.
    case stream
}

/// A lock that is held as long as this lives; the kernel drops it when the holder's process dies.
public protocol HeldLock: AnyObject, Sendable {}

public struct SpaceInfo: Hashable, Sendable {
    public var freeBytes: UInt64
    public var totalBytes: UInt64
    /// The kernel's magic number of the file system's type; 0 when unknown.
    public var typeMagic: UInt64
    public init(freeBytes: UInt64, totalBytes: UInt64, typeMagic: UInt64 = 0) {
        self.freeBytes = freeBytes
        self.totalBytes = totalBytes
        self.typeMagic = typeMagic
    }
}

/// Names, folders and their durability: with ``StorageFile`` the only door to stored bytes, so that a simulated one can
/// cut the power at any call. Paths are plain strings; relative ones start at the process's folder.
///
/// A created, renamed or removed name is durable only after ``synchronizeFolder(_:)`` on its folder; before that a
/// crash may undo it (never half of a rename).
public protocol FileSystem: Sendable {
    func open(_ path: String, _ mode: OpenMode) throws(SystemError) -> any StorageFile
    /// Moves `source` over `target`, atomically; they must be on one file system.
    func rename(_ source: String, to target: String) throws(SystemError)
    /// Like `rename`, but fails with EEXIST when there is something of that name.
    func renameExclusively(_ source: String, to target: String) throws(SystemError)
    func remove(_ path: String) throws(SystemError)
    /// Makes the names in the folder durable.
    func synchronizeFolder(_ path: String) throws(SystemError)
    /// Creates one folder. Fails with EEXIST when there is something of that name.
    func createFolder(_ path: String) throws(SystemError)
    func removeFolder(_ path: String) throws(SystemError)
    func exists(_ path: String) throws(SystemError) -> Bool
    /// Size of the file at `path` in bytes, without opening it.
    func fileSize(_ path: String) throws(SystemError) -> UInt64
    func isFolder(_ path: String) throws(SystemError) -> Bool
    /// Whether the name is in use, also by a link that leads nowhere.
    func isTaken(_ path: String) throws(SystemError) -> Bool
    /// What is at `path`, links followed; `nil` for nothing.
    func kind(of path: String) throws(SystemError) -> FileKind?
    /// Names in a folder, sorted. For one that is no UTF-8 stands ``nameThatIsNoText``.
    func list(_ path: String) throws(SystemError) -> [String]
    func space(at path: String) throws(SystemError) -> SpaceInfo
    /// Takes the exclusive lock of the file at `path` (created when missing).
    /// - Returns: `nil` when another holds it and `wait` is false.
    func lock(_ path: String, wait: Bool) throws(SystemError) -> (any HeldLock)?
    /// Takes a lease of an existing file, without waiting: a lock of the kernel's, through an open file of its own, so
    /// that two leases exclude each other within one process, too. It shares the kernel's lock with
    /// ``lock(_:wait:)``, which is an exclusive one.
    func lease(_ path: String, _ kind: LeaseKind) throws(SystemError) -> LeaseAnswer
    /// Claims an existing folder, without waiting: one at a time has it, however the folder is renamed and whatever is
    /// removed from it. Neither ``lock(_:wait:)`` nor ``lease(_:_:)`` knows of it. Where a file system has nothing of
    /// the kind, everybody gets it.
    /// - Returns: `nil` when another has it.
    func claim(_ folder: String) throws(SystemError) -> (any HeldClaim)?
    /// Which file the path leads to; `nil` when there is none.
    func identity(of path: String) throws(SystemError) -> FileIdentity?
    /// How many names the file at `path` has; 0 for nothing.
    func nameCount(of path: String) throws(SystemError) -> UInt64
    /// The absolute path with symbolic links resolved. Fails with EILSEQ when that is no UTF-8.
    func resolve(_ path: String) throws(SystemError) -> String
}

extension FileSystem {
    public func isTaken(_ path: String) throws(SystemError) -> Bool { try exists(path) }

    public func nameCount(of path: String) throws(SystemError) -> UInt64 { try exists(path) ? 1 : 0 }

    public func renameExclusively(_ source: String, to target: String) throws(SystemError) {
        guard try !isTaken(target) else {
            throw SystemError(errno: .fileExists, operation: "rename", subject: "\(source) to \(target)")
        }
        try rename(source, to: target)
    }

    public func kind(of path: String) throws(SystemError) -> FileKind? {
        guard try exists(path) else { return nil }
        return try isFolder(path) ? .folder : .regular
    }

    public func fileSize(_ path: String) throws(SystemError) -> UInt64 { try open(path, .read).size() }

    /// Puts `bytes` at `path` so that after a crash there are all of the old bytes or all of the new ones.
    public func replaceContents(of path: String, with bytes: [UInt8]) throws(SystemError) {
        let staging = path + ".tmp"
        let file = try open(staging, OpenMode(writable: true, creation: .replace))
        file.takeAttributes(of: path)
        try file.writeBytes(bytes, at: 0)
        try file.synchronize()
        try rename(staging, to: path)
        try synchronizeFolder(Self.folder(of: path))
    }

    /// All bytes of a small file. - Throws: EFBIG when it is larger than `limit`.
    public func contents(of path: String, limit: Int) throws(SystemError) -> [UInt8] {
        let file = try open(path, .read)
        let size = try file.size()
        guard size <= UInt64(limit) else { throw SystemError(errno: .fileTooLarge, operation: "read", subject: path) }
        return try file.readBytes(at: 0, count: Int(size))
    }

    /// The folder part of a path: `.` when it has none.
    public static func folder(of path: String) -> String {
        PathText.parent(of: path)
    }
}
