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
    public enum Phase: Hashable, Sendable { case checking, reading, merging }

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
        /// What else is to be told of this backup.
        public var remarks: [String]
    }

    /// What became of each disk.
    public struct Report: Sendable {
        public var outcomes: [Outcome] = []
        /// Disks that were left out, and why.
        public var leftOut: [(disk: String, reason: String)] = []
        /// Disks whose backup failed, after those that did not.
        public var failures: [(disk: String, failure: BackupFailure)] = []
        public init() {}
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
    public static let lockName = BackupPreparation.lockName

    /// - Parameters:
    ///   - disks: folders, and what to call the disks in the store.
    ///   - progress: bytes done and in all of the phase; `false` stops. A merge is only put off by it.
    /// - Throws: when not one disk could be begun with; what happens after that is in the report, for each disk.
    public func run(
        _ disks: [(folder: String, name: String)], store: any StoreBackend, hooks: HookRunner?,
        options: Options = Options(), progress: (String, Phase, UInt64, UInt64) -> Bool = { _, _, _, _ in true }
    ) throws(BackupFailure) -> Report {
        do {
            var report = Report()
            var begun: [(disk: BackupPreparation.Begun, name: String)] = []
            let preparation = BackupPreparation(attachments: attachments, fs: fs, time: time)
            for disk in disks {
                do {
                    let one = try preparation.begin(disk.folder, store, options) {
                        progress(disk.folder, .checking, $0, $1)
                    }
                    switch one {
                    case .begun(let one): begun.append((one, disk.name))
                    case .leftOut(let reason): report.leftOut.append((disk.folder, reason))
                    }
                } catch {
                    // The others of the group are backed up without it.
                    let failure = BackupFailure(error)
                    guard failure.isOfDisk, disks.count > 1 else { throw failure }
                    report.failures.append((disk.folder, failure))
                }
            }
            guard !begun.isEmpty else { return report }
            for index in begun.indices { try preparation.announce(&begun[index].disk) }
            let coordinator = SnapshotCoordinator(attachments: attachments, hooks: hooks, fs: fs)
            let frozen: [SnapshotResult]
            do throws(AgentError) {
                frozen = try coordinator.snapshot(
                    begun.map(\.disk.folder), freezeDeadlineMilliseconds: options.freezeDeadlineMilliseconds)
            } catch {
                // What was taken is merged again, so the next backup need not look for it.
                if !error.mayLeaveState {
                    for index in begun.indices { try? preparation.unannounce(&begun[index].disk) }
                }
                throw error
            }
            let now = time.realtime()
            // All states are on record before the first is read, or a failure would leave them for ever.
            for (index, result) in frozen.enumerated() { try preparation.record(result.guid, of: &begun[index].disk) }
            for (index, result) in frozen.enumerated() {
                var disk = begun[index].disk
                let folder = disk.folder
                do {
                    report.outcomes.append(
                        try put(&disk, begun[index].name, result, at: now, store, options) {
                            progress(folder, $0, $1, $2)
                        })
                } catch {
                    // Its state is of no use; the others' is of the same instant, and may still become points.
                    let failure = BackupFailure(error)
                    report.failures.append((folder, failure))
                    dropRetired(folder, after: failure) { progress(folder, .merging, $0, $1) }
                    guard failure.isOfDisk else {
                        for rest in begun[(index + 1)...] {
                            report.failures.append((rest.disk.folder, failure))
                            dropRetired(rest.disk.folder, after: failure) {
                                progress(rest.disk.folder, .merging, $0, $1)
                            }
                        }
                        break
                    }
                }
            }
            return report
        } catch { throw BackupFailure(error) }
    }

    private func put(
        _ disk: inout BackupPreparation.Begun, _ name: String, _ frozen: SnapshotResult, at now: UInt64,
        _ store: any StoreBackend, _ options: Options, _ progress: (Phase, UInt64, UInt64) -> Bool
    ) throws -> Outcome {
        let state = try FrozenState.open(disk.folder, snapshot: frozen.guid, in: fs)
        let job = BackupJob(
            disk: disk.marks.disk, name: name, snapshot: frozen.guid, time: now,
            freezeNanoseconds: frozen.freezeNanoseconds, base: disk.base, options: options.job)
        let result: BackupJob.Outcome
        do throws(BackupError) {
            result = try job.run(source: FrozenSource(state), store: store, clock: time) { progress(.reading, $0, $1) }
        } catch {
            state.close()
            throw error
        }
        // Before states below it are merged.
        state.close()
        disk.marks.finished(
            DiskMarks.Mark(point: result.point.id, snapshot: frozen.guid, time: now, damage: disk.damage),
            store: store.info.uuid)
        try disk.marks.store(folder: disk.folder, in: fs)
        var outcome = Outcome(
            disk: disk.folder, point: result.point, statistics: result.statistics,
            switchNanoseconds: frozen.switchNanoseconds, isConsistent: frozen.consistent, leftBehind: nil,
            remarks: disk.remarks)
        if disk.base != nil, !result.statistics.isIncremental {
            outcome.remarks.append("the point before it is damaged: all was read, and what was missing is stored")
        }
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

    /// After a failure: as far as it goes. Who asked to stop does not wait for it: the next backup merges.
    private func dropRetired(_ folder: String, after failure: BackupFailure, _ progress: (UInt64, UInt64) -> Bool) {
        if case .job(let error) = failure, error.code == .cancelled { return }
        guard var marks = try? DiskMarks.load(folder: folder, in: fs).marks else { return }
        try? drop(&marks, folder, progress)
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

    /// Whether other disks may fare better: not when the store is away or full, or when the user has asked to stop.
    var isOfDisk: Bool {
        switch self {
        case .job(let error):
            switch error.code {
            case .cancelled: false
            case .store(let code): [.corrupt, .missing, .busy, .exists, .invalid].contains(code)
            default: true
            }
        default: true
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
