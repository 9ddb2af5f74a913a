internal import BlockIO
internal import ChunkTree
internal import Geometry
internal import LinuxSystem

/// The source's folder, and the files there that say whose the disk is.
struct SourcePlace: Sendable {
    let folder: String
    let fs: any FileSystem
    private func path(_ name: String) -> String { "\(folder)/\(name)" }
    /// For journals and the hash tree's upper levels.
    private static let spareBytes: UInt64 = 8 << 20

    /// The identity of this move: the one of an earlier attempt to the same target, or a new one.
    func identity(for target: String) throws(MigrationError) -> String {
        let record = try at(.source) { () throws(SystemError) in
            try fs.record(OutgoingRecord.self, at: path(MigrationFiles.outgoing))
        }
        if let record, record.target == target { return record.identity }
        return randomBytes(16).map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    /// Everything here that keeps the disk from moving. Changes nothing.
    func problems(sizeBytes: UInt64, treeBytes: UInt64) throws(MigrationError) -> [String] {
        var problems: [String] = []
        if sizeBytes > HashTreeFile.byteCountMax {
            problems.append("disks of more than \(SizeText.format(HashTreeFile.byteCountMax)) cannot be migrated")
        }
        if let obstacle = MigrationFiles.obstacle(folder, in: fs) { problems.append(obstacle) }
        let space = try at(.source) { () throws(SystemError) in try fs.space(at: folder) }
        let needed = treeBytes + Self.spareBytes
        if space.freeBytes < needed {
            problems.append(
                "\(folder) has \(SizeText.format(space.freeBytes)) free, "
                    + "a migration needs \(SizeText.format(needed)) there"
            )
        }
        let probe = path("godwit-migration.probe")
        do throws(SystemError) {
            _ = try fs.open(probe, OpenMode(writable: true, creation: .ifMissing))
            try fs.remove(probe)
        } catch {
            problems.append("\(folder) cannot be written, and the migration's journal has its place there: \(error)")
        }
        return problems
    }

    func begin(identity: String, target: String) throws(MigrationError) {
        try at(.source) { () throws(SystemError) in
            try fs.store(OutgoingRecord(identity: identity, target: target), at: path(MigrationFiles.outgoing))
        }
    }

    func makeTree(sizeBytes: UInt64, chunkBytes: UInt32) throws(MigrationError) -> HashTreeFile {
        let file = try at(.source) { () throws(SystemError) in
            try fs.open(path(MigrationFiles.tree), OpenMode(writable: true, creation: .replace))
        }
        return HashTreeFile(file, shape: TreeShape(byteCount: sizeBytes, chunkBytes: chunkBytes))
    }

    func removeTree() { _ = try? fs.removeIfThere(path(MigrationFiles.tree)) }

    // MARK: ownership

    /// Writes the record that gives the disk up, durably, beside its place: all that is left to do is a rename.
    func prepareToGiveUp(_ record: MigratedRecord) throws(MigrationError) {
        try at(.source) { () throws(SystemError) in try fs.store(record, at: path(MigrationFiles.migratedPending)) }
    }

    func forgetGivingUp() { _ = try? fs.removeIfThere(path(MigrationFiles.migratedPending)) }

    /// From here on the disk is the target's.
    func giveUp() throws(MigrationError) {
        try at(.source) { () throws(SystemError) in
            try fs.rename(path(MigrationFiles.migratedPending), to: path(MigrationFiles.migrated))
            try fs.synchronizeFolder(folder)
        }
    }

    /// The record that the disk is another host's, made durable if it wasn't; `nil` when it is ours.
    func migratedRecord() throws(MigrationError) -> MigratedRecord? {
        try at(.source) { () throws(SystemError) in
            guard let record = try fs.record(MigratedRecord.self, at: path(MigrationFiles.migrated)) else { return nil }
            try fs.synchronizeFolder(folder)
            return record
        }
    }

    /// Whether a migration was begun that is not over.
    func isUnderWay() throws(MigrationError) -> Bool {
        try at(.source) { () throws(SystemError) in try fs.exists(path(MigrationFiles.outgoing)) }
    }

    /// The target has confirmed: tidies up. Can be repeated.
    /// - Parameter retire: ends what serves the disk here.
    func finish(removesSource: Bool, retire: () throws(MigrationError) -> Void) throws(MigrationError) {
        try retire()
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
    }

    /// The record goes last: until then the folder says that it is not a disk any more.
    private func removeAll() throws(MigrationError) {
        try at(.source) { () throws(SystemError) in
            let names = try fs.list(folder)
            for name in names where name != MigrationFiles.migrated && name != "godwit.lock" {
                try fs.remove(path(name))
            }
            try fs.synchronizeFolder(folder)
            for name in [MigrationFiles.migrated, "godwit.lock"] { try fs.removeIfThere(path(name)) }
            try fs.removeFolder(folder)
        }
    }
}
