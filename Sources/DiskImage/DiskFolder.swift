public import BlockIO
internal import DeviceControl
internal import Geometry
public import ImageFormat
public import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// What a path names: a disk's folder, or a file that is an image by itself.
public enum DiskLocation: Sendable {
    case folder(DiskFolder)
    /// An image without a descriptor; the path is resolved.
    case image(String)

    /// - Parameter path: a folder with a descriptor, the descriptor, or any other file.
    /// - Throws: `.notFound` for nothing, `.notADisk` for a folder without a descriptor.
    public static func find(_ path: String, in fs: any FileSystem) throws(DiskError) -> DiskLocation {
        let kind = try withPath(path) { () throws(SystemError) in try fs.kind(of: path) }
        guard let kind else { throw DiskError(.notFound, "\(path): there is no such disk", path: path) }
        guard kind != .stream else {
            throw DiskError(
                .invalid,
                "\(path) is a pipe, a socket or a terminal, in which nothing can be looked up: put its content into a "
                    + "file first", path: path)
        }
        let resolved = try withPath(path) { () throws(SystemError) in try fs.resolve(path) }
        if kind == .folder {
            let folder = DiskFolder(resolvedPath: resolved, fs: fs)
            let hasDescriptor = try withPath(path) { () throws(SystemError) in try fs.exists(folder.descriptorPath) }
            guard hasDescriptor else {
                try folder.refuseIfMigrated()
                let served = "\(folder.path)/\(DiskFolder.servedDescriptorName)"
                let hasServed = (try? fs.exists(served)) == true
                throw DiskError(
                    .notADisk,
                    "\(path): no disk, the folder has no \(DiskDescriptor.fileName)"
                        + (hasServed
                            ? "; put \(DiskFolder.servedDescriptorName) in its place, by which it was served last"
                            : ""),
                    path: path)
            }
            return .folder(folder)
        }
        if resolved.ends(with: "/\(DiskDescriptor.fileName)") {
            return .folder(DiskFolder(resolvedPath: folderPart(of: resolved), fs: fs))
        }
        return .image(resolved)
    }

    /// Who has the disk to write to it, as far as the kernel tells: nobody it knows of, perhaps; `nil` when nobody has.
    public func owners(in fs: any FileSystem) -> [NamedProcess]? {
        let lock =
            switch self {
            case .folder(let folder): "\(folder.path)/\(DiskFolder.ownerLockName)"
            case .image(let image): image
            }
        guard case .refused(let holders) = try? fs.lease(lock, .shared) else { return nil }
        return holders
    }
}

/// The folder part of an absolute path.
func folderPart(of path: String) -> String {
    PathText.parent(of: path)
}

/// A disk's folder: its descriptor, the files that it names, and the locks.
public struct DiskFolder: Sendable {
    /// The lock of the disk's owner: held while the disk is open for writing.
    public static let ownerLockName = "godwit.lock"
    /// In the folder of a disk that belongs to another host now: the migration's record, godwit-stream(5).
    public static let migratedMarkName = "godwit-migrated.json"
    /// Held by whoever works on a migration of the disk, here or at its target.
    public static let migrationLockName = "godwit-migration.lock"
    /// The lock of the descriptor, which ploop's tools take too: held while it is changed.
    static let descriptorLockName = DiskDescriptor.fileName + ".lck"
    private static let lockWaitMilliseconds = 60_000

    /// Absolute, without symbolic links.
    public let path: String
    public let fs: any FileSystem
    /// For changes of the list of leftovers: the owner's threads may take a snapshot and merge at the same time.
    let listLock = Monitor(())
    /// What whoever changes the disk by this has taken; `nil` where nothing was.
    var owned: OwnedPlace?

    /// - Parameter path: absolute, without symbolic links; see ``DiskLocation/find(_:in:)``.
    public init(resolvedPath path: String, fs: any FileSystem) {
        self.path = path
        self.fs = fs
    }

    public var descriptorPath: String { "\(path)/\(DiskDescriptor.fileName)" }

    /// Where an image's file is.
    public func path(of image: DiskDescriptor.Image) -> String { path(ofFile: image.file) }
    /// Where a file is that the descriptor names.
    public func path(ofFile file: String) -> String { PathText.isAbsolute(file) ? file : PathText.join(path, file) }

    /// Reads the descriptor.
    /// - Throws: `.unsupported` for one that leads out of the folder.
    public func load() throws(DiskError) -> DiskDescriptor {
        let limit = DiskDescriptor.byteCountMax
        let bytes = try withPath(descriptorPath) { () throws(SystemError) in
            try fs.contents(of: descriptorPath, limit: limit)
        }
        let descriptor = try parsing(descriptorPath) { () throws(ImageError) in try DiskDescriptor(parsing: bytes) }
        for image in descriptor.images { try requireInside(image) }
        return descriptor
    }

    /// In the environment: images may be kept elsewhere, by name or by symbolic link.
    private static let outsideVariable = "GODWIT_OUTSIDE_IMAGES"
    public static let allowsOutside = environmentVariable(outsideVariable) == "1"

    /// A disk may come from somebody else: what its descriptor names is read, written and removed, so it has to lie in
    /// the folder, unless whoever runs this trusts the descriptor.
    private func requireInside(_ image: DiskDescriptor.Image) throws(DiskError) {
        guard !Self.allowsOutside else { return }
        let file = image.file
        let path = path(ofFile: file)
        let name = file.rest(after: self.path + "/").map(String.init) ?? file
        if DiskDescriptor.isPlainName(name) {
            let resolved: String
            do throws(SystemError) { resolved = try fs.resolve(path) } catch {
                // It is missed when it is opened.
                guard error.kind != .notFound else { return }
                throw DiskError(error, path: path)
            }
            if resolved.isSame(as: path) {
                // A device of the host with an image's name would be read and written as one.
                let kind = try withPath(path) { () throws(SystemError) in try fs.kind(of: path) }
                guard kind == .blockDevice else { return }
                throw DiskError(.unsupported, "\(path) is a block device, so it is no image of a disk", path: path)
            }
        }
        throw DiskError(
            .unsupported,
            "\(self.path): the file of image \(image.guid) is not one of the disk's folder; "
                + "move it there, or set \(Self.outsideVariable)=1 if you trust the descriptor", path: self.path)
    }

    /// Replaces the descriptor; durable when this returns. After a crash there is the old one or the new one, whole.
    /// The caller holds the descriptor's lock.
    public func store(_ descriptor: DiskDescriptor) throws(DiskError) {
        let bytes = descriptor.encode()
        do throws(CommitFailure) {
            try replacing(by: descriptor) { () throws(CommitFailure) in
                do throws(SystemError) { try fs.replaceContents(of: descriptorPath, with: bytes) } catch {
                    throw CommitFailure(error: DiskError(error, path: descriptorPath), isUndecided: true)
                }
            }
        } catch {
            throw error.error
        }
    }

    /// Makes created and removed names durable: those in the folder, and those beside `files` elsewhere.
    public func synchronizeNames(besides files: [String] = []) throws(DiskError) {
        var folders: [String] = [path]
        for file in files {
            let folder = folderPart(of: path(ofFile: file))
            if !folders.hasSame(as: folder) { folders.append(folder) }
        }
        for folder in folders {
            try withPath(folder) { () throws(SystemError) in try fs.synchronizeFolder(folder) }
        }
    }

    /// - Throws: `.inUse` when the disk has moved to another host.
    func refuseIfMigrated() throws(DiskError) {
        let isMigrated = try withPath(path) { () throws(SystemError) in
            try fs.exists("\(path)/\(Self.migratedMarkName)")
        }
        guard isMigrated else { return }
        throw DiskError(
            .inUse, "\(path): the disk was migrated to another host; 'godwit migrate --recover \(path)' tells where",
            path: path)
    }

    /// Whether the record that gives the disk away is ready, and not in force: somebody is at it, or has ended.
    func hasPendingHandover() throws(DiskError) -> Bool {
        try withPath(path) { () throws(SystemError) in try fs.exists("\(path)/\(Self.migratedMarkName).pending") }
    }

    /// Between a migration's writing of its record and that record's coming into force nobody may become the owner. A
    /// record that is left of a migration that died is in nobody's way.
    /// - Throws: `.busy` then.
    private func refuseWhileHandedOver() throws(DiskError) {
        guard try hasPendingHandover() else { return }
        let name = "\(path)/\(Self.migrationLockName)"
        let lock = try withPath(name) { () throws(SystemError) in try fs.lock(name, wait: false) }
        guard lock == nil else { return try refuseIfMigrated() }
        throw DiskError(.busy, "\(path): the disk is being handed to another host; try again later", path: path)
    }

    /// Who has the disk, as far as the kernel tells; `nil` also when nobody has.
    public func owner() -> NamedProcess? {
        guard case .refused(let holders) = try? fs.lease("\(path)/\(Self.ownerLockName)", .shared) else { return nil }
        return holders.first
    }

    /// Takes the disk as its owner.
    /// - Parameter mayBeAttached: the driver may have the images open: for who controls that device.
    /// - Throws: `.inUse` when somebody else has it, on this host or another.
    public func lockOwner(mayBeAttached: Bool = false) throws(DiskError) -> any HeldLock {
        try refuseIfMigrated()
        let name = "\(path)/\(Self.ownerLockName)"
        let file = try withPath(name) { () throws(SystemError) in try fs.lock(name, wait: false) }
        // The lock's file may have been removed under its holder; the folder is the same then. Who has not got the lock
        // does not try: for a moment it would stand in the way of who has.
        let claim = try withPath(path) { () throws(SystemError) in file == nil ? nil : try fs.claim(path) }
        guard let file, let claim else {
            // With the lock it is this process that has it, and somebody else the folder.
            let user = file == nil ? owner().map { "\($0)" } : nil
            throw DiskError(.inUse, "\(path): \(user ?? "another process") uses the disk; detach it first", path: path)
        }
        let lock = OwnerLock(file: file, claim: claim)
        // Whoever had the disk before may have given it away, or be just about to: its server lets go of the lock when
        // it dies, and the migration goes on.
        try refuseIfMigrated()
        try refuseWhileHandedOver()
        if !mayBeAttached { try refuseIfAttached(to: path + "/", in: fs) }
        return lock
    }

    /// Runs `body` with the descriptor locked against others that change it, ploop's tools included.
    /// - Throws: `.busy` when the lock is not to be had within a minute.
    public func withDescriptorLock<R>(_ body: () throws(DiskError) -> R) throws(DiskError) -> R {
        let lock = try lockDescriptor()
        defer { withExtendedLifetime(lock) {} }
        return try body()
    }

    /// - Throws: `.busy` when the lock is not to be had within a minute; what ``proveOwned()`` finds.
    func lockDescriptor() throws(DiskError) -> any HeldLock {
        // Before as well: not even the lock is made in another disk's folder.
        try proveInPlace()
        let name = "\(path)/\(Self.descriptorLockName)"
        let lock = try withPath(name) { () throws(SystemError) in
            try PatientLock.take(name, in: fs, deadlineMilliseconds: Self.lockWaitMilliseconds)
        }
        guard let lock else {
            throw DiskError(.busy, "\(path): another program keeps the descriptor locked; try again later", path: path)
        }
        try proveOwned()
        return lock
    }

    /// Loads the descriptor, changes it, stores it: with the lock held.
    public func updateDescriptor<R>(_ change: (inout DiskDescriptor) throws(ImageError) -> R) throws(DiskError) -> R {
        try withDescriptorLock { () throws(DiskError) in
            var descriptor = try load()
            let result = try parsing(path) { () throws(ImageError) in try change(&descriptor) }
            try store(descriptor)
            return result
        }
    }
}

/// What is written to a file shows under all of its names: in another disk's folder, or in a copy of links that was
/// made as a backup. No lock of either folder tells of it.
/// - Throws: `.inUse` for an image that has other names.
func refuseOtherNames(of image: String, in fs: any FileSystem) throws(DiskError) {
    guard try hasOtherNames(image, in: fs) else { return }
    let count = try withPath(image) { () throws(SystemError) in try fs.nameCount(of: image) }
    throw DiskError(
        .inUse,
        "\(image) has \(count) names (hard links), and what is written to it would show under each: remove the other "
            + "names, or, with the disk detached, replace it by a copy of its own ('cp --reflink=auto')", path: image)
}

/// Whether the file has other names that are looked at.
func hasOtherNames(_ image: String, in fs: any FileSystem) throws(DiskError) -> Bool {
    let count = try withPath(image) { () throws(SystemError) in try fs.nameCount(of: image) }
    return count > 1 && !DiskFolder.allowsOutside
}

/// Takes the lock of an image that has no descriptor: that of its file itself.
func lockBareImage(_ path: String, in fs: any FileSystem) throws(DiskError) -> any HeldLock {
    let lock = try withPath(path) { () throws(SystemError) in try fs.lock(path, wait: false) }
    guard let lock else { throw DiskError(.inUse, "\(path): another process uses the image", path: path) }
    return lock
}

/// Takes an image by itself as its owner: with the disk that it belongs to, if it does.
/// - Parameter mayBeAttached: a device of the driver is no obstacle.
func lockForWriting(
    _ image: String, in fs: any FileSystem, mayBeAttached: Bool = false
) throws(DiskError) -> [any HeldLock] {
    var locks: [any HeldLock] = []
    let folder = DiskFolder(resolvedPath: folderPart(of: image), fs: fs)
    try folder.refuseIfMigrated()
    let belongs = try withPath(image) { () throws(SystemError) in try fs.exists(folder.descriptorPath) }
    if belongs { locks.append(try folder.lockOwner(mayBeAttached: mayBeAttached)) }
    locks.append(try lockBareImage(image, in: fs))
    if !mayBeAttached { try refuseIfAttached(to: image, in: fs) }
    return locks
}

/// What is written into one image of a disk by itself is hidden by the images above it, or changes what they were made
/// on; and no record of changes tells a backup of it.
/// - Throws: `.invalid` for an image that a descriptor beside it names.
func refusePart(of disk: String, in fs: any FileSystem) throws(DiskError) {
    let folder = DiskFolder(resolvedPath: folderPart(of: disk), fs: fs)
    let hasDescriptor = try withPath(disk) { () throws(SystemError) in try fs.exists(folder.descriptorPath) }
    guard hasDescriptor else {
        // Which images are a disk's may be told by what its last owner served.
        let served = "\(folder.path)/\(DiskFolder.servedDescriptorName)"
        guard try withPath(disk, { () throws(SystemError) in try fs.exists(served) }) else { return }
        throw DiskError(
            .corrupt,
            "\(folder.path): \(DiskDescriptor.fileName) is gone, and \(DiskFolder.servedDescriptorName) is what the "
                + "disk was served by last: put that in its place, or remove it to use an image by itself", path: disk)
    }
    let descriptor = try folder.load()
    if let failure = try folder.otherServed(than: descriptor) { throw failure }
    guard descriptor.images.contains(where: { folder.path(of: $0).isSame(as: disk) }) else { return }
    throw DiskError(
        .invalid, "\(disk) is one image of the disk \(folder.path): use that, or open the image with --read-only",
        path: disk)
}

/// A device of the driver outlives the process that made it: no lock tells of it, and its images look as if they had
/// not been closed.
/// - Parameter path: an image, or a folder with a slash at its end.
/// - Throws: `.inUse`.
func refuseIfAttached(to path: String, in fs: any FileSystem) throws(DiskError) {
    guard fs is LinuxFileSystem else { return }
    let stacks = try withPath(path) { () throws(SystemError) in try AttachedStack.all() }
    let isFolder = path.ends(with: "/")
    let own = (try? fs.identity(of: path)).flatMap { $0 }
    let stack = stacks.first {
        $0.files.contains { file in
            if isFolder ? file.begins(with: path) : file.isSame(as: path) { return true }
            // By another path, of a bind mount, it is the same.
            guard let own else { return false }
            return (try? fs.identity(of: isFolder ? folderPart(of: file) : file)) == own
        }
    }
    guard let stack else { return }
    throw DiskError(.inUse, "\(path): attached to \(stack.device.path); detach it first", path: path)
}

/// Waits for a lock with a bound. The kernel has no such call: a thread waits without one, and when nobody waits for it
/// any more it drops what it got.
private final class PatientLock: Sendable {
    private enum State: Sendable {
        case waiting
        case done(Result<(any HeldLock)?, SystemError>)
        case abandoned
    }
    private let state = Mutex(State.waiting)
    // Both ends live as long as either side: nobody writes into a pipe without a reader.
    private let wake: Pipe

    private init() throws(SystemError) { wake = try Pipe() }

    static func take(
        _ path: String, in fs: any FileSystem, deadlineMilliseconds: Int
    ) throws(SystemError) -> (any HeldLock)? {
        if let lock = try fs.lock(path, wait: false) { return lock }
        let pending = try PatientLock()
        _ = try OwnThread(name: "descriptor lock") { pending.wait(path, in: fs) }
        var entries = [PollEntry(pending.wake.reading.number, .readable)]
        _ = try pollDescriptors(&entries, deadlineMilliseconds: deadlineMilliseconds)
        return try pending.collect()
    }

    private func wait(_ path: String, in fs: any FileSystem) {
        let result: Result<(any HeldLock)?, SystemError>
        do throws(SystemError) { result = .success(try fs.lock(path, wait: true)) } catch { result = .failure(error) }
        state.withLock { if case .waiting = $0 { $0 = .done(result) } }
        // One byte into an empty pipe: it can't fail.
        try? wake.writing.writeAll([0])
    }

    private func collect() throws(SystemError) -> (any HeldLock)? {
        let end = state.withLock { state in
            defer { state = .abandoned }
            return state
        }
        guard case .done(let result) = end else { return nil }
        return try result.get()
    }
}
