internal import AgentAPI
internal import Backup
internal import BackupStore
public import BlockIO
public import DiskImage
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// What comes before a disk is frozen for a backup: whose turn it is, and what its next point can be made from.
struct BackupPreparation {
    let attachments: DeviceAttachments
    let fs: any FileSystem
    let time: any TimeSource

    static let lockName = "godwit-backup.lock"

    /// A disk that a backup has begun with.
    struct Begun {
        var folder: String
        var lock: any HeldLock
        var marks: DiskMarks
        var base: BackupJob.Base?
        /// What the store says of its damage.
        var damage: String?
        var remarks: [String]
    }

    enum Decision {
        case begun(Begun)
        case leftOut(reason: String)
    }

    func begin(
        _ path: String, _ store: any StoreBackend, _ options: BackupService.Options,
        _ progress: (UInt64, UInt64) -> Bool
    ) throws -> Decision {
        let folder = try fs.resolve(path)
        try expectDisk(folder, path)
        guard let lock = try fs.lock("\(folder)/\(Self.lockName)", wait: false) else {
            throw BackupError(.busy, "another backup of \(folder) is running: wait for its end")
        }
        let found = try DiskMarks.load(folder: folder, in: fs)
        var begun = Begun(
            folder: folder, lock: lock, marks: found.marks, base: nil, damage: try store.damage(),
            remarks: found.remarks)
        try separateCopy(&begun)
        let states = try DiskSnapshots(attachments: attachments, fs: fs).list(folder)
        tellOfStrays(&begun, states)
        guard let mark = begun.marks.stores[store.info.uuid] else { return .begun(begun) }
        // A store that was emptied or put back to an older state has no such point; a damaged one is no base.
        let point: RestorePoint?
        do throws(StoreError) { point = try store.point(mark.point) } catch {
            guard [.corrupt, .unsupported, .missing].contains(error.code) else { throw error }
            begun.remarks.append("\(error.message): everything is read")
            return .begun(begun)
        }
        guard let point else {
            begun.remarks.append("the point before, \(mark.point), is not in the store any more: everything is read")
            return .begun(begun)
        }
        guard point.content.disk == begun.marks.disk, point.content.snapshot == mark.snapshot else {
            begun.remarks.append("the point before, \(mark.point), is of another disk or state: everything is read")
            return .begun(begun)
        }
        if mark.time > time.realtime() {
            begun.remarks.append(
                "the point before, \(mark.point), is of a later time than now: the clock is wrong, or was")
        }
        if let age = options.ageMinNanoseconds, let reason = reasonToLeaveOut(mark, age) {
            return .leftOut(reason: reason)
        }
        // The change map counts only if both its ends are still there, and the disk goes on from that state.
        guard !options.readsAll, Self.isBelowTop(mark.snapshot, states) else { return .begun(begun) }
        if begun.damage != nil, begun.damage != mark.damage {
            guard try BaseCheck.isWhole(point, in: store, progress: progress) else {
                begun.remarks.append(
                    "the store lacks parts of the point before: all is read, and what is missing is stored again")
                return .begun(begun)
            }
        }
        begun.base = BackupJob.Base(point: point, snapshot: mark.snapshot)
        return .begun(begun)
    }

    private func expectDisk(_ folder: String, _ path: String) throws {
        if try fs.exists("\(folder)/DiskDescriptor.xml") { return }
        // One that was handed over to another host says so itself.
        _ = try Disk.open(folder, in: fs, options: .readOnly)
        throw BackupError(.disk(.notADisk), "\(path) is not a disk's folder: an image by itself keeps no change map")
    }

    /// - Returns: why a point is young enough. A time that is yet to come is of a clock that was ahead, and says
    ///   nothing.
    private func reasonToLeaveOut(_ mark: DiskMarks.Mark, _ age: UInt64) -> String? {
        let now = time.realtime()
        guard mark.time <= now, now - mark.time < age else { return nil }
        return "its last point in the store, \(mark.point), is \((now - mark.time) / 1_000_000_000) s old"
    }

    /// A copied folder has the marks of the original, which goes on being backed up under that identity.
    private func separateCopy(_ begun: inout Begun) throws {
        guard let original = begun.marks.folder, !original.isSame(as: begun.folder) else { return }
        let identity: String?
        do throws(BackupError) { identity = try DiskMarks.identity(in: original, fs) } catch {
            // To read everything once is never wrong.
            begun.remarks.append("whether it is a copy can't be found out: \(error.message)")
            identity = begun.marks.disk
        }
        // Also while a backup of that one runs; nothing is changed there.
        guard identity == begun.marks.disk, try !isSameFolder(original, as: begun.folder) else { return }
        begun.remarks.append(begun.marks.separate(from: original))
    }

    /// Whether both paths lead to one folder: also by way of two mounts of one server, which have numbers of their own,
    /// while a clone of a volume has the same numbers of files. So our lock's file gets a word that no other has.
    private func isSameFolder(_ path: String, as folder: String) throws -> Bool {
        if let one = try? fs.identity(of: path), try one == fs.identity(of: folder) { return true }
        let word = Array(newUUID().utf8)
        try fs.open("\(folder)/\(Self.lockName)", .update).writeBytes(word, at: 0)
        return (try? fs.contents(of: "\(path)/\(Self.lockName)", limit: 1 << 10)) == word
    }

    /// A backup that was killed between the switch and the record, or was not answered, may have left a state that
    /// nobody knows of.
    private func tellOfStrays(_ begun: inout Begun, _ states: [SnapshotStatus]) {
        guard let before = begun.marks.statesBefore else { return }
        let known = Set(before).union(begun.marks.retired).union(begun.marks.needed)
        let strays = states.filter { !$0.isTop && !known.contains($0.guid) }.map(\.guid)
        begun.marks.statesBefore = nil
        guard !strays.isEmpty else { return }
        begun.remarks.append(
            "a backup was ended by force while it froze the disk, or did not get to know what became of that; of it, "
                + "or of somebody else since, there may be "
                + "\(strays.joined(separator: ", ")): delete it with `godwit snapshot delete` if it is not yours")
    }

    /// Whether the top has come from the state `guid`, which is as it was frozen. After a switch back it has not.
    private static func isBelowTop(_ guid: String, _ states: [SnapshotStatus]) -> Bool {
        var next = states.first(where: \.isTop)?.parent
        // A tree has no more levels than states.
        for _ in states {
            guard let state = states.first(where: { $0.guid == next }) else { return false }
            if state.guid == guid { return !state.isTemporary }
            next = state.parent
        }
        return false
    }

    // MARK: Records

    /// Before the switch.
    func announce(_ disk: inout Begun) throws {
        disk.marks.folder = disk.folder
        let states = try DiskSnapshots(attachments: attachments, fs: fs).list(disk.folder)
        disk.marks.statesBefore = states.filter { !$0.isTop }.map(\.guid)
        try disk.marks.store(folder: disk.folder, in: fs)
    }

    /// Instead of it: the snapshot failed, and was undone.
    func unannounce(_ disk: inout Begun) throws {
        disk.marks.statesBefore = nil
        try disk.marks.store(folder: disk.folder, in: fs)
    }

    /// After it: should the backup not end, the state is to be merged.
    func record(_ guid: String, of disk: inout Begun) throws {
        disk.marks.statesBefore = nil
        disk.marks.began(guid)
        try disk.marks.store(folder: disk.folder, in: fs)
    }
}

/// The next backups of the disk read everything: a state that they would count from is about to change.
/// - Throws: `.busy` while a backup of it runs.
public func forgetBackupBases(of disk: String, in fs: any FileSystem) throws(DiskError) {
    let folder: String
    let lock: (any HeldLock)?
    do throws(SystemError) {
        folder = try fs.resolve(disk)
        guard try fs.isFolder(folder), try fs.exists("\(folder)/\(DiskMarks.fileName)") else { return }
        lock = try fs.lock("\(folder)/\(BackupPreparation.lockName)", wait: false)
    } catch { throw DiskError(error, path: disk) }
    guard let lock else {
        throw DiskError(.busy, "\(folder): a backup of the disk is running: wait for its end", path: folder)
    }
    defer { withExtendedLifetime(lock) {} }
    do throws(BackupError) {
        var marks = try DiskMarks.load(folder: folder, in: fs).marks
        marks.forgetBases()
        try marks.store(folder: folder, in: fs)
    } catch { throw DiskError(.io, error.message, path: folder) }
}
