import CSystemShims
import Glibc
import TestSupport

/// Runs threads one at a time: who goes on, and where another takes over, comes from a seed. Threads that the product
/// makes are the scheduler's too, and so are its locks, clocks and random numbers: a run is repeated by its seed.
///
/// The turn is given away only at a ``point()`` (the simulated file systems' calls), at a lock that somebody else has,
/// in a wait, and at a thread's end. Time stands still but for the points and for waits: when all wait, it jumps to the
/// first deadline; when there is none, they wait for ever, which ends the run.
public final class Scheduler: @unchecked Sendable {
    // @unchecked: all state is touched only by the thread that has the turn; turns are handed on by semaphores.
    enum Condition: Equatable {
        case ready
        case blocked(UInt)
        case waiting(UInt, deadline: UInt64)
        /// Looks again and again; `isIdle`: and nobody else has done anything since.
        case polling(deadline: UInt64, isIdle: Bool)
        case joining(UInt64)
        case ended
    }

    /// A thread under the scheduler.
    public final class Actor {
        let number: Int
        let name: String
        unowned let scheduler: Scheduler
        let turn: UnsafeMutablePointer<sem_t>
        var condition = Condition.ready
        var isOverdue = false
        /// Points since it was idle last.
        var points = 0
        var handle: UInt64 = 0
        var random: SeededRandom
        /// What its maker is working for: a process, a step.
        public var role: AnyObject?
        /// What it is doing, for reports.
        public var task = ""

        init(_ scheduler: Scheduler, number: Int, name: String, random: SeededRandom) {
            self.scheduler = scheduler
            self.number = number
            self.name = name
            self.random = random
            turn = .allocate(capacity: 1)
            sem_init(turn, 0, 0)
        }

        /// What it decides from now on comes from this seed: steps that are left out leave others' choices alone.
        public func reseed(_ seed: UInt64) { random = SeededRandom(seed: seed) }

        /// A number that the run's seed decides.
        public func below(_ bound: Int) -> Int { random.below(bound) }
    }

    private var actors: [Actor] = []
    private var current: Actor?
    private let over: UnsafeMutablePointer<sem_t>
    private var time: UInt64 = 1_000_000_000
    /// Added to the wall clock: it may jump.
    public var clockOffset: Int64 = 0
    private var entropy: SeededRandom
    /// Once in so many points the turn goes to another thread.
    public var pointsPerSwitch = 4
    private var pointsLeft: Int
    /// Why the run could not end.
    public private(set) var failure: String?

    public init(seed: UInt64, pointsMax: Int = 3_000_000) {
        entropy = SeededRandom(seed: seed ^ 0x5eed)
        pointsLeft = pointsMax
        over = .allocate(capacity: 1)
        sem_init(over, 0, 0)
        Hooks.install()
    }

    /// The scheduler's thread that calls.
    public static var actor: Actor? { Hooks.actor }

    /// Runs `body` as the first thread; returns when all have ended, or can't.
    public func run(_ body: @escaping @Sendable () -> Void) {
        let first = make("world")
        Hooks.start(first, body)
        hand(to: first)
        while sem_wait(over) != 0 {}
    }

    /// Starts a thread with the maker's role.
    public func spawn(_ name: String, _ body: @escaping @Sendable () -> Void) -> Actor {
        let actor = make(name)
        Hooks.start(actor, body)
        return actor
    }

    /// Waits for a thread's end.
    public func join(_ actor: Actor) {
        guard let me = current else { return }
        while actor.condition != .ended {
            me.condition = .joining(UInt64(actor.number))
            give(from: me)
        }
    }

    /// Waits for the end of all other threads that are meant.
    public func joinAll(_ isMeant: (Actor) -> Bool) {
        while let actor = actors.first(where: { $0.condition != .ended && $0 !== current && isMeant($0) }) {
            join(actor)
        }
    }

    /// Where another may take over.
    public func point() {
        guard let me = current, me === Hooks.actor else { return }
        time += 2000
        me.points += 1
        pointsLeft -= 1
        if pointsLeft <= 0 { abandon("more calls than a run may make: a loop without an end?") }
        guard me.random.below(pointsPerSwitch) == 0 else { return }
        pass(from: me)
    }

    /// Lets another go on, if one can.
    public func pass(from me: Actor) {
        wakePollers()
        let others = able.filter { $0 !== me }
        guard !others.isEmpty else { return }
        switchTurn(from: me, to: others[me.random.below(others.count)])
    }

    // MARK: Turns

    private func hand(to actor: Actor) {
        current = actor
        sem_post(actor.turn)
    }

    private func switchTurn(from me: Actor, to other: Actor) {
        hand(to: other)
        while sem_wait(me.turn) != 0 {}
    }

    /// Gives the turn to somebody who can go on; returns when this thread can.
    private func give(from me: Actor) {
        if case .polling = me.condition {} else { wakePollers() }
        let next = pick(me)
        guard next !== me else { return }
        switchTurn(from: me, to: next)
    }

    private var able: [Actor] {
        actors.filter { actor in
            if case .polling(_, isIdle: false) = actor.condition { return true }
            return actor.condition == .ready
        }
    }

    private func pick(_ me: Actor) -> Actor {
        while true {
            let able = able
            if !able.isEmpty {
                let next = able[me.random.below(able.count)]
                if next.condition == .ready { wakePollers() }
                return next
            }
            var first: (actor: Actor, deadline: UInt64)?
            for actor in actors {
                switch actor.condition {
                case .waiting(_, let deadline), .polling(let deadline, _):
                    if deadline < first?.deadline ?? .max { first = (actor, deadline) }
                default: break
                }
            }
            guard let first else { abandon("all threads wait for each other") }
            pointsLeft -= 100
            if pointsLeft <= 0 { abandon("more waits than a run may make: something that never comes?") }
            time = max(time, first.deadline)
            first.actor.isOverdue = true
            first.actor.condition = .ready
        }
    }

    /// Something has happened that one of those who look again and again may be waiting for.
    public func wakePollers() {
        for actor in actors {
            if case .polling(let deadline, _) = actor.condition {
                actor.condition = .polling(deadline: deadline, isIdle: false)
            }
        }
    }

    /// Ends the run where threads can't: they stay as they are.
    private func abandon(_ reason: String) -> Never {
        let states = actors.filter { $0.condition != .ended }.map { "\($0.name): \($0.task) (\($0.condition))" }
        failure = "\(reason)\n    " + states.joined(separator: "\n    ")
        sem_post(over)
        while true { pause() }
    }

    // MARK: What the hooks need

    func make(_ name: String) -> Actor {
        let maker = current
        let seed = maker?.random.next() ?? entropy.next()
        let actor = Actor(self, number: actors.count, name: name, random: SeededRandom(seed: seed))
        actor.role = maker?.role
        actor.task = maker?.task ?? ""
        actors.append(actor)
        return actor
    }

    func made(_ actor: Actor, _ handle: UInt64) {
        actor.handle = handle
        if handle == 0 { actor.condition = .ended }
    }

    func begin(_ actor: Actor) { while sem_wait(actor.turn) != 0 {} }

    func end(_ actor: Actor) {
        actor.condition = .ended
        for other in actors where other.condition == .joining(UInt64(actor.number)) { other.condition = .ready }
        guard actors.contains(where: { $0.condition != .ended }) else {
            current = nil
            sem_post(over)
            return
        }
        wakePollers()
        hand(to: pick(actor))
    }

    func blocked(_ lock: UInt) {
        guard let me = current else { return }
        me.condition = .blocked(lock)
        give(from: me)
    }

    func unlocked(_ lock: UInt) {
        free(lock)
        // Between two locks, too, others may come; there are many more locks than calls.
        if let me = current, me.random.below(pointsPerSwitch * 32) == 0 { pass(from: me) }
    }

    private func free(_ lock: UInt) {
        for actor in actors where actor.condition == .blocked(lock) { actor.condition = .ready }
    }

    func wait(_ lock: UInt, deadline: UInt64) -> Bool {
        guard let me = current else { return true }
        free(lock)
        guard deadline > time else { return false }
        me.isOverdue = false
        me.condition = .waiting(lock, deadline: deadline)
        give(from: me)
        return !me.isOverdue
    }

    /// Waits until others have gone on. - Returns: `false` when the deadline has passed.
    @discardableResult public func idle(until deadline: UInt64 = .max) -> Bool {
        guard let me = current, me === Hooks.actor else { return true }
        guard deadline > time else { return false }
        me.isOverdue = false
        // A look at what is waited for is one point at most; who has passed more of them has done something.
        if me.points > 1 { wakePollers() }
        me.points = 0
        me.condition = .polling(deadline: deadline, isIdle: true)
        give(from: me)
        me.condition = .ready
        return !me.isOverdue
    }

    func wake(_ lock: UInt) {
        for actor in actors {
            if case .waiting(lock, _) = actor.condition { actor.condition = .ready }
        }
    }

    func join(handle: UInt64) {
        guard let actor = actors.last(where: { $0.handle == handle }) else { return }
        join(actor)
    }

    func now(isRealtime: Bool) -> UInt64 {
        time += 100
        guard isRealtime else { return time }
        return UInt64(Int64(1_700_000_000_000_000_000) + Int64(time) + clockOffset)
    }

    func fill(_ memory: UnsafeMutableRawBufferPointer) { memory.copyBytes(from: entropy.bytes(memory.count)) }
}
