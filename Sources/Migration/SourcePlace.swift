internal import BlockIO
internal import ChunkTree
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// The source's folder, and the files there that say whose the disk is.
struct SourcePlace: Sendable {
    let folder: String
    let fs: any FileSystem
    let boot: String
    /// Which folder the path led to at first: what is given up, and removed, is that one.
    private let identity: FileIdentity?
    private func path(_ name: String) -> String { "\(folder)/\(name)" }
    /// For journals and the hash tree's upper levels.
    private static let spareBytes: UInt64 = 8 << 20

    /// - Parameter boot: tells one start of this host from another.
    init(folder: String, fs: any FileSystem, boot: String = bootIdentifier()) {
        self.folder = folder
        self.fs = fs
        self.boot = boot
        identity = (try? fs.identity(of: folder)) ?? nil
    }

    /// - Throws: `.refused` when the path leads to another folder than at first.
    func proveSame() throws(MigrationError) {
        guard try at(.source, { () throws(SystemError) in try fs.identity(of: folder) }) == identity else {
            throw MigrationError(
                .refused,
                "\(folder) was renamed or replaced during its migration, so nothing is changed there: put the disk's "
                    + "folder back in its place, then run 'godwit migrate --recover \(folder)'")
        }
    }

    /// Excludes all others that work on a migration of this disk.
    /// - Throws: `.busy` when there is one.
    func lock() throws(MigrationError) -> any HeldLock {
        let lock = try at(.source) { () throws(SystemError) in
            try fs.lock(path(MigrationFiles.lock), wait: false)
        }
        guard let lock else {
            throw MigrationError(
                .busy, "another godwit migrates \(folder) or finishes its migration; wait until it is over")
        }
        return lock
    }

    /// What is known of earlier attempts.
    func outgoing() throws(MigrationError) -> OutgoingRecord? {
        try at(.source) { () throws(SystemError) in
            try fs.record(OutgoingRecord.self, at: path(MigrationFiles.outgoing))
        }
    }

    /// Everything here that keeps the disk from moving. Changes nothing.
    func problems(sizeBytes: UInt64, treeBytes: UInt64) throws(MigrationError) -> [String] {
        var problems: [String] = []
        if sizeBytes > HashTreeFile.byteCountMax {
            problems.append("disks of more than \(SizeText.format(HashTreeFile.byteCountMax)) cannot be migrated")
        }
        if let obstacle = MigrationFiles.obstacle(folder, in: fs) { problems.append(obstacle) }
        let space = try at(.source) { () throws(SystemError) in try fs.space(at: folder) }
        let needed = treeBytes.addingSaturated(Self.spareBytes)
        if space.freeBytes < needed {
            problems.append(
                "\(folder) has \(SizeText.format(space.freeBytes)) free, "
                    + "a migration needs \(SizeText.format(needed)) there"
            )
        }
        let probe = path(MigrationFiles.probe)
        do throws(SystemError) {
            _ = try fs.open(probe, OpenMode(writable: true, creation: .ifMissing))
            try fs.remove(probe)
        } catch {
            problems.append("\(folder) cannot be written, and the migration's journal has its place there: \(error)")
        }
        return problems
    }

    func store(_ record: OutgoingRecord) throws(MigrationError) {
        try proveSame()
        try at(.source) { () throws(SystemError) in try fs.store(record, at: path(MigrationFiles.outgoing)) }
    }

    /// Notes, before it is done, that the guest is being stopped: whoever comes after a crash can start it again.
    func noteStop(_ note: GuestStopNote) throws(MigrationError) {
        guard var record = try outgoing() else { return }
        record.stop = OutgoingRecord.Stop(boot: boot, mountpoint: note.mountpoint, partition: note.partition)
        try store(record)
    }

    /// The guest runs again.
    func forgetStop() throws(MigrationError) {
        guard var record = try outgoing(), record.stop != nil else { return }
        record.stop = nil
        try store(record)
    }

    func makeTree(sizeBytes: UInt64, chunkBytes: UInt32) throws(MigrationError) -> HashTreeFile {
        try proveSame()
        let file = try at(.source) { () throws(SystemError) in
            try fs.open(path(MigrationFiles.tree), OpenMode(writable: true, creation: .replace))
        }
        return HashTreeFile(file, shape: TreeShape(byteCount: sizeBytes, chunkBytes: chunkBytes))
    }

    func removeTree() { removeOurs(MigrationFiles.tree) }

    /// In another folder it would be somebody else's; what stays is harmless.
    private func removeOurs(_ name: String) {
        guard (try? proveSame()) != nil else { return }
        _ = try? fs.removeIfThere(path(name))
    }

    // MARK: ownership

    /// Writes the record that gives the disk up, durably, beside its place: all that is left to do is a rename.
    func prepareToGiveUp(_ record: MigratedRecord) throws(MigrationError) {
        try proveSame()
        try at(.source) { () throws(SystemError) in try fs.store(record, at: path(MigrationFiles.migratedPending)) }
    }

    func forgetGivingUp() { removeOurs(MigrationFiles.migratedPending) }

    /// From here on the disk is the target's.
    /// - Parameter begun: called right before; if it is not, the disk has stayed ours.
    func giveUp(begun: () -> Void = {}) throws(MigrationError) {
        try proveSame()
        begun()
        try at(.source) { () throws(SystemError) in
            try fs.rename(path(MigrationFiles.migratedPending), to: path(MigrationFiles.migrated))
            try fs.synchronizeFolder(folder)
        }
    }

    /// The record that the disk is another host's; `nil` when it is ours.
    func migratedRecord() throws(MigrationError) -> MigratedRecord? {
        try at(.source) { () throws(SystemError) in
            try fs.record(MigratedRecord.self, at: path(MigrationFiles.migrated))
        }
    }

    /// The same, of the folder that the path led to at first: that there is no record in another one says nothing.
    /// - Throws: `.refused` when the path leads elsewhere.
    func provenRecord() throws(MigrationError) -> MigratedRecord? {
        let record = try migratedRecord()
        try proveSame()
        return record
    }

    /// Makes the record durable whatever became of an earlier try: after a failed synchronisation only what is written
    /// again counts.
    func confirm(_ record: MigratedRecord) throws(MigrationError) {
        try proveSame()
        try at(.source) { () throws(SystemError) in
            do throws(SystemError) { try fs.store(record, at: path(MigrationFiles.migrated)) } catch {
                guard [.noSpace, .diskQuotaExceeded].contains(error.errno) else { throw error }
                try fs.synchronizeFolder(folder)
            }
        }
    }

    /// The target has confirmed: tidies up. Can be repeated.
    /// - Parameter retire: ends what serves the disk here.
    /// - Returns: what is left behind here because it is not the disk's, if the folder was to be removed.
    func finish(removesSource: Bool, retire: () throws(MigrationError) -> Void) throws(MigrationError) -> [String] {
        try retire()
        try proveSame()
        guard !removesSource else { return try removeAll() }
        try at(.source) { () throws(SystemError) in
            let descriptor = path(MigrationFiles.descriptor)
            if try fs.exists(descriptor) { try fs.rename(descriptor, to: path(MigrationFiles.descriptorMigrated)) }
            if var record = try fs.record(MigratedRecord.self, at: path(MigrationFiles.migrated)) {
                record.state = .finished
                try fs.store(record, at: path(MigrationFiles.migrated))
            }
            try fs.removeIfThere(path(MigrationFiles.outgoing))
            try fs.removeIfThere(path(MigrationFiles.tree))
        }
        return []
    }

    /// Removes what is known to be the disk's. The record goes last: until then the folder says that it is not a disk
    /// any more.
    private func removeAll() throws(MigrationError) -> [String] {
        try at(.source) { () throws(SystemError) in
            let last = [MigrationFiles.migrated, MigrationFiles.lock, DiskFolder.ownerLockName]
            let known = SourceFiles(in: folder, fs: fs)
            var record = try fs.record(MigratedRecord.self, at: path(MigrationFiles.migrated))
            // All of the disk went before that was stored: what looks like one now was put there since.
            let isOver = record?.state == .finished
            var left: [String] = []
            for name in known.inOrderOfRemoval(try fs.list(folder)) where !last.contains(name) {
                if known.isOurs(name), !isOver { try fs.remove(path(name)) } else { left.append(name) }
            }
            try fs.synchronizeFolder(folder)
            guard left.isEmpty else {
                // The target is asked no more.
                record?.state = .finished
                if let record { try fs.store(record, at: path(MigrationFiles.migrated)) }
                return left
            }
            for name in last { try fs.removeIfThere(path(name)) }
            try fs.removeFolder(folder)
            return []
        }
    }
}
