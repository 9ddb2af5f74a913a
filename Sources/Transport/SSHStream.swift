internal import CSSH
internal import LinuxSystem

/// The channel of one command on another host.
///
/// libssh sessions are for one thread, so this one has a thread that does nothing else: it moves bytes between libssh
/// and two rings, and sleeps in `cssh_wait`. Readers and writers copy into and out of the rings.
final class SSHStream: ByteStream {
    /// Of each ring. The incoming one's free space is also the window that the far side is granted. What waits in the
    /// outgoing one delays what comes after it; libssh and the kernel hold enough to fill a long link.
    private static let incomingBytes = 4 << 20
    private static let outgoingBytes = 1 << 20
    /// On close, as long as bytes keep leaving, so long may they need for each step.
    private static let closeMilliseconds = 2000

    private let shared: Shared
    private let thread: OwnThread
    private let limit: TimeLimit
    private let hostName: String

    @unsafe init(adopting connection: OpaquePointer, target: SSHTarget, options: SSHOptions) throws(TransportError) {
        hostName = target.host
        limit = TimeLimit(milliseconds: options.silenceMilliseconds, time: SystemTime())
        do throws(SystemError) {
            let shared = Shared(
                wake: try WakeEvent(),
                state: State(
                    incoming: ByteRing(byteCount: Self.incomingBytes), outgoing: ByteRing(byteCount: Self.outgoingBytes)
                ))
            let owner = unsafe Owner(
                connection: connection, shared: shared, hostName: target.host, command: options.command,
                onErrorLine: options.onErrorLine)
            self.shared = shared
            thread = try OwnThread(name: "ssh") { owner.run() }
        } catch {
            unsafe cssh_free(connection)
            throw TransportError(.system, error.description)
        }
    }

    deinit {
        shared.state.change { $0.isClosing = true }
        shared.wake.wake()
    }

    func read(into memory: UnsafeMutableRawBufferPointer) throws(TransportError) -> Int {
        let region = try unsafe shared.state.wait(until: limit.deadline) { state throws(TransportError) -> Region? in
            if !state.incoming.isEmpty {
                return unsafe Region(UnsafeMutableRawBufferPointer(mutating: state.incoming.readable))
            }
            if let failure = state.failure { throw failure }
            if state.hasEnded { return unsafe Region(UnsafeMutableRawBufferPointer(start: nil, count: 0)) }
            if state.isClosing { throw TransportError(.closed, "the connection to the peer is closed") }
            return nil
        }
        guard let region = unsafe region?.memory else { throw limit.error(hostName) }
        let count = min(region.count, memory.count)
        guard count > 0 else { return 0 }
        unsafe memory.copyMemory(from: UnsafeRawBufferPointer(rebasing: region[..<count]))
        let wasFull = shared.state.withLock { state in
            defer { state.incoming.drain(count) }
            return state.incoming.isFull
        }
        if wasFull { shared.wake.wake() }
        return count
    }

    func write(_ memory: UnsafeRawBufferPointer) throws(TransportError) {
        var next = 0
        while next < memory.count {
            let region = try unsafe shared.state.wait(until: limit.deadline) {
                state throws(TransportError) -> Region? in
                if let failure = state.failure { throw failure }
                if state.hasEnded || state.isClosing {
                    throw TransportError(.closed, "the far side has closed the connection")
                }
                return state.outgoing.isFull ? nil : unsafe Region(state.outgoing.writable)
            }
            guard let region = unsafe region?.memory else { throw limit.error(hostName) }
            let count = min(region.count, memory.count - next)
            unsafe region.copyMemory(from: UnsafeRawBufferPointer(rebasing: memory[next..<next + count]))
            let isAsleep = shared.state.withLock { state in
                state.outgoing.fill(count)
                return state.isOwnerAsleep
            }
            if isAsleep { shared.wake.wake() }
            next += count
        }
    }

    func close() {
        shared.state.change { $0.isClosing = true }
        shared.wake.wake()
        thread.join()
    }

    /// A lent region of a ring, to carry it out of a lock.
    @unsafe private struct Region {
        let memory: UnsafeMutableRawBufferPointer
        init(_ memory: UnsafeMutableRawBufferPointer) { unsafe self.memory = memory }
    }
}

extension SSHStream {
    struct State {
        var incoming: ByteRing
        var outgoing: ByteRing
        /// The far side has nothing more to say.
        var hasEnded = false
        var failure: TransportError?
        var isClosing = false
        var isOwnerAsleep = false

        var isOver: Bool { hasEnded || failure != nil }
    }

    /// What the owner and the callers share.
    final class Shared: Sendable {
        let state: Monitor<State>
        let wake: WakeEvent

        init(wake: WakeEvent, state: sending State) {
            self.wake = wake
            self.state = Monitor(state)
        }

        deinit {
            state.withLock { state in
                state.incoming.deallocate()
                state.outgoing.deallocate()
            }
        }
    }

    /// The thread's side: the only one that touches libssh.
    @safe final class Owner: @unchecked Sendable {
        // @unchecked: made on one thread, then used by the connection's own thread alone.
        private let connection: OpaquePointer
        private let shared: Shared
        private let hostName: String
        private let command: String
        private var errorLines: ErrorLines
        /// What waited to be sent when it was last tried.
        private var outgoingSeen = 0

        @unsafe init(
            connection: OpaquePointer, shared: Shared, hostName: String, command: String,
            onErrorLine: @escaping @Sendable (String) -> Void
        ) {
            unsafe self.connection = connection
            self.shared = shared
            self.hostName = hostName
            self.command = command
            errorLines = ErrorLines(report: onErrorLine)
        }

        func run() {
            while !shared.state.withLock({ $0.isClosing }) {
                let moved = moveOut() + moveIn()
                takeErrors()
                if moved == 0 { sleep() }
            }
            drain()
            takeErrors()
            errorLines.end()
            unsafe cssh_free(connection)
            shared.state.change { $0.hasEnded = true }
        }

        /// Until something can be moved again.
        private func sleep() {
            let mustWait = shared.state.withLock { state in
                state.isOwnerAsleep = !state.isClosing && state.outgoing.count == outgoingSeen
                return state.isOwnerAsleep
            }
            guard mustWait else { return }
            if shared.state.withLock({ $0.isOver }) {
                // Nothing happens on a dead connection, and libssh would not wait for it.
                var entries = [PollEntry(shared.wake.descriptor, .readable)]
                _ = try? pollDescriptors(&entries, deadlineMilliseconds: nil)
            } else {
                _ = unsafe cssh_wait(connection, shared.wake.descriptor, -1)
            }
            shared.wake.clear()
            shared.state.withLock { $0.isOwnerAsleep = false }
        }

        private func moveOut() -> Int {
            let region = unsafe shared.state.withLock { state in
                outgoingSeen = state.outgoing.count
                return unsafe UnsafeMutableRawBufferPointer(mutating: state.outgoing.readable)
            }
            guard region.count > 0 else { return 0 }
            let count = unsafe cssh_write(connection, region.baseAddress, UInt64(region.count))
            guard count > 0 else { return 0 }
            shared.state.change { $0.outgoing.drain(Int(count)) }
            return Int(count)
        }

        private func moveIn() -> Int {
            let region = unsafe shared.state.withLock { unsafe $0.incoming.writable }
            guard region.count > 0 else { return 0 }
            let count = unsafe cssh_read(connection, region.baseAddress, UInt64(region.count))
            if count > 0 { shared.state.change { $0.incoming.fill(Int(count)) } }
            if count < 0 { end() }
            return max(0, Int(count))
        }
    }
}

extension SSHStream.Owner {
    /// The stream is over: finds out why, once.
    private func end() {
        guard !shared.state.withLock({ $0.isOver }) else { return }
        // The exit status comes after the end of the output, if the far side lives.
        let time = SystemTime()
        let deadline = time.monotonic() + 2_000_000_000
        while unsafe cssh_is_closed(connection) == 0, time.monotonic() < deadline {
            guard unsafe cssh_wait(connection, shared.wake.descriptor, 100) == 0 else { break }
            shared.wake.clear()
        }
        takeErrors()
        errorLines.end()
        let status = unsafe cssh_exit_status(connection)
        let failure = failure(status: status)
        shared.state.change { state in
            if let failure { state.failure = failure } else { state.hasEnded = true }
        }
    }

    private func failure(status: Int32) -> TransportError? {
        let said = errorLines.last.isEmpty ? "" : ": \(errorLines.last)"
        switch status {
        case 0: return nil
        case -1:
            let reason = unsafe String(cString: cssh_error(connection))
            return TransportError(
                .closed, "the connection to \(hostName) was lost\(said.isEmpty ? ": \(reason)" : said)")
        case 126, 127:
            return TransportError(
                .commandFailed,
                "'\(command)' cannot be run at \(hostName)\(said). Install godwit there, "
                    + "or say in GODWIT_REMOTE_COMMAND what to run"
            )
        case 128...:
            return TransportError(.closed, "'\(command)' at \(hostName) was killed (status \(status))\(said)")
        default:
            return TransportError(.commandFailed, "'\(command)' at \(hostName) ended with status \(status)\(said)")
        }
    }

    /// Before closing: what was written shall arrive, if the far side takes it.
    private func drain() {
        let time = SystemTime()
        let patience = UInt64(SSHStream.closeMilliseconds) * 1_000_000
        var deadline = time.monotonic() + patience
        while time.monotonic() < deadline {
            if moveOut() > 0 { deadline = time.monotonic() + patience }
            let isEmpty = shared.state.withLock { $0.outgoing.isEmpty }
            if unsafe isEmpty && cssh_is_flushed(connection) != 0 { return }
            guard unsafe cssh_is_closed(connection) == 0,
                unsafe cssh_wait(connection, shared.wake.descriptor, 100) == 0
            else { return }
            shared.wake.clear()
        }
    }

    private func takeErrors() {
        unsafe withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { memory in
            while true {
                let count = unsafe cssh_read_errors(connection, memory.baseAddress, UInt64(memory.count))
                guard count > 0 else { return }
                unsafe errorLines.take(UnsafeRawBufferPointer(rebasing: memory[..<Int(count)]))
            }
        }
    }
}

/// Cuts a far side's error output into lines that are safe to print.
struct ErrorLines {
    private static let lineMax = 2000
    let report: @Sendable (String) -> Void
    private var line: [UInt8] = []
    /// The last line that was not empty.
    private(set) var last = ""

    init(report: @escaping @Sendable (String) -> Void) { self.report = report }

    mutating func take(_ bytes: UnsafeRawBufferPointer) {
        for index in bytes.indices {
            let byte = unsafe bytes[index]
            if byte == UInt8(ascii: "\n") {
                end()
            } else if line.count < Self.lineMax, byte >= 0x20 && byte != 0x7f || byte == UInt8(ascii: "\t") {
                // Others could tell a terminal what to do.
                line.append(byte)
            }
        }
    }

    mutating func end() {
        guard !line.isEmpty else { return }
        last = String(decoding: line, as: UTF8.self)
        line.removeAll(keepingCapacity: true)
        report(last)
    }
}
