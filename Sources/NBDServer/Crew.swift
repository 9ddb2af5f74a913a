internal import LinuxSystem
internal import Synchronization

/// The threads of a connection. A few are *active*: they take turns to receive a request, and do it. One that waits in
/// a write that is held back is not, so that another takes its place; when writes go on there are more than needed, and
/// those rest for a moment, as holds come in series, before they end.
///
/// More active ones only contend for the connection: measured on 2 processors, 16 instead of 8 cost a tenth of the
/// requests a second.
final class Crew: Sendable {
    /// As many as Linux' NBD client has requests under way on a connection.
    static let heldMax = 128
    private static let restNanoseconds: UInt64 = 1_000_000_000

    private struct State {
        /// All of them; the first is there from the start.
        var threads = 1
        var held = 0
        var resting: [Resting] = []
        var isEnded = false
    }
    private final class Resting: Sendable {
        let isCalled = Monitor(false)
        func call() { isCalled.change { $0 = true } }
    }

    private let activeMax: Int
    /// Changed within the lock of `state` only; looked at without it.
    private let active = Atomic<Int>(1)
    private let state = Mutex(State())

    init(activeMax: Int = min(16, max(4, 4 * processorCount()))) { self.activeMax = activeMax }

    /// Another thread may be called for.
    var isShort: Bool { active.load(ordering: .sequentiallyConsistent) < activeMax }
    var hasSurplus: Bool { active.load(ordering: .relaxed) > activeMax }

    /// For tests and for the curious.
    var counts: (active: Int, held: Int, resting: Int) {
        state.withLock { (active.load(ordering: .relaxed), $0.held, $0.resting.count) }
    }

    /// The calling thread is about to wait for held writes.
    /// - Returns: `false` when so many do already that nobody takes its place.
    func beginHold() -> Bool {
        state.withLock { state in
            guard state.held < Self.heldMax else { return false }
            state.held += 1
            active.subtract(1, ordering: .sequentiallyConsistent)
            return true
        }
    }

    func endHold() {
        state.withLock { state in
            state.held -= 1
            active.add(1, ordering: .sequentiallyConsistent)
        }
    }

    private enum Recruit {
        case none
        case rested(Resting)
        case new
    }

    /// Calls one more thread unless there are enough.
    /// - Parameter start: starts one that has ``leave()`` called at its end. When it can't be, those that are there do.
    func recruit(_ start: () throws(SystemError) -> Void) {
        let recruit: Recruit = state.withLock { state in
            guard !state.isEnded, active.load(ordering: .relaxed) < activeMax else { return .none }
            active.add(1, ordering: .sequentiallyConsistent)
            if let resting = state.resting.popLast() { return .rested(resting) }
            state.threads += 1
            return .new
        }
        switch recruit {
        case .none: return
        case .rested(let resting): resting.call()
        case .new:
            do throws(SystemError) { try start() } catch {
                state.withLock { state in
                    state.threads -= 1
                    active.subtract(1, ordering: .sequentiallyConsistent)
                }
            }
        }
    }

    /// Has a thread of the surplus wait until it is needed. - Returns: `false` when it is not, and is to end.
    func rest() -> Bool {
        let resting = Resting()
        let rests = state.withLock { state in
            guard !state.isEnded, active.load(ordering: .relaxed) > activeMax else { return false }
            active.subtract(1, ordering: .sequentiallyConsistent)
            state.resting.append(resting)
            return true
        }
        guard rests else { return true }
        let deadline = SystemTime().monotonic() + Self.restNanoseconds
        if resting.isCalled.wait(until: deadline, { $0 ? true : nil }) != nil { return true }
        return state.withLock { state in
            // Called at the last moment, it is counted as active again.
            guard let index = state.resting.firstIndex(where: { $0 === resting }) else { return true }
            state.resting.remove(at: index)
            return false
        }
    }

    /// No request follows: whoever rests is to come and see.
    func end() {
        let resting = state.withLock { state in
            state.isEnded = true
            defer { state.resting = [] }
            return state.resting
        }
        for one in resting { one.call() }
    }

    /// The calling thread ends. - Returns: whether it was the last one.
    func leave() -> Bool {
        state.withLock { state in
            state.threads -= 1
            return state.threads == 0
        }
    }
}
