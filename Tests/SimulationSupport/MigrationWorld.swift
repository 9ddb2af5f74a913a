import BlockIO
import DiskImage
import LinuxSystem
import Migration
import SystemPackage
public import TestSupport

/// The world of a disk that is to move to another host.
public struct MigrationShape: Sendable, CustomStringConvertible {
    public var diskBytes: Int
    /// Names of the target's folder that steps choose from; some are one folder in two spellings.
    public var folders: [String]
    public var pointsPerSwitch: Int
    public var usesThreads: Bool

    public init(random: inout SeededRandom) {
        diskBytes = (2 + random.below(6)) << 16
        folders =
            [
                ["/disks/two"], ["/disks/two", "/disks/./two"], ["/disks/two", "/disks/three"],
            ][random.below(3)]
        pointsPerSwitch = [2, 4, 16, 1000][random.below(4)]
        usesThreads = random.oneIn(2)
    }

    public var description: String {
        "\(diskBytes) bytes to \(folders.joined(separator: ", ")), a switch in \(pointsPerSwitch) calls"
            + (usesThreads ? ", with threads" : "")
    }

    /// Lanes: a guest, then two who migrate and recover.
    static let lanes = 3

    func steps(_ count: Int, random: inout SeededRandom) -> [Step] {
        let hasErrors = random.oneIn(3)
        let hasCuts = !random.oneIn(3)
        return (0..<count).map { number in
            let lane = random.below(3)
            var action: Step.Action
            if lane == 0 {
                action = .change(1 + random.below(3))
            } else {
                switch random.below(10) {
                case 0..<6:
                    action = .migrate(
                        random.below(folders.count), messages: random.oneIn(2) ? random.below(40) : 0)
                case 6..<9: action = .recover(messages: random.oneIn(3) ? random.below(8) : 0)
                default: action = hasCuts ? .cut(Self.survival(&random)) : .recover(messages: 0)
                }
            }
            var step = Step(number: number, lane: lane, action: action)
            if lane > 0, random.oneIn(3) {
                let at = 1 + random.below(random.oneIn(2) ? 12 : 60)
                if hasErrors, random.oneIn(2) {
                    step.fault = StepFault(
                        kind: [.error(.ioError), .error(.noSpace), .torn(.ioError)][random.below(3)], number: at
                    )
                } else if hasCuts {
                    step.fault = StepFault(
                        kind: random.oneIn(2) ? .kill : .cut(Self.survival(&random)), number: at)
                }
            }
            return step
        }
    }

    private static func survival(_ random: inout SeededRandom) -> Survival {
        [.nothing, .everything, .prefix(seed: random.next()), .random(seed: random.next())][
            random.below(4)]
    }
}

/// Two hosts, a disk with its guest, and who may own it.
final class MigrationWorld: @unchecked Sendable {
    // @unchecked: only the thread that has the scheduler's turn touches it.
    static let here = "/disks/one"
    let shape: MigrationShape
    let scheduler: Scheduler
    var ours = SimulatedFileSystem()
    var theirs = SimulatedFileSystem()
    let source: GuestDisk
    let guestThere = GuestThere()
    /// Those who migrate or recover; their calls fail when one is dead.
    var clients = [WorldProcess("client 1"), WorldProcess("client 2")]
    var target = WorldProcess("target")
    var boots = 1
    var cut: (isOurs: Bool, survival: Survival)?
    var isFaulty = false
    var finding: Finding?
    var log: [String] = []
    var isTracing = false
    var done: [String: Int] = [:]

    init(_ shape: MigrationShape, _ scheduler: Scheduler) {
        self.shape = shape
        self.scheduler = scheduler
        source = GuestDisk(byteCount: shape.diskBytes)
        scheduler.pointsPerSwitch = shape.pointsPerSwitch
    }

    func note(_ kind: String) { done[kind, default: 0] += 1 }

    func fail(_ finding: Finding) {
        guard self.finding == nil else { return }
        self.finding = finding
        log.append("FINDING \(finding)")
        for process in clients + [target] { process.isDead = true }
    }

    func create() throws {
        for fs in [ours, theirs] {
            try fs.createFolder("/disks")
            try fs.synchronizeFolder("/")
        }
        try ours.createFolder(Self.here)
        let descriptor = try ours.open(
            Self.here + "/DiskDescriptor.xml", OpenMode(writable: true, creation: .exclusive))
        try descriptor.writeBytes([60], at: 0)
        try descriptor.synchronize()
        try ours.synchronizeFolder(Self.here)
        try ours.synchronizeFolder("/disks")
        watch()
    }

    // MARK: Faults

    func watch() {
        for (fs, isOurs) in [(ours, true), (theirs, false)] {
            fs.setObserver(
                { [unowned self] call, subject in self.judge(isOurs, call, subject) },
                waiting: { [unowned self] in self.scheduler.idle() })
        }
    }

    private func judge(_ isOurs: Bool, _ call: FaultPlan.Call, _ subject: String) -> FaultPlan.Effect? {
        scheduler.point()
        guard let work = Scheduler.actor?.role as? Work else { return nil }
        if isTracing {
            log.append("      \(work.step?.number ?? -1) \(work.process.name) \(call) \(subject)")
        }
        if work.process.isDead { return .fail(SimulatedFileSystem.powerCut) }
        // One side of a conversation has the fault.
        guard let step = work.step, let fault = step.fault, fault.calls.contains(call), cut == nil,
            (step.number % 2 == 0) == isOurs
        else { return nil }
        work.calls += 1
        guard (fault.number..<fault.number + fault.count).contains(work.calls) else { return nil }
        log.append("    \(step.number): \(fault) is \(call) \(subject)")
        switch fault.kind {
        case .error(let errno):
            isFaulty = true
            return .fail(errno)
        case .torn(let errno):
            isFaulty = true
            return .tear(errno, seed: UInt64(work.calls) &* 77)
        case .dropped:
            isFaulty = true
            return .fail(.ioError)
        case .cut(let survival):
            stop(isOurs: isOurs, survival)
            return .stop
        case .kill:
            work.process.isDead = true
            return .fail(SimulatedFileSystem.powerCut)
        }
    }

    /// The power of a host goes.
    func stop(isOurs: Bool, _ survival: Survival) {
        guard cut == nil else { return }
        cut = (isOurs, survival)
        if isOurs {
            for client in clients { client.isDead = true }
            source.isDown = true
        } else {
            target.isDead = true
        }
    }
}

/// A guest's disk in a server that goes on when a migration's client dies.
final class GuestDisk: @unchecked Sendable {
    // @unchecked: under a scheduler one thread runs at a time.
    var content: [UInt8]
    var isDown = false
    /// The conversation that holds writes, if any.
    var holder: Int?
    var isReleased = false
    var tracker: DirtyTracking?
    private(set) var writes = 0

    init(byteCount: Int) { content = [UInt8](repeating: 0, count: byteCount) }

    /// A guest's write. - Returns: whether it was acknowledged.
    func write(_ bytes: [UInt8], at offset: Int) -> Bool {
        guard !isDown, holder == nil, !isReleased else { return false }
        let count = min(bytes.count, content.count - offset)
        content.replaceSubrange(offset..<offset + count, with: bytes[..<count])
        tracker?.mark(offset..<offset + count)
        writes += 1
        return true
    }
}

/// Which granules of 4 KiB were written.
final class DirtyTracking {
    private(set) var dirty: Set<Int> = []
    func mark(_ range: Range<Int>) {
        dirty.formUnion(range.lowerBound / 4096...(range.upperBound - 1) / 4096)
    }
    func take() -> [Int] {
        defer { dirty = [] }
        return dirty.sorted()
    }
}

/// What the target's host has started.
final class GuestThere: @unchecked Sendable, TargetGuest {
    // @unchecked: under a scheduler one thread runs at a time.
    var starts = 0
    var isRunning = false
    var wasStartedTwice = false
    func objection(to command: String) -> String? { nil }
    func start(folder: String, command: String?, attempt: Int) throws(MigrationError) {
        if isRunning { wasStartedTwice = true }
        starts += 1
        isRunning = true
    }
}
