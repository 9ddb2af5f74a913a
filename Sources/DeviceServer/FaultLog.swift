internal import LinuxSystem
internal import Synchronization

/// What the operator reads on standard error. A client that fails at each request does not fill the host with it.
public final class FaultLog: Sendable {
    private static let linesMax = 100
    private static let periodNanoseconds: UInt64 = 10_000_000_000

    private struct State {
        var begin: UInt64 = 0
        var lines = 0
    }
    private let state = Mutex(State())
    private let descriptor: OwnedDescriptor?

    public init() { descriptor = try? OwnedDescriptor(duplicating: 2) }

    /// Writes to `descriptor` in the place of standard error.
    init(descriptor: consuming OwnedDescriptor) { self.descriptor = consume descriptor }

    public func say(_ message: String) {
        let lines = state.withLock { state in
            let time = SystemTime()
            if time.elapsed(since: state.begin) >= Self.periodNanoseconds {
                state = State(begin: time.monotonic(), lines: 0)
            }
            state.lines += 1
            return state.lines
        }
        guard lines <= Self.linesMax else { return }
        write(message)
        if lines == Self.linesMax { write("there are more of these; they are left out for some seconds") }
    }

    private func write(_ message: String) {
        // Nobody can be told of a log that can't be written.
        switch descriptor {
        case .some(let descriptor): try? descriptor.writeAll(Array("godwit: \(message)\n".utf8))
        case .none: return
        }
    }
}
