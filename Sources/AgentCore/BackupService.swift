internal import AgentAPI
public import Backup
public import BackupStore
public import BlockIO
internal import DiskImage
public import LinuxSystem
internal import SystemPackage

/// Backs up disks of this host: freezes them at one instant, puts the states into a store, and drops the states that no
/// store's next backup counts from.
///
/// A state that was frozen is recorded in the disk's folder before anything is read, and dropped by this backup if it
/// fails, or else by the next one. So at most one state for each store stays in the disk.
public struct BackupService: Sendable {
    public struct Options: Sendable {
        /// Read everything that is allocated, whatever the change map says.
        public var readsAll = false
        public var freezeDeadlineMilliseconds: UInt64 = 10_000
        /// Disks with a younger point in the store are left out.
        public var ageMinNanoseconds: UInt64?
        public var job = BackupJob.Options()
        public init() {}
    }

    /// What is going on with a disk.
    public enum Phase: Hashable, Sendable { case reading, merging }

    public struct Outcome: Sendable {
        public var disk: String
        public var point: RestorePoint
        public var statistics: BackupStatistics
        /// How long the disk's writes stood still for the switch.
        public var switchNanoseconds: UInt64
        /// See ``SnapshotResult/consistent``.
        public var isConsistent: Bool
        /// States that could not be dropped, and why; the next backup tries again.
        public var leftBehind: String?
    }

    /// A disk that a backup has begun with.
    private struct Begun {
        var folder: String
        var lock: any HeldLock
        var marks: DiskMarks
        var base: BackupJob.Base?
    }

    private let attachments: DeviceAttachments
    private let fs: any FileSystem
    private let time: any TimeSource

    public init(
        attachments: DeviceAttachments = DeviceAttachments(), fs: any FileSystem = LinuxFileSystem(),
        time: any TimeSource = SystemTime()
    ) {
        self.attachments = attachments
        self.fs = fs
        self.time = time
    }

    /// One backup at a time of a disk: held by its owner's process.
    public static let lockName = "godwit-backup.lock"

    /// - Parameters:
    ///   - disks: folders, and what to call the disks in the store.
    ///   - progress: bytes done and in all of the phase; `false` stops. A merge is only put off by it.
    /// - Returns: one for each disk that was not left out.
    public func run(
        _ disks: [(folder: String, name: String)], store: any StoreBackend, hooks: HookRunner?,
        options: Options = Options(), progress: (String, Phase, UInt64, UInt64) -> Bool = { _, _, _, _ in true }
    ) throws(BackupFailure) -> [Outcome] {
        do {
            var begun: [(disk: Begun, name: String)] = []
            for disk in disks {
                if let one = try begin(disk.folder, store, options) { begun.append((one, disk.name)) }
            }
            guard !begun.isEmpty else { return [] }
            let coordinator = SnapshotCoordinator(attachments: attachments, hooks: hooks, fs: fs)
            let frozen = try coordinator.snapshot(
                begun.map(\.disk.folder), freezeDeadlineMilliseconds: options.freezeDeadlineMilliseconds)
            let now = time.realtime()
            // All states are on record before the first is read, or a failure would leave them for ever.
            for (index, result) in frozen.enumerated() {
                begun[index].disk.marks.began(result.guid)
                try begun[index].disk.marks.store(folder: begun[index].disk.folder, in: fs)
            }
            var outcomes: [Outcome] = []
            for (index, result) in frozen.enumerated() {
                var disk = begun[index].disk
                let folder = disk.folder
                do {
                    outcomes.append(
                        try put(&disk, begun[index].name, result, at: now, store, options) {
                            progress(folder, $0, $1, $2)
                        })
                } catch {
                    for rest in begun[index...] { dropRetired(rest.disk.folder) }
                    throw error
                }
            }
            return outcomes
        } catch { throw BackupFailure(error) }
    }

    /// - Returns: `nil` for a disk that is left out.
    private func begin(_ path: String, _ store: any StoreBackend, _ options: Options) throws -> Begun? {
        let folder = try fs.resolve(path)
        guard try fs.exists("\(folder)/DiskDescriptor.xml") else {
            throw BackupError(
                .disk(.notADisk), "\(path) is not a disk's folder: an image by itself keeps no change map")
        }
        guard let lock = try fs.lock("\(folder)/\(Self.lockName)", wait: false) else {
            throw BackupError(.busy, "another backup of \(folder) is running: wait for its end")
        }
        let marks = try DiskMarks.load(folder: folder, in: fs)
        let mark = marks.stores[store.info.uuid]
        if let age = options.ageMinNanoseconds, let mark, time.realtime() < mark.time &+ age { return nil }
        var begun = Begun(folder: folder, lock: lock, marks: marks, base: nil)
        guard let mark, !options.readsAll else { return begun }
        // The change map counts only if both its ends are still there, and the disk goes on from that state.
        let states = try DiskSnapshots(attachments: attachments, fs: fs).list(folder)
        guard Self.isBelowTop(mark.snapshot, states) else { return begun }
        if let point = try store.point(mark.point) {
            begun.base = BackupJob.Base(point: point, snapshot: mark.snapshot)
        }
        return begun
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

    private func put(
        _ disk: inout Begun, _ name: String, _ frozen: SnapshotResult, at now: UInt64, _ store: any StoreBackend,
        _ options: Options, _ progress: (Phase, UInt64, UInt64) -> Bool
    ) throws -> Outcome {
        let state = try FrozenState.open(disk.folder, snapshot: frozen.guid, in: fs)
        let job = BackupJob(
            disk: disk.marks.disk, name: name, snapshot: frozen.guid, time: now,
            freezeNanoseconds: frozen.freezeNanoseconds, base: disk.base, options: options.job)
        let result = try job.run(source: FrozenSource(state), store: store, clock: time) { progress(.reading, $0, $1) }
        // Before states below it are merged.
        state.close()
        disk.marks.finished(
            DiskMarks.Mark(point: result.point.id, snapshot: frozen.guid, time: now), store: store.info.uuid)
        try disk.marks.store(folder: disk.folder, in: fs)
        var outcome = Outcome(
            disk: disk.folder, point: result.point, statistics: result.statistics,
            switchNanoseconds: frozen.switchNanoseconds, isConsistent: frozen.consistent, leftBehind: nil)
        // The point is there: what can't be tidied up now is told, and done by the next backup.
        do { try drop(&disk.marks, disk.folder) { progress(.merging, $0, $1) } } catch {
            outcome.leftBehind = BackupFailure(error).message
        }
        return outcome
    }

    /// Merges the states that nothing counts from any more.
    private func drop(_ marks: inout DiskMarks, _ folder: String, _ progress: (UInt64, UInt64) -> Bool) throws {
        let snapshots = DiskSnapshots(attachments: attachments, fs: fs)
        guard !marks.retired.isEmpty else { return }
        let present = Set(try snapshots.list(folder).filter { !$0.isTop }.map(\.guid))
        for guid in marks.retired {
            // Somebody may have dropped it by hand.
            if present.contains(guid), try !snapshots.delete(guid, of: folder, progress: progress) { return }
            marks.retired.removeAll { $0 == guid }
            try marks.store(folder: folder, in: fs)
        }
    }

    /// After a failure: as far as it goes.
    private func dropRetired(_ folder: String) {
        guard var marks = try? DiskMarks.load(folder: folder, in: fs) else { return }
        try? drop(&marks, folder) { _, _ in true }
    }
}

/// Why a backup failed: the job, or what is around it.
public enum BackupFailure: Error, Hashable, Sendable {
    case job(BackupError)
    case agent(AgentError)
    case disk(DiskAccessError)
    case host(SystemError)

    /// - Parameter error: of one of the kinds that the service meets.
    init(_ error: any Error) {
        switch error {
        case let error as BackupFailure: self = error
        case let error as BackupError: self = .job(error)
        case let error as StoreError: self = .job(BackupError(error))
        case let error as DiskError: self = .job(BackupError(error))
        case let error as AgentError: self = .agent(error)
        case let error as DiskAccessError: self = .disk(error)
        case let error as SystemError: self = .host(error)
        default: self = .job(BackupError(.io, "\(error)"))
        }
    }

    public var message: String {
        switch self {
        case .job(let error): error.message
        case .agent(let error): error.message
        case .host(let error): error.description
        case .disk(.agent(let error)): error.message
        case .disk(.control(let error)): error.message
        case .disk(.disk(let error)): error.message
        }
    }
}
