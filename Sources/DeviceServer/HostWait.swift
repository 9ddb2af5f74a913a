internal import DiskImage
internal import LinuxSystem

/// Where requests wait for what the host lacks for now, most of all space (I14). They wait outside the engine, with
/// nothing locked, and are tried anew each second, or as soon as one of them got through.
///
/// Like the driver's (`space.c`): reads, and writes that need no space, go on meanwhile.
final class HostWait: Sendable {
    private struct State {
        /// Requests that have failed so, and have neither got through nor ended.
        var waiting = 0
        /// The last failure of one of them.
        var reason: DiskError?
        /// Goes up when those that wait are to look again at once.
        var round: UInt64 = 0
        /// Nobody waits any more.
        var isEnded = false
    }
    private let state = Monitor(State())
    private let path: String
    /// Told when the first one begins to wait, and when the last one has got through.
    private let log = FaultLog()

    /// - Parameter path: the disk's, for the operator.
    init(path: String) { self.path = path }

    /// What requests wait for; `nil`: none does.
    var reason: DiskError? { state.withLock { $0.waiting > 0 ? $0.reason : nil } }

    /// The disk closes: those that wait try a last time, and fail.
    func end() { state.change { $0.isEnded = true } }

    /// Those whose client has hung up are to notice.
    func lookAgain() { state.change { $0.round += 1 } }

    /// Runs `body` until it does not fail, or for a reason that stays. Only where a client that hangs up is noticed
    /// (``HeldWrites/isObserved``), as what it asked for must not be done later; elsewhere the first failure counts.
    func run<R>(_ body: () throws(DiskError) -> R) throws(DiskError) -> R {
        let round = state.withLock { $0.round }
        do throws(DiskError) { return try body() } catch {
            guard error.mayPass, HeldWrites.isObserved else { throw error }
            return try wait(after: error, round, body)
        }
    }

    private func wait<R>(
        after first: DiskError, _ round: UInt64, _ body: () throws(DiskError) -> R
    ) throws(DiskError) -> R {
        begin(first)
        var isThrough = false
        defer { leave(isThrough) }
        var round = round
        while true {
            let isEnded = HeldWrites.waiting { awaitRound(after: &round) }
            if HeldWrites.isGone { throw DiskError(.invalid, "\(path): the client has hung up", path: path) }
            do throws(DiskError) {
                let result = try body()
                isThrough = true
                return result
            } catch {
                guard error.mayPass, !isEnded else { throw error }
                state.withLock { $0.reason = error }
            }
        }
    }

    /// - Returns: whether this was the last wait.
    private func awaitRound(after round: inout UInt64) -> Bool {
        let seen = round
        let deadline = SystemTime().monotonic() + HeldWrites.lookNanoseconds
        let answer: (isEnded: Bool, round: UInt64)? = state.wait(until: deadline) { state in
            state.isEnded || state.round != seen ? (state.isEnded, state.round) : nil
        }
        if let answer { round = answer.round }
        return answer?.isEnded == true
    }

    private func begin(_ error: DiskError) {
        let isFirst = state.withLock { state in
            state.waiting += 1
            state.reason = error
            return state.waiting == 1
        }
        if isFirst { log.say("\(path): \(error.message): requests wait until that has passed") }
    }

    private func leave(_ isThrough: Bool) {
        let isOver = state.change { state in
            state.waiting -= 1
            if isThrough { state.round += 1 }
            return state.waiting == 0 && isThrough && !state.isEnded
        }
        if isOver { log.say("\(path): it has passed: requests go on") }
    }
}
