import Backup
import BackupStore
import BlockIO
import LinuxSystem
import SystemPackage
import TestSupport

/// Several hosts that back their disks up into one store, at the same time, and what its points must hold.
final class StoreWorld: @unchecked Sendable {
    // @unchecked: only the thread that has the scheduler's turn touches it.
    struct Kept {
        var point: RestorePoint
        var content: [UInt8]
    }
    final class Host {
        var process: WorldProcess
        let disk: MemoryDisk
        let name: String
        var base: BackupJob.Base?
        var hasTalked = false
        init(_ number: Int, byteCount: Int) {
            name = "host \(number)"
            process = WorldProcess(name)
            disk = MemoryDisk(byteCount: byteCount)
        }
    }

    static let path = "/store"
    let scheduler: Scheduler
    let shape: StoreShape
    var fs = SimulatedFileSystem()
    var hosts: [Host]
    var kept: [Kept] = []
    /// What backups under way would hold: a point that nobody was told of holds one of these.
    var attempts: [(snapshot: String, host: String, content: [UInt8])] = []
    /// Something was damaged or removed: reading may fail, but never give other bytes.
    var isDamaged = false
    var isFaulty = false
    var cut: Survival?
    var finding: Finding?
    var log: [String] = []
    var isTracing = false
    var done: [String: Int] = [:]

    init(_ shape: StoreShape, _ scheduler: Scheduler) {
        self.shape = shape
        self.scheduler = scheduler
        hosts = (0..<shape.hosts).map { Host($0, byteCount: shape.diskBytes) }
        scheduler.pointsPerSwitch = shape.pointsPerSwitch
    }

    func note(_ kind: String) { done[kind, default: 0] += 1 }

    func fail(_ finding: Finding) {
        guard self.finding == nil else { return }
        self.finding = finding
        log.append("FINDING \(finding)")
        for host in hosts { host.process.isDead = true }
    }

    // MARK: Faults

    private func watch() {
        fs.setObserver(
            { [unowned self] call, subject in self.judge(call, subject) },
            waiting: { [unowned self] in self.scheduler.idle() })
    }

    private func judge(_ call: FaultPlan.Call, _ subject: String) -> FaultPlan.Effect? {
        scheduler.point()
        guard let work = Scheduler.actor?.role as? Work else { return nil }
        if isTracing { log.append("      \(work.step?.number ?? -1) \(work.process.name) \(call) \(subject)") }
        if work.process.isDead { return .fail(SimulatedFileSystem.powerCut) }
        guard let fault = work.step?.fault, fault.calls.contains(call), cut == nil else { return nil }
        work.calls += 1
        guard (fault.number..<fault.number + fault.count).contains(work.calls) else { return nil }
        log.append("    \(work.step?.number ?? -1): \(fault) is \(call) \(subject)")
        switch fault.kind {
        case .error(let errno):
            isFaulty = true
            return .fail(errno)
        case .torn(let errno):
            isFaulty = true
            return .tear(errno, seed: UInt64(work.calls) &* 77)
        // A store's host that loses what it was told to keep is one that has to start anew.
        case .dropped:
            isFaulty = true
            return .fail(.ioError)
        case .cut(let survival):
            stop(survival)
            return .stop
        case .kill:
            work.process.isDead = true
            return .fail(SimulatedFileSystem.powerCut)
        }
    }

    private func stop(_ survival: Survival) {
        guard cut == nil else { return }
        cut = survival
        for host in hosts { host.process.isDead = true }
    }

    // MARK: The course

    func run(_ steps: [Step], seed: UInt64) {
        Scheduler.actor?.role = Work(WorldProcess("world"), nil)
        do {
            try LocalStore.create(at: Self.path, uuid: "store", chunkBytes: UInt32(shape.chunkBytes), in: fs)
            try fs.synchronizeFolder("/")
            watch()
            var queues = hosts.indices.map { lane in steps.filter { $0.lane == lane }[...] }
            while finding == nil {
                let lanes = hosts.indices.map { lane in spawn(lane, seed, { queues[lane].popFirst() }) }
                for lane in lanes { scheduler.join(lane) }
                guard finding == nil else { break }
                if let survival = cut {
                    fs = fs.afterPowerCut(survival)
                    watch()
                    cut = nil
                    for host in hosts { host.process = WorldProcess(host.name) }
                    try look("after a power cut (\(survival))")
                    note("cut")
                } else if queues.allSatisfy(\.isEmpty) {
                    break
                }
            }
            if finding == nil { try look("at the end") }
        } catch let error as Finding {
            fail(error)
        } catch {
            fail(Finding("\(error)"))
        }
    }

    private func spawn(_ lane: Int, _ seed: UInt64, _ next: @escaping () -> Step?) -> Scheduler.Actor {
        let body: () -> Void = { [self] in
            let host = hosts[lane]
            while cut == nil, finding == nil, let step = next() {
                // A host that was killed comes back with the next step.
                if host.process.isDead { host.process = WorldProcess(host.name) }
                let actor = Scheduler.actor
                actor?.role = Work(host.process, step)
                actor?.task = "\(step)"
                actor?.reseed(seed &+ UInt64(step.number) &* 0x9e37_79b9)
                log.append("  \(step)")
                perform(step, host)
                log.append("  \(step.number) ended")
            }
        }
        return scheduler.spawn("lane \(lane)", unsafeBitCast(body, to: (@Sendable () -> Void).self))
    }
}
