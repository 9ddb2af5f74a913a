internal import AgentAPI
internal import LinuxSystem
internal import SystemPackage

/// Tells a client now and then that its request is being worked on, between the reports of the work itself.
///
/// Not that this process lives, which says nothing of a disk whose storage hangs: a sign is given only when the thread
/// that works on the request has run since the last one. A client that does not read is not waited for: the work may
/// hold the disk's writes meanwhile.
final class WorkPulse: Sendable {
    private struct State {
        var isWorking = false
        var isEnded = false
        /// The last that was told.
        var progress = (done: UInt64(0), total: UInt64(0))
    }
    private let channel: LineChannel
    private let state = Monitor(State())
    private let thread: OwnThread
    static let interval: UInt64 = 5_000_000_000

    /// - Parameter interval: nanoseconds between two signs.
    /// - Returns: `nil` where it can't be: then only progress is told.
    init?(over channel: LineChannel, interval: UInt64 = WorkPulse.interval) {
        self.channel = channel
        // Of the thread that makes this, which is the one that works.
        guard let figures = try? openDescriptor("/proc/thread-self/schedstat", writable: false) else { return nil }
        let worker = Worker(figures)
        let (state, channel) = (self.state, channel)
        guard let thread = try? OwnThread(name: "control-pulse", { Self.run(state, channel, worker, interval) }) else {
            return nil
        }
        self.thread = thread
    }

    deinit {
        state.change { $0.isEnded = true }
        thread.join()
    }

    /// Tells of the work itself. - Returns: `false` when nobody listens.
    func tell(done: UInt64, total: UInt64) -> Bool {
        state.withLock { state in
            state.progress = (done, total)
            return (try? channel.offer(ControlReply.progress(done: done, total: total))) != nil
        }
    }

    /// Runs `body`, during which signs are given; none is any more once this has returned.
    func during<R>(_ body: () -> R) -> R {
        state.change { $0.isWorking = true }
        defer { state.change { $0 = State() } }
        return body()
    }

    private static func run(
        _ state: Monitor<State>, _ channel: LineChannel, _ worker: Worker, _ interval: UInt64
    ) {
        while true {
            let isThere: Bool? = state.wait { state in
                if state.isEnded { return false }
                return state.isWorking ? true : nil
            }
            guard isThere == true else { return }
            _ = worker.hasRun()
            while true {
                let end: Void? = state.wait(until: SystemTime().monotonic() + interval) { state in
                    state.isWorking ? nil : ()
                }
                if end != nil { break }
                guard worker.hasRun() else { continue }
                state.withLock { state in
                    guard state.isWorking else { return }
                    let (done, total) = state.progress
                    try? channel.offer(ControlReply.progress(done: done, total: total))
                }
            }
        }
    }

    /// The figures that the kernel keeps of a thread.
    private final class Worker: Sendable {
        private let figures: OwnedDescriptor
        private let last = Monitor("")

        init(_ figures: consuming OwnedDescriptor) { self.figures = figures }

        /// Whether it has used the processor, or has been woken, since this was asked last.
        func hasRun() -> Bool {
            let text = (try? figures.kernelText(upTo: 256)) ?? ""
            return last.withLock { last in
                defer { last = text }
                return text != last
            }
        }
    }
}
