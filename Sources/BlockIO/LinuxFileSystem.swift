internal import CSystemShims
public import LinuxSystem
internal import SystemPackage

/// The host's files. What we make is private to its owner: images and packs hold the guest's secrets.
public struct LinuxFileSystem: FileSystem {
    private static let fileMode: UInt32 = 0o600
    private static let folderMode: UInt32 = 0o700
    /// Room for the names of one folder: a listing beyond it is refused.
    private static let listBytesMax = 256 << 20

    /// How the transfers of a batch are done.
    public enum Batching: Hashable, Sendable {
        /// Together: through a ring, or by threads where the host has or allows no io_uring.
        case automatic
        /// Together, by threads.
        case threads
        /// One after the other.
        case sequential
    }
    private let batching: Batching

    public init(batching: Batching = .automatic) { self.batching = batching }

    /// Whether batches go through io_uring here; `GODWIT_NO_URING` in the environment forbids it.
    public static var usesRings: Bool { RingPool.shared != nil }
    /// Whether the rings have registered memory for ``AlignedBuffer``s; the limit on locked memory may forbid it.
    public static var hasRegisteredMemory: Bool { RingPool.shared?.hasRegisteredMemory ?? false }

    public func open(_ path: String, _ mode: OpenMode) throws(SystemError) -> any StorageFile {
        try openLinuxFile(path, mode)
    }

    /// Like `open`, for who needs the descriptor or the type.
    public func openLinuxFile(_ path: String, _ mode: OpenMode) throws(SystemError) -> LinuxFile {
        var flags: UInt32 = mode.writable ? SHIM_OPEN_WRITE : 0
        // Without creation the flag claims a device, and means nothing for a file.
        if mode.isClaimed { flags |= SHIM_OPEN_EXCLUSIVE }
        switch mode.creation {
        case .never: if !mode.followsLink { flags |= SHIM_OPEN_NO_LINK }
        // A name that we make is never somebody's link to another file.
        case .exclusive: flags |= SHIM_OPEN_CREATE | SHIM_OPEN_EXCLUSIVE | SHIM_OPEN_NO_LINK
        case .replace: flags |= SHIM_OPEN_CREATE | SHIM_OPEN_TRUNCATE | SHIM_OPEN_NO_LINK
        case .ifMissing: flags |= SHIM_OPEN_CREATE | SHIM_OPEN_NO_LINK
        }
        if mode.direct, let file = try openDirect(path, flags) { return file }
        return LinuxFile(descriptor: try openPlaces(path, flags), path: path, alignment: 1, batching: batching)
    }

    private func openPlaces(_ path: String, _ flags: UInt32) throws(SystemError) -> OwnedDescriptor {
        OwnedDescriptor(adopting: try check(unsafe shim_open_file(path, flags, Self.fileMode), "open", path))
    }

    private static func kind(_ status: shim_stat) -> FileKind {
        switch status.mode & 0o170000 {
        case 0o100000: .regular
        case 0o040000: .folder
        case 0o060000: .blockDevice
        default: .stream
        }
    }

    /// - Returns: `nil` where the host file system has no direct I/O.
    private func openDirect(_ path: String, _ flags: UInt32) throws(SystemError) -> LinuxFile? {
        // Some file systems refuse O_DIRECT only after having created the file: so create first, without it.
        if flags & SHIM_OPEN_CREATE != 0 { _ = try openPlaces(path, flags) }
        let existing = flags & ~(SHIM_OPEN_CREATE | SHIM_OPEN_EXCLUSIVE | SHIM_OPEN_TRUNCATE)
        let result = unsafe shim_open_file(path, existing | SHIM_OPEN_DIRECT, Self.fileMode)
        if result == -Errno.invalidArgument.rawValue {
            guard flags & SHIM_OPEN_CREATE != 0 else { return nil }
            return LinuxFile(descriptor: try openPlaces(path, existing), path: path, alignment: 1, batching: batching)
        }
        let descriptor = OwnedDescriptor(adopting: try check(result, "open", path))
        let alignment = shim_direct_alignment(descriptor.number)
        // What a table's page is no multiple of can't be kept to: the unit of a file that shares extents, for one.
        guard alignment < 0 || [512, 1024, 2048, 4096].contains(alignment) else {
            return LinuxFile(descriptor: try openPlaces(path, existing), path: path, alignment: 1, batching: batching)
        }
        // Where the kernel does not say, a page suits every block size it supports.
        return LinuxFile(
            descriptor: descriptor, path: path, alignment: alignment > 0 ? Int(alignment) : 4096,
            batching: batching)
    }

    public func rename(_ source: String, to target: String) throws(SystemError) {
        _ = try check(unsafe shim_rename(source, target), "rename", "\(source) to \(target)")
    }

    public func renameExclusively(_ source: String, to target: String) throws(SystemError) {
        let result = unsafe shim_rename_exclusive(source, target)
        if result == -Errno.invalidArgument.rawValue || result == -Errno.noFunction.rawValue {
            // The file system can't: then as well as it goes.
            guard try !isTaken(target) else {
                throw SystemError(errno: .fileExists, operation: "rename", subject: "\(source) to \(target)")
            }
            return try rename(source, to: target)
        }
        _ = try check(result, "rename", "\(source) to \(target)")
    }

    public func fileSize(_ path: String) throws(SystemError) -> UInt64 {
        guard let status = try status(of: path) else {
            throw SystemError(errno: .noSuchFileOrDirectory, operation: "examine", subject: path)
        }
        return status.size
    }

    public func isTaken(_ path: String) throws(SystemError) -> Bool {
        var status = shim_stat()
        let result = unsafe shim_lstat(path, &status)
        if result == -Errno.noSuchFileOrDirectory.rawValue || result == -Errno.notDirectory.rawValue { return false }
        _ = try check(result, "examine", path)
        return true
    }

    public func remove(_ path: String) throws(SystemError) {
        _ = try check(unsafe shim_unlink(path), "remove", path)
    }

    public func synchronizeFolder(_ path: String) throws(SystemError) {
        let fd = try check(unsafe shim_open_file(path, SHIM_OPEN_FOLDER, 0), "open", path)
        let descriptor = OwnedDescriptor(adopting: fd)
        let result = shim_fsync(descriptor.number)
        if result == -Errno.invalidArgument.rawValue || result == -Errno.notSupported.rawValue {
            // A file system without this for folders: then all of it.
            _ = try check(shim_syncfs(descriptor.number), "synchronize the file system of", path)
            return
        }
        _ = try check(result, "synchronize folder", path)
    }

    public func createFolder(_ path: String) throws(SystemError) {
        _ = try check(unsafe shim_mkdir(path, Self.folderMode), "create folder", path)
    }

    public func removeFolder(_ path: String) throws(SystemError) {
        _ = try check(unsafe shim_rmdir(path), "remove folder", path)
    }

    public func exists(_ path: String) throws(SystemError) -> Bool { try status(of: path) != nil }

    public func isFolder(_ path: String) throws(SystemError) -> Bool {
        guard let status = try status(of: path) else { return false }
        return Self.kind(status) == .folder
    }

    public func kind(of path: String) throws(SystemError) -> FileKind? { try status(of: path).map(Self.kind) }

    private func status(of path: String) throws(SystemError) -> shim_stat? {
        var status = shim_stat()
        let result = unsafe shim_stat(path, &status)
        if result == -Errno.noSuchFileOrDirectory.rawValue || result == -Errno.notDirectory.rawValue { return nil }
        _ = try check(result, "examine", path)
        return status
    }

    public func list(_ path: String) throws(SystemError) -> [String] {
        var capacity = 64 << 10
        while true {
            var names = [UInt8]()
            var result: Int64 = 0
            unsafe names = [UInt8](unsafeUninitializedCapacity: capacity) { buffer, initialized in
                unsafe result = shim_list(path, buffer.baseAddress, UInt64(capacity))
                initialized = max(0, Int(result))
            }
            if result == -Int64(Errno.outOfRange.rawValue), capacity < Self.listBytesMax {
                capacity *= 4
                continue
            }
            _ = try check(result, "list", path)
            return names.split(separator: 0).map { String(validating: $0, as: UTF8.self) ?? nameThatIsNoText }.sorted()
        }
    }

    public func space(at path: String) throws(SystemError) -> SpaceInfo {
        var free: UInt64 = 0
        var total: UInt64 = 0
        var type: UInt64 = 0
        _ = try check(unsafe shim_statfs(path, &free, &total, &type), "examine the file system of", path)
        return SpaceInfo(freeBytes: free, totalBytes: total, typeMagic: type)
    }

    public func lock(_ path: String, wait: Bool) throws(SystemError) -> (any HeldLock)? {
        while true {
            let flags = SHIM_OPEN_WRITE | SHIM_OPEN_CREATE | SHIM_OPEN_NO_LINK
            let fd = try check(unsafe shim_open_file(path, flags, Self.fileMode), "open", path)
            let descriptor = OwnedDescriptor(adopting: fd)
            let result = shim_flock(descriptor.number, 1, wait ? 1 : 0)
            if result == -Errno.wouldBlock.rawValue { return nil }
            _ = try check(result, "lock", path)
            let file = try Self.identity(of: descriptor, path)
            // Whoever waited may now hold the lock of a file that was removed or replaced meanwhile.
            if try identity(of: path) == file { return LinuxLock(descriptor: descriptor, file: file) }
        }
    }

    public func lease(_ path: String, _ kind: LeaseKind) throws(SystemError) -> LeaseAnswer {
        while true {
            let descriptor = try openForLease(path, kind)
            let file = try Self.identity(of: descriptor, path)
            let result = shim_flock(descriptor.number, kind == .exclusive ? 1 : 0, 0)
            if result == -Errno.wouldBlock.rawValue {
                let holders = (try? LockTable.current())?.holders(device: file.device, inode: file.inode) ?? []
                var processes: [Int32] = []
                for holder in holders where !processes.contains(holder.process) { processes.append(holder.process) }
                return .refused(processes.map { NamedProcess($0) })
            }
            _ = try check(result, "lock", path)
            if try identity(of: path) == file { return .held(LinuxLock(descriptor: descriptor, file: file)) }
        }
    }

    public func claim(_ folder: String) throws(SystemError) -> (any HeldClaim)? {
        let descriptor = OwnedDescriptor(
            adopting: try check(unsafe shim_open_file(folder, SHIM_OPEN_FOLDER, 0), "open", folder))
        var result = shim_claim_folder(descriptor.number)
        // Two who come at once see each other, and neither has it. So each looks again, at a moment of its own.
        for _ in 0..<Self.claimLooks where result == -Errno.wouldBlock.rawValue {
            pauseThread(nanoseconds: UInt64.random(in: 1...6) * 1_000_000)
            result = shim_claim_folder(descriptor.number)
        }
        if result == -Errno.wouldBlock.rawValue { return nil }
        _ = try check(result, "claim", folder)
        let file = try Self.identity(of: descriptor, folder)
        return FolderClaim(descriptor: descriptor, file: file)
    }

    private static let claimLooks = 5

    /// An exclusive lock over NFS needs a file that is open for writing; elsewhere one for reading does.
    private func openForLease(_ path: String, _ kind: LeaseKind) throws(SystemError) -> OwnedDescriptor {
        if kind == .exclusive {
            let result = unsafe shim_open_file(path, SHIM_OPEN_WRITE, 0)
            let refusals = [Errno.readOnlyFileSystem, .permissionDenied, .notPermitted, .textFileBusy]
            if !refusals.contains(where: { result == -$0.rawValue }) {
                return OwnedDescriptor(adopting: try check(result, "open", path))
            }
        }
        return OwnedDescriptor(adopting: try check(unsafe shim_open_file(path, 0, 0), "open", path))
    }

    public func identity(of path: String) throws(SystemError) -> FileIdentity? {
        try status(of: path).map { FileIdentity($0) }
    }

    public func nameCount(of path: String) throws(SystemError) -> UInt64 { try status(of: path)?.links ?? 0 }

    private static func identity(of descriptor: borrowing OwnedDescriptor, _ path: String) throws(SystemError)
        -> FileIdentity
    {
        var status = shim_stat()
        _ = try check(unsafe shim_fstat(descriptor.number, &status), "examine", path)
        return FileIdentity(status)
    }

    public func resolve(_ path: String) throws(SystemError) -> String {
        var bytes = [UInt8](repeating: 0, count: 4097)
        let result = unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe shim_realpath(path, buffer.baseAddress?.assumingMemoryBound(to: CChar.self), UInt64(buffer.count))
        }
        _ = try check(result, "resolve", path)
        guard let place = String(validating: bytes.prefix { $0 != 0 }, as: UTF8.self) else {
            throw SystemError(errno: .illegalByteSequence, operation: "resolve", subject: path)
        }
        return place
    }
}

extension FileIdentity {
    init(_ status: shim_stat) { self.init(device: status.device, inode: status.inode) }
}

/// A lock held through an open file description.
private final class LinuxLock: HeldLease {
    private let descriptor: OwnedDescriptor
    let file: FileIdentity
    init(descriptor: consuming OwnedDescriptor, file: FileIdentity) {
        self.descriptor = descriptor
        self.file = file
    }

    // Closing would leave it held by a child that another thread is just starting, until that has become its program.
    deinit { _ = shim_unflock(descriptor.number) }
}

/// A folder that is claimed, through an open file description.
private final class FolderClaim: HeldClaim {
    private let descriptor: OwnedDescriptor
    let file: FileIdentity
    init(descriptor: consuming OwnedDescriptor, file: FileIdentity) {
        self.descriptor = descriptor
        self.file = file
    }

    func has(_ name: String) throws(SystemError) -> Bool {
        var status = shim_stat()
        let result = unsafe shim_stat_in(descriptor.number, name, &status)
        if result == -Errno.noSuchFileOrDirectory.rawValue { return false }
        guard result >= 0 else {
            throw SystemError(errno: Errno(rawValue: -result), operation: "examine", subject: name)
        }
        return true
    }

    // As with a lock.
    deinit { _ = shim_unclaim_folder(descriptor.number) }
}
