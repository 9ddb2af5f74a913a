import BlockIO
import DiskImage
import Geometry
import LinuxSystem
import Migration
import SystemPackage
import TestSupport
import Transport

/// The course of a migration's world.
extension MigrationWorld {
    func run(_ steps: [Step], seed: UInt64) {
        Scheduler.actor?.role = Work(WorldProcess("world"), nil)
        do {
            try create()
            var queues = (0..<MigrationShape.lanes).map { lane in steps.filter { $0.lane == lane }[...] }
            while finding == nil {
                let lanes = (0..<MigrationShape.lanes).map { lane in
                    spawn(lane, seed, { queues[lane].popFirst() })
                }
                for lane in lanes { scheduler.join(lane) }
                scheduler.joinAll { _ in true }
                guard finding == nil else { break }
                guard let cut else { break }
                restart(cut)
                try look("after a power cut")
            }
            if finding == nil { try conclude() }
        } catch let error as Finding {
            fail(error)
        } catch {
            fail(Finding("\(error)"))
        }
    }

    private func spawn(_ lane: Int, _ seed: UInt64, _ next: @escaping () -> Step?) -> Scheduler.Actor {
        let body: () -> Void = { [self] in
            while cut == nil, finding == nil, let step = next() {
                if lane > 0, clients[lane - 1].isDead {
                    clients[lane - 1] = WorldProcess(clients[lane - 1].name)
                }
                if target.isDead { target = WorldProcess("target") }
                let process = lane == 0 ? WorldProcess("guest") : clients[lane - 1]
                let actor = Scheduler.actor
                actor?.role = Work(process, step)
                actor?.task = "\(step)"
                actor?.reseed(seed &+ UInt64(step.number) &* 0x9e37_79b9)
                log.append("  \(step)")
                perform(step, process, lane)
                log.append("  \(step.number) ended")
            }
        }
        return scheduler.spawn("lane \(lane)", unsafeBitCast(body, to: (@Sendable () -> Void).self))
    }

    private func perform(_ step: Step, _ process: WorldProcess, _ lane: Int) {
        switch step.action {
        case .change(let amount): change(amount)
        case .migrate(let folder, let messages):
            let folder = shape.folders[folder % shape.folders.count]
            attempt(step, process) {
                try migrate(step, to: folder, messages: messages, lane)
                note("migration")
            }
        case .recover(let messages):
            attempt(step, process) {
                _ = try recovery(step, messages: messages).run()
                note("migration recovery")
            }
        case .cut(let survival): stop(isOurs: step.number % 2 == 0, survival)
        default: break
        }
    }

    private func attempt(_ step: Step, _ process: WorldProcess, _ body: () throws -> Void) {
        do { try body() } catch {
            log.append("    \(step.number): \(error)")
        }
        do {
            // Whatever happened: there is one owner, and where it is the source its guest writes on.
            if cut == nil { try look("\(step)") }
        } catch let error as Finding {
            fail(error)
        } catch {
            if cut == nil { fail(Finding("\(step): \(error)")) }
        }
    }

    private func change(_ amount: Int) {
        guard let actor = Scheduler.actor else { return }
        for _ in 0..<amount {
            scheduler.point()
            var random = SeededRandom(seed: UInt64(actor.below(1 << 30)))
            let offset = random.below(shape.diskBytes - 512) & ~511
            _ = source.write(random.bytes(512 * (1 + random.below(20))), at: offset)
        }
    }

    // MARK: Migrating

    private func migrate(_ step: Step, to folder: String, messages: Int, _ lane: Int) throws {
        var options = MigrationOptions()
        options.usesThreads = shape.usesThreads
        options.granuleBytes = 4096
        options.commitTimeoutMilliseconds = 2000
        let scheduler = scheduler
        options.wait = { nanoseconds in scheduler.idle(until: SystemTime().monotonic() + nanoseconds) }
        let server = SourceOfGuest(source, number: step.number, scheduler, clients[lane - 1])
        defer {
            server.hangUp(isGivenUp: (try? MigrationRecovery.record(Self.here, in: ours)) ?? nil != nil)
        }
        let controller = MigrationController(
            disk: MigratedDisk(
                folder: Self.here, clusterBytes: 32 << 10, imageVersion: 2,
                usedBytes: UInt64(shape.diskBytes), sizeBytes: UInt64(shape.diskBytes)),
            target: target(step, folder, messages), source: server, guest: NoGuest(), options: options,
            fs: ours)
        let report = try controller.run()
        if report.startFailure == nil, guestThere.starts == 0 {
            fail(Finding("a migration to \(folder) said that the guest runs there, and it was not started"))
        }
    }

    func recovery(_ step: Step, messages: Int) -> MigrationRecovery {
        var patience = HandoverPatience()
        patience.timeoutMilliseconds = 2000
        let scheduler = scheduler
        patience.wait = { nanoseconds in scheduler.idle(until: SystemTime().monotonic() + nanoseconds) }
        return MigrationRecovery(
            folder: Self.here, fs: ours,
            reach: { [self] record in target(step, String(record.target.dropFirst(6)), messages) },
            retire: {},
            patience: patience)
    }

    /// The target as a step reaches it: after so many messages the link is cut; 0: never.
    private func target(_ step: Step, _ folder: String, _ messages: Int) -> MigrationTarget {
        let limit = Countdown(messages)
        return MigrationTarget(name: "there:\(folder)", folder: folder) {
            [self] () throws(TransportError) in
            guard !target.isDead, !limit.isOver else {
                throw TransportError(.unreachable, "the target is out of reach")
            }
            return try connect(step, limit)
        }
    }

    var receiver: MigrationReceiver {
        MigrationReceiver(fs: theirs, disks: DiskFolders(fs: theirs), guest: guestThere, boot: "boot \(boots)")
    }

    private func connect(_ step: Step, _ limit: Countdown) throws(TransportError) -> any MessagePeer {
        let (near, far) = MemoryStream.pair()
        let receiver = receiver
        let work = Work(target, step)
        do throws(SystemError) {
            _ = try OwnThread(name: "target") {
                Scheduler.actor?.role = work
                guard let channel = try? MessageChannel(stream: far, peerName: "the source") else { return }
                let peer = LimitedPeer(channel, far, limit, work.process)
                do throws(TransportError) {
                    guard let first = try peer.receive() else { return }
                    try receiver.serve(peer, folder: try ServiceRequest(parsing: first).path)
                } catch {}
                peer.close()
            }
        } catch { throw TransportError(.system, error.description) }
        return LimitedPeer(try MessageChannel(stream: near, peerName: "the target"), near, limit, nil)
    }

    // MARK: After a cut

    private func restart(_ cut: (isOurs: Bool, survival: Survival)) {
        log.append("restart of \(cut.isOurs ? "the source" : "the target"), \(cut.survival)")
        if cut.isOurs {
            ours = ours.afterPowerCut(cut.survival)
            source.isDown = false
            source.holder = nil
            source.tracker = nil
            source.isReleased = ((try? MigrationRecovery.record(Self.here, in: ours)) ?? nil) != nil
            clients = clients.map { WorldProcess($0.name) }
        } else {
            theirs = theirs.afterPowerCut(cut.survival)
            boots += 1
            // Its guests went with it.
            guestThere.isRunning = false
            target = WorldProcess("target")
        }
        self.cut = nil
        watch()
        note("cut")
    }
}

/// How many messages get through.
final class Countdown: @unchecked Sendable {
    // @unchecked: under a scheduler one thread runs at a time.
    private var left: Int?
    init(_ count: Int) { left = count > 0 ? count : nil }
    var isOver: Bool { left == 0 }
    func pass() -> Bool {
        guard let count = left else { return true }
        guard count > 0 else { return false }
        left = count - 1
        return true
    }
}

/// One end of a conversation over a link that fails, or of a host that does.
final class LimitedPeer: MessagePeer, @unchecked Sendable {
    // @unchecked: under a scheduler one thread runs at a time.
    private let peer: any MessagePeer
    private let stream: MemoryStream
    private let limit: Countdown
    private let process: WorldProcess?

    init(
        _ peer: any MessagePeer, _ stream: MemoryStream, _ limit: Countdown, _ process: WorldProcess?
    ) {
        self.peer = peer
        self.stream = stream
        self.limit = limit
        self.process = process
    }
    func send(_ message: Message) throws(TransportError) {
        guard limit.pass(), process?.isDead != true else {
            stream.close()
            throw TransportError(.closed, "the link was cut")
        }
        try peer.send(message)
    }
    func receive() throws(TransportError) -> Message? { try peer.receive() }
    func fail(code: String, message: String) { peer.fail(code: code, message: message) }
    func close() { peer.close() }
}
