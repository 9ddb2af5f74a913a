internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// What Ctrl-C and SIGTERM do. Outside of a clean end they end the program at once, as is usual. Within one the first
/// only asks: the work stops at its next step and puts right what it began; the second one ends the program.
enum Interruption {
    private struct State {
        var signal: CInt?
        var cleanEnds = 0
    }
    private static let state = Mutex(State())

    /// Call it first, before there is a second thread.
    static func watch() {
        guard let signals = try? SignalWatch([Signal.interrupt, Signal.terminate, Signal.hangUp]) else { return }
        _ = try? OwnThread(name: "signals") {
            while let signal = try? signals.next() {
                let isLast = state.withLock { state in
                    defer { state.signal = signal }
                    return state.cleanEnds == 0 || state.signal != nil
                }
                if isLast { endProcess(status(of: signal)) }
                StopRequest.make()
            }
        }
    }

    /// Whether somebody asked to stop. For long work, at each step.
    static var isRequested: Bool { state.withLock { $0.signal != nil } }

    /// Runs `body`, which looks at ``isRequested`` often enough.
    static func withCleanEnd<R: ~Copyable, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
        state.withLock { $0.cleanEnds += 1 }
        defer { state.withLock { $0.cleanEnds -= 1 } }
        return try body()
    }

    /// After an interruption, whatever error it led to, the status tells of the interruption; but not in the place of a
    /// guest that is down or of a disk that nobody can use.
    static func status(for other: ExitStatus) -> ExitStatus {
        if [.unconfirmed, .guestDown, .guestNotStarted].contains(other) { return other }
        guard let signal = state.withLock({ $0.signal }) else { return other }
        return status(of: signal) == ExitStatus.interrupted.rawValue ? .interrupted : .terminated
    }

    private static func status(of signal: CInt) -> Int32 {
        (signal == Signal.interrupt ? ExitStatus.interrupted : .terminated).rawValue
    }
}
