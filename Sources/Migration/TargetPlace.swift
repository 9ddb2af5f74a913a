internal import BlockIO
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// The target's folder and the partial one beside it, and the journal that says whether the disk is the target's.
///
/// Whoever changes the journal or what lies beside it holds the lock, which moves with the folder.
struct TargetPlace: Sendable {
    let folder: String
    let fs: any FileSystem
    let disks: any TargetDisks
    /// Of this host's start.
    let boot: String

    static let imageName = "root.hds"
    var partial: String { folder + MigrationFiles.partialSuffix }
    var image: String { partial + "/" + Self.imageName }
    var incoming: String { partial + "/" + MigrationFiles.incoming }
    var arrived: String { folder + "/" + MigrationFiles.arrived }
    var parent: String { parentFolder(of: folder) }
    var name: String { fileName(of: folder) }

    /// Absolute, where the folder above it is there.
    var wholePath: String {
        guard let above = try? fs.resolve(parent) else { return folder }
        return PathText.join(above, name)
    }

    /// - Parameter folder: absolute or relative; without a slash at its end.
    init(folder: String, fs: any FileSystem, disks: any TargetDisks, boot: String = bootIdentifier()) {
        self.folder = PathText.withoutEndSlashes(folder)
        self.fs = fs
        self.disks = disks
        self.boot = boot
    }

    // MARK: the lock

    /// Takes the lock of the partial folder, which is made when it is missing.
    /// - Throws: `.busy` when another one has it.
    func lockPartial() throws(MigrationError) -> any HeldLock {
        let lock = try at(.target) { () throws(SystemError) in
            if try !fs.exists(partial) { try fs.createFolder(partial) }
            // Also when another one has made it, and was killed before this.
            try fs.synchronizeFolder(parent)
            return try fs.lock("\(partial)/\(MigrationFiles.lock)", wait: false)
        }
        guard let lock else {
            throw MigrationError(.busy, "another migration to \(folder) is under way; try again when it is over")
        }
        return lock
    }

    /// Waits for the lock of the copy, wherever it lies; `nil` when there is none.
    func lockCopy() throws(MigrationError) -> (any HeldLock)? {
        try at(.target) { () throws(SystemError) in
            // Whoever had it may have put the copy in place meanwhile.
            for _ in 0..<3 {
                for (place, record) in [(folder, arrived), (partial, incoming)] where try fs.exists(record) {
                    do throws(SystemError) {
                        return try fs.lock("\(place)/\(MigrationFiles.lock)", wait: true)
                    } catch {
                        guard error.errno == .noSuchFileOrDirectory else { throw error }
                    }
                }
            }
            return nil
        }
    }

    // MARK: the partial copy

    /// Makes the partial folder, or enters it again. The lock is held.
    /// - Returns: its disk, and whether anything may be in it.
    func enter(
        _ offer: MigrationOffer, attempt: String
    ) throws(MigrationError) -> (disk: any TargetDisk, isResumed: Bool) {
        let record = try at(.target) { () throws(SystemError) in try fs.record(IncomingRecord.self, at: incoming) }
        if let record, record.identity != offer.identity || record.state == .active {
            throw MigrationError(.refused, "\(partial) belongs to another migration, or to one that is over; remove it")
        }
        if let problem = try at(.target, { () throws(SystemError) in try nameProblem() }) {
            throw MigrationError(.refused, problem)
        }
        // Open before the journal changes: a server that has the image must not lose its disk's state.
        let reopened = record == nil ? nil : try reopen(offer)
        try store(.receiving, offer, attempt: attempt, root: nil)
        if let reopened { return (reopened, true) }
        try at(.target) { () throws(SystemError) in try wipe() }
        try onDisk(.refused) { () throws(DiskError) in try disks.create(offer.shape, in: partial) }
        try at(.target) { () throws(SystemError) in
            // Nobody shall take an incomplete copy for a disk.
            try fs.rename(
                "\(partial)/\(MigrationFiles.descriptor)", to: "\(partial)/\(MigrationFiles.descriptorPartial)")
            try fs.synchronizeFolder(partial)
        }
        return (try onDisk(.refused) { () throws(DiskError) in try disks.open(image: image) }, false)
    }

    /// The disk of an earlier attempt, or `nil` when that did not get so far.
    private func reopen(_ offer: MigrationOffer) throws(MigrationError) -> (any TargetDisk)? {
        let isComplete = try at(.target) { () throws(SystemError) in
            try fs.exists("\(partial)/\(MigrationFiles.descriptorPartial)")
        }
        guard isComplete else { return nil }
        do throws(DiskError) {
            let disk = try disks.open(image: image)
            if disk.byteCount == offer.sizeBytes { return disk }
            try disk.close()
        } catch {
            // Whoever holds it would see it vanish; anything else that is wrong with it is cured by starting anew.
            guard [.notADisk, .corrupt, .notFound, .unsupported].contains(error.code) else {
                throw MigrationError(error.code == .inUse ? .busy : .target, error.message)
            }
        }
        return nil
    }

    /// Without its descriptor the partial copy is begun anew. The lock is held.
    func distrust() {
        _ = try? fs.removeIfThere("\(partial)/\(MigrationFiles.descriptorPartial)")
        _ = try? fs.synchronizeFolder(partial)
    }

    private func wipe() throws(SystemError) {
        let kept = [MigrationFiles.incoming, MigrationFiles.lock]
        for name in try fs.list(partial) where !kept.contains(name) { try fs.remove("\(partial)/\(name)") }
        try fs.synchronizeFolder(partial)
    }

    /// The file of the hash tree, empty.
    func treeFile() throws(MigrationError) -> any StorageFile {
        try at(.target) { () throws(SystemError) in
            try fs.open("\(partial)/\(MigrationFiles.tree)", OpenMode(writable: true, creation: .replace))
        }
    }

    func store(
        _ state: IncomingRecord.State, _ offer: MigrationOffer, attempt: String, root: String?
    ) throws(MigrationError) {
        try at(.target) { () throws(SystemError) in
            let record = IncomingRecord(
                identity: offer.identity, attempt: attempt, state: state, sizeBytes: offer.sizeBytes, root: root,
                parent: try parentMark())
            try fs.store(record, at: incoming)
        }
    }

    func parentMark() throws(SystemError) -> FolderMark? {
        try fs.identity(of: parent).map { FolderMark(device: $0.device, inode: $0.inode, boot: boot) }
    }

    private func onDisk<R>(
        _ inUse: MigrationError.Code, _ body: () throws(DiskError) -> R
    ) throws(MigrationError) -> R {
        do throws(DiskError) { return try body() } catch {
            throw MigrationError(error.code == .inUse ? inUse : .target, error.message)
        }
    }
}

extension MigrationOffer {
    var shape: TargetDiskShape {
        TargetDiskShape(sizeBytes: sizeBytes, clusterBytes: clusterBytes, imageVersion: imageVersion)
    }
    var hasChunks: Bool { (4096...1 << 20).contains(chunkBytes) && chunkBytes.isPowerOfTwo }
}

/// The folder part of a path; `.` when it has none.
func parentFolder(of path: String) -> String {
    PathText.parent(of: path)
}

/// What comes behind a path's last slash.
func fileName(of path: String) -> String {
    PathText.name(of: path)
}
