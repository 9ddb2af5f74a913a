internal import LinuxSystem

/// Ends a conversation from a thread of its own when the user wants no more of it, or when a deadline has passed: no
/// wait for the other side is longer than that.
final class LinkWatch: Sendable {
    enum Reason {
        /// The user wants no more of it.
        case cancelled
        /// The deadline has passed.
        case late
    }
    private struct State {
        var deadline: UInt64?
        var reason: Reason?
        var isOver = false
    }
    private let state = Monitor(State())
    private let thread: OwnThread?
    private static let interval: UInt64 = 100_000_000

    /// - Parameter shouldStop: asked every tenth of a second on a thread of its own.
    init(_ link: MigrationLink, time: any TimeSource = SystemTime(), shouldStop: @escaping @Sendable () -> Bool) {
        let state = self.state
        let hangUp = link.hangUp
        // Without a thread, which only a host at its limits refuses, the link's own silence is what ends a wait.
        thread = try? OwnThread(name: "migrate-watch") {
            Self.watch(state, time, shouldStop, hangUp)
        }
    }

    private static func watch(
        _ state: Monitor<State>, _ time: any TimeSource, _ shouldStop: () -> Bool, _ hangUp: () -> Void
    ) {
        while true {
            let now = time.monotonic()
            let isWanted = !shouldStop()
            let (isOver, isReasonFound) = state.change { state -> (Bool, Bool) in
                if state.isOver { return (true, false) }
                if !isWanted {
                    state.reason = .cancelled
                } else if let deadline = state.deadline, now >= deadline {
                    state.reason = .late
                }
                return (false, state.reason != nil)
            }
            if isOver { return }
            if isReasonFound { return hangUp() }
            _ = state.wait(until: SystemTime().monotonic() + interval) { $0.isOver ? true : nil }
        }
    }

    /// From now on the conversation is ended at `deadline`, on the monotonic clock; `nil`: no more.
    func set(deadline: UInt64?) { state.change { $0.deadline = deadline } }

    /// Why the conversation was ended from here, if it was.
    var reason: Reason? { state.withLock { $0.reason } }

    /// The conversation may go on without a watch.
    func end() {
        state.change { $0.isOver = true }
        thread?.join()
    }
}
