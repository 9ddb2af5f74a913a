import Backup
import BackupStore
import BlockIO
import DiskImage
import Geometry
import LinuxSystem
import SystemPackage
import TestSupport

/// A process of the world. What its threads call fails once it is dead.
final class WorldProcess {
    let name: String
    var isDead = false
    init(_ name: String) { self.name = name }
}

/// What a thread works for: a step of a process. Threads that the product makes inherit it.
final class Work: @unchecked Sendable {
    // @unchecked: under a scheduler one thread runs at a time.
    let process: WorldProcess
    let step: Step?
    var calls = 0
    /// Its fault has come.
    var isFaulty = false
    init(_ process: WorldProcess, _ step: Step?) {
        self.process = process
        self.step = step
    }
}

/// A disk with its owner, other processes that read it and back it up, and what all of it must hold.
///
/// One thread runs at a time (``Scheduler``), so nothing here is locked. A run goes in rounds: lanes do their steps
/// until all are done or the owner is gone; then what is left is looked at, and the next round begins.
final class DiskWorld: @unchecked Sendable {
    // @unchecked: only the thread that has the scheduler's turn touches it.
    enum End { case cut(Survival), kill }

    struct Frozen {
        var guid: String
        var expected: Expected
        var byteCount: UInt64
        /// Somebody has begun to remove it.
        var isGoing = false
        /// It may not have come to be.
        var isCertain = true
    }
    struct Point {
        var point: RestorePoint
        var expected: Expected
        var byteCount: UInt64
        var snapshot: String
    }

    static let path = "/disk"
    static let storePath = "/store"
    let shape: WorldShape
    let scheduler: Scheduler
    let clusterSize: ClusterSize
    let options: DiskOptions
    var fs: SimulatedFileSystem
    var storeFS: SimulatedFileSystem
    var owner = WorldProcess("owner")
    var others: [WorldProcess] = []
    var disk: Disk?

    /// What reads must find, and what a crash may leave.
    var now = Expected()
    var afterCrash = Expected()
    /// All that guests began to change in this round, and what of it is under way.
    var changes: [Change] = []
    var underWay: [Int: Range<Int>] = [:]
    var touched = RunMap(false)
    var nextTag: UInt32 = 1
    var byteCount: UInt64
    var sizesAfterCrash: Set<UInt64>
    var snapshots: [Frozen] = []
    var points: [Point] = []
    var prepared: PreparedSnapshot?

    /// Why the round ends early.
    var end: End?
    /// A fault has come in this round: errors need no other reason.
    var isFaulty = false
    /// Steps meet their faults.
    var hasFaults = true
    /// A failed sync has dropped something: only a new start of the host shows what is left.
    var hasDropped = false
    var isClosing = false
    /// How often the disk was closed: requests that met it are refused.
    var closings = 0
    /// Steps that have not ended yet, by their number; each one's lane.
    var waiting: [Int: Int] = [:]
    var finding: Finding?
    var log: [String] = []
    var isTracing = false
    /// How often steps came to something, by their kind: a simulation that does nothing finds nothing.
    var done: [String: Int] = [:]

    init(_ shape: WorldShape, _ scheduler: Scheduler) throws {
        self.shape = shape
        self.scheduler = scheduler
        guard let size = ClusterSize(bytes: UInt64(shape.clusterBytes)) else { throw Finding("no cluster size") }
        clusterSize = size
        byteCount = UInt64(shape.byteCount)
        sizesAfterCrash = [byteCount]
        var options = DiskOptions.standard
        options.direct = shape.direct
        options.finishInBackground = shape.finishInBackground
        options.mapCacheBytes = 0
        options.reserveAheadBytes = UInt64(shape.reserveAheadClusters * shape.clusterBytes)
        options.partialBytesMax = UInt64(shape.partialClustersMax * shape.clusterBytes)
        self.options = options
        fs = SimulatedFileSystem()
        storeFS = SimulatedFileSystem()
        scheduler.pointsPerSwitch = shape.pointsPerSwitch
    }

    /// Makes the disk and the store.
    func create() throws {
        try createDisk(
            at: Self.path, options: CreateOptions(byteCount: byteCount, clusterSize: clusterSize), in: fs)
        try fs.synchronizeFolder("/")
        try LocalStore.create(at: Self.storePath, uuid: "store", chunkBytes: UInt32(shape.chunkBytes), in: storeFS)
        watch()
        disk = try Disk.open(Self.path, in: fs, options: options)
    }

    // MARK: Faults

    func watch() {
        for fs in [fs, storeFS] {
            fs.setObserver(
                { [unowned self, unowned fs] call, subject in self.judge(fs, call, subject) },
                waiting: { [unowned self] in self.scheduler.idle() })
        }
    }

    /// Lets others go first, and says what becomes of a call.
    private func judge(_ fs: SimulatedFileSystem, _ call: FaultPlan.Call, _ subject: String) -> FaultPlan.Effect? {
        scheduler.point()
        guard let work = Scheduler.actor?.role as? Work else { return nil }
        if isTracing { log.append("      \(work.step?.number ?? -1) \(work.process.name) \(call) \(subject)") }
        if work.process.isDead { return .fail(SimulatedFileSystem.powerCut) }
        guard hasFaults, let fault = work.step?.fault, fault.calls.contains(call), end == nil else { return nil }
        work.calls += 1
        guard (fault.number..<fault.number + fault.count).contains(work.calls) else { return nil }
        log.append("    \(work.step?.number ?? -1): \(fault) is \(call) \(subject)")
        work.isFaulty = true
        switch fault.kind {
        case .error(let errno):
            isFaulty = true
            return .fail(errno)
        case .torn(let errno):
            isFaulty = true
            return .tear(errno, seed: UInt64(work.calls) &* 77)
        case .dropped:
            isFaulty = true
            hasDropped = true
            return .failDropping(.ioError)
        case .cut(let survival):
            stop(.cut(survival))
            return .stop
        case .kill:
            if work.process === owner { stop(.kill) } else { work.process.isDead = true }
            return .fail(SimulatedFileSystem.powerCut)
        }
    }

    /// The owner is gone, and with a cut everybody.
    func stop(_ end: End) {
        guard self.end == nil else { return }
        self.end = end
        owner.isDead = true
        if case .cut = end { for process in others { process.isDead = true } }
    }

    // MARK: What steps need

    func note(_ kind: String) { done[kind, default: 0] += 1 }

    func fail(_ finding: Finding) {
        guard self.finding == nil else { return }
        self.finding = finding
        log.append("FINDING \(finding)")
        owner.isDead = true
        for process in others { process.isDead = true }
    }

    var isOver: Bool { finding != nil || end != nil }

    /// Whether a failure needs no explanation.
    func isExpected(_ error: DiskError, _ process: WorldProcess) -> Bool {
        if process.isDead || isOver { return true }
        switch error.code {
        case .busy: return true
        case .io, .outOfSpace: return isFaulty
        case .invalid, .readOnly: return isClosing || disk == nil
        default: return false
        }
    }

    /// Whether the fault of the step that calls has come; it may end after the disk was opened anew.
    private var hasFault: Bool { (Scheduler.actor?.role as? Work)?.isFaulty == true }

    /// Runs what may fail for good reasons. - Returns: `nil` when it did.
    @discardableResult func attempt<R>(
        _ step: Step, _ process: WorldProcess, allowing codes: Set<DiskError.Code> = [], _ body: () throws -> R
    ) -> R? {
        let before = closings
        let wasClosing = isClosing
        do { return try body() } catch let error as DiskError {
            log.append("    \(step.number): \(error.code) \(error.message)")
            if closings != before || wasClosing, [.invalid, .readOnly, .io].contains(error.code) { return nil }
            if !isExpected(error, process), !hasFault, !codes.contains(error.code) {
                fail(Finding("\(step): \(error.code): \(error.message)"))
            }
        } catch let error as Finding {
            fail(error)
        } catch let error as BackupError {
            log.append("    \(step.number): \(error.code) \(error.message)")
            let isExpected =
                switch error.code {
                case .disk(let code):
                    self.isExpected(DiskError(code, error.message, path: ""), process) || codes.contains(code)
                case .cancelled: true
                default: process.isDead || isOver || isFaulty || hasFault
                }
            if !isExpected { fail(Finding("\(step): \(error.code): \(error.message)")) }
        } catch {
            log.append("    \(step.number): \(error)")
            if !process.isDead, !isOver, !isFaulty, !hasFault { fail(Finding("\(step): \(error)")) }
        }
        return nil
    }

    /// What a state that is fixed between now and the end of `body` may hold.
    func expectedWhile<R>(_ body: () throws -> R) rethrows -> (R, Expected) {
        var expected = now
        let start = changes.count
        let result = try body()
        expected.allow(changes[start...])
        return (result, expected)
    }

    /// All that was returned before is durable; what began since may be.
    func becameDurable(_ expected: Expected) { afterCrash = expected }

    static func withMemory<R>(sectors: Int, _ body: (UnsafeMutableRawBufferPointer) throws -> R) rethrows -> R {
        let buffer = AlignedBuffer(byteCount: sectors * Pattern.sectorBytes)
        return try withExtendedLifetime(buffer) { try body(buffer.memory) }
    }
}
