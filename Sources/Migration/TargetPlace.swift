internal import BlockIO
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// The target's folder and the partial one beside it, and the journal that says whether the disk is the target's.
struct TargetPlace: Sendable {
    let folder: String
    let fs: any FileSystem
    let disks: any TargetDisks

    static let imageName = "root.hds"
    var partial: String { folder + MigrationFiles.partialSuffix }
    var image: String { partial + "/" + Self.imageName }
    private var incoming: String { partial + "/" + MigrationFiles.incoming }
    private var parent: String { folder.contains("/") ? parentFolder(of: folder) : "." }
    /// Room beside the data itself: tables, journals, the hash tree.
    private static let spareBytes: UInt64 = 64 << 20

    /// - Parameter folder: absolute or relative; without a slash at its end.
    init(folder: String, fs: any FileSystem, disks: any TargetDisks) {
        var folder = folder
        while folder.count > 1, folder.hasSuffix("/") { folder.removeLast() }
        self.folder = folder
        self.fs = fs
        self.disks = disks
    }

    // MARK: before

    /// Everything that keeps the disk from coming here. Changes nothing.
    func problems(_ offer: MigrationOffer) throws(SystemError) -> (problems: [String], partialBytes: UInt64) {
        var problems: [String] = []
        if offer.protocolVersion != 1 {
            problems.append(
                "the migration's messages have version \(offer.protocolVersion), this host's have 1: update")
        }
        if offer.sizeBytes == 0 || offer.sizeBytes > HashTreeFile.byteCountMax || !offer.hasChunks {
            problems.append("a disk of \(offer.sizeBytes) bytes cannot be migrated")
        }
        if let objection = disks.objection(to: offer.shape) { problems.append(objection) }
        guard !folder.isEmpty, folder != "/", try fs.exists(parent), try fs.isFolder(parent) else {
            return (problems + ["\(parent): there is no such folder to put the disk in; create it"], 0)
        }
        if try fs.exists(folder) { problems.append("\(folder) exists already; name another folder, or remove it") }
        var partialBytes: UInt64 = 0
        if try fs.exists(partial) {
            do throws(SystemError) {
                let record = try fs.record(IncomingRecord.self, at: incoming)
                let names = try fs.list(partial)
                if record?.identity == offer.identity {
                    partialBytes = try fs.exists(image) ? fs.open(image, .read).allocatedBytes() : 0
                } else if record != nil || names.contains(where: { !$0.hasPrefix(MigrationFiles.incoming) }) {
                    problems.append("\(partial) holds a part of another disk; remove it")
                }
            } catch {
                problems.append("\(partial): \(error.description); remove it")
            }
        }
        let space = try fs.space(at: parent)
        let needed = offer.usedBytes + Self.spareBytes
        if space.freeBytes + partialBytes < needed {
            problems.append(
                "\(parent) has \(SizeText.format(space.freeBytes)) free, "
                    + "the disk needs \(SizeText.format(needed - partialBytes))"
            )
        }
        if let problem = writeProblem() { problems.append(problem) }
        return (problems, partialBytes)
    }

    /// Whether a name can be made in the parent folder. It is gone again when this returns.
    private func writeProblem() -> String? {
        let probe = partial + ".probe"
        do throws(SystemError) {
            // One may be left of a process that died between these two.
            if try !fs.exists(probe) { try fs.createFolder(probe) }
            try fs.removeFolder(probe)
            return nil
        } catch {
            return "\(parent) cannot be written: \(error.description)"
        }
    }

    // MARK: the partial copy

    /// Makes the partial folder, or enters it again.
    /// - Returns: its disk, and whether anything may be in it.
    func enter(_ offer: MigrationOffer) throws(MigrationError) -> (disk: any TargetDisk, isResumed: Bool) {
        let record = try at(.target) { () throws(SystemError) in try fs.record(IncomingRecord.self, at: incoming) }
        if let record, record.identity != offer.identity || record.state == .active {
            throw MigrationError(.refused, "\(partial) belongs to another migration, or to one that is over; remove it")
        }
        let isThere = try at(.target) { () throws(SystemError) in try fs.exists(folder) }
        guard !isThere else { throw MigrationError(.refused, "\(folder) exists already") }
        if record == nil {
            try at(.target) { () throws(SystemError) in
                if try !fs.exists(partial) {
                    try fs.createFolder(partial)
                    try fs.synchronizeFolder(parent)
                }
            }
        }
        try store(.receiving, offer, root: nil)
        if record != nil, let disk = try reopen(offer) { return (disk, true) }
        try at(.target) { () throws(SystemError) in try wipe() }
        try self.disk { () throws(DiskError) in try disks.create(offer.shape, in: partial) }
        try at(.target) { () throws(SystemError) in
            // Nobody shall take an incomplete copy for a disk.
            try fs.rename(
                "\(partial)/\(MigrationFiles.descriptor)", to: "\(partial)/\(MigrationFiles.descriptorPartial)")
            try fs.synchronizeFolder(partial)
        }
        return (try self.disk { () throws(DiskError) in try disks.open(image: image) }, false)
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
                throw MigrationError(.target, error.message)
            }
        }
        return nil
    }

    private func wipe() throws(SystemError) {
        for name in try fs.list(partial) where name != MigrationFiles.incoming { try fs.remove("\(partial)/\(name)") }
        try fs.synchronizeFolder(partial)
    }

    /// The file of the hash tree, empty.
    func treeFile() throws(MigrationError) -> any StorageFile {
        try at(.target) { () throws(SystemError) in
            try fs.open("\(partial)/\(MigrationFiles.tree)", OpenMode(writable: true, creation: .replace))
        }
    }

    func store(_ state: IncomingRecord.State, _ offer: MigrationOffer, root: String?) throws(MigrationError) {
        let record = IncomingRecord(identity: offer.identity, state: state, sizeBytes: offer.sizeBytes, root: root)
        try at(.target) { () throws(SystemError) in try fs.store(record, at: incoming) }
    }

    // MARK: taking over

    /// Takes the disk over and puts it in place; goes on where an earlier call was interrupted.
    func activate(identity: String) throws(MigrationError) {
        try at(.target) { () throws(SystemError) in
            let arrived = try fs.record(IncomingRecord.self, at: "\(folder)/\(MigrationFiles.arrived)")
            if arrived?.identity == identity { return try tidy() }
            guard var record = try fs.record(IncomingRecord.self, at: incoming), record.identity == identity,
                record.state != .receiving
            else {
                throw SystemError(
                    errno: .noSuchFileOrDirectory, operation: "commit a migration that was not prepared in",
                    subject: partial)
            }
            if record.state == .prepared {
                record.state = .active
                try fs.store(record, at: incoming)
            }
            // The disk is ours from here on; all that follows can be done again.
            let hidden = "\(partial)/\(MigrationFiles.descriptorPartial)"
            if try fs.exists(hidden) { try fs.rename(hidden, to: "\(partial)/\(MigrationFiles.descriptor)") }
            try fs.store(record, at: "\(partial)/\(MigrationFiles.arrived)")
            guard try !fs.exists(folder) else {
                throw SystemError(errno: .fileExists, operation: "put the disk in place as", subject: folder)
            }
            try fs.rename(partial, to: folder)
            try fs.synchronizeFolder(parent)
            try tidy()
        }
    }

    private func tidy() throws(SystemError) {
        try fs.removeIfThere("\(folder)/\(MigrationFiles.incoming)")
        try fs.removeIfThere("\(folder)/\(MigrationFiles.tree)")
    }

    private func disk<R>(_ body: () throws(DiskError) -> R) throws(MigrationError) -> R {
        do throws(DiskError) { return try body() } catch {
            throw MigrationError(error.code == .inUse ? .refused : .target, error.message)
        }
    }
}

extension MigrationOffer {
    var shape: TargetDiskShape {
        TargetDiskShape(sizeBytes: sizeBytes, clusterBytes: clusterBytes, imageVersion: imageVersion)
    }
    var hasChunks: Bool { (4096...1 << 20).contains(chunkBytes) && chunkBytes.isPowerOfTwo }
}

/// The folder part of a path with a slash in it.
func parentFolder(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
}
