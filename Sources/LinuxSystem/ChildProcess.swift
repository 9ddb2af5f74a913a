internal import CSystemShims
internal import Synchronization
internal import SystemPackage

/// Another program. It is killed and awaited when this is dropped before it ended, unless it was ``detach()``ed.
public final class ChildProcess: Sendable {
    /// Where a standard stream of the child leads.
    public enum Stream: Hashable, Sendable {
        case null
        /// This process's own.
        case inherited
        /// Lent until the child has started; the child gets a copy.
        case descriptor(CInt)
    }
    private enum State { case running, ended(CInt), detached }

    public let identifier: CInt
    public let program: String
    private let pidDescriptor: OwnedDescriptor
    private let state: Mutex<State>

    /// What the child has in common with this process.
    public enum Tie: Hashable, Sendable {
        /// What children have: the group, and so the terminal's Ctrl-C.
        case standard
        /// It leads a process group of its own.
        case ownGroup
        /// It leads a session of its own: what ends ours does not reach it.
        case ownSession
        /// It is killed when the thread that starts it ends, with its process or before.
        case bound
    }

    /// Starts `program`, which is looked for by ``programPath(_:)``.
    /// - Parameter environment: all of the child's variables; `nil`: this process's.
    public init(
        _ program: String, _ arguments: [String], environment: [String: String]? = nil, input: Stream = .null,
        output: Stream = .inherited, errors: Stream = .inherited, newGroup: Bool = false, tie: Tie? = nil
    ) throws(SystemError) {
        let file = try programPath(program)
        let variables = (environment ?? processEnvironment()).map { "\($0.key)=\($0.value)" }
        let result = unsafe withCStrings([program] + arguments) { argv in
            unsafe withCStrings(variables) { envp in
                unsafe shim_spawn(
                    file, argv, envp, input.number(or: 0), output.number(or: 1), errors.number(or: 2),
                    (tie ?? (newGroup ? .ownGroup : .standard)).flags)
            }
        }
        identifier = try check(result, "start", program)
        self.program = program
        let pidfd = shim_pidfd_open(identifier)
        if pidfd < 0 {
            var code: CInt = 0
            _ = shim_kill(identifier, Signal.kill)
            _ = unsafe shim_wait(identifier, 1, &code)
        }
        pidDescriptor = OwnedDescriptor(adopting: try check(pidfd, "watch", program))
        state = Mutex(.running)
    }

    /// Readable once the child has ended; lent.
    public var descriptor: CInt { pidDescriptor.number }

    /// Waits for its end.
    /// - Returns: its exit code, 128 + the signal that killed it; `nil` when it still runs after that time.
    public func wait(deadlineMilliseconds: Int?) throws(SystemError) -> CInt? {
        var entries = [PollEntry(descriptor, .readable)]
        guard try pollDescriptors(&entries, deadlineMilliseconds: deadlineMilliseconds) > 0 else { return nil }
        return try reap(wait: true)
    }

    /// Waits for its end, for ever. - Returns: its exit code, 128 + the signal that killed it.
    public func wait() throws(SystemError) -> CInt {
        guard let code = try wait(deadlineMilliseconds: nil) else {
            preconditionFailure("a wait for ever does not end early")
        }
        return code
    }

    /// The exit code of a child that has ended, without waiting.
    public func exitCode() throws(SystemError) -> CInt? { try reap(wait: false) }

    private func reap(wait: Bool) throws(SystemError) -> CInt? {
        let (result, code): (CInt, CInt?) = state.withLock { state in
            switch state {
            case .ended(let code): return (0, code)
            case .detached: return (-Errno.noChildProcess.rawValue, nil)
            case .running:
                var code: CInt = 0
                let result = unsafe shim_wait(identifier, wait ? 1 : 0, &code)
                if result > 0 { state = .ended(code) }
                return (result, result > 0 ? code : nil)
            }
        }
        _ = try check(result, "wait for", program)
        return code
    }

    /// Sends a signal; nothing happens when it has been awaited already, so its number can't be somebody else's.
    public func send(_ signal: CInt) throws(SystemError) {
        let result: CInt = state.withLock { state in
            if case .ended = state { return 0 }
            return shim_kill(identifier, signal)
        }
        _ = try check(result, "signal", program)
    }

    /// Asks it to end, kills it when it has not after `graceMilliseconds`, and awaits it.
    @discardableResult
    public func stop(graceMilliseconds: Int = 5000) throws(SystemError) -> CInt {
        try send(Signal.terminate)
        if let code = try wait(deadlineMilliseconds: graceMilliseconds) { return code }
        try send(Signal.kill)
        return try wait()
    }

    /// Lets it live on after this is dropped, and after this process.
    public func detach() {
        state.withLock { state in
            if case .running = state { state = .detached }
        }
    }

    /// How long a process that was killed may take to end. One that hangs in the kernel is left to it then: who drops
    /// it may hold locks that others wait for.
    static let killedMilliseconds = 5000

    deinit {
        guard case .running = state.withLock({ $0 }) else { return }
        var code: CInt = 0
        _ = shim_kill(identifier, Signal.kill)
        var entries = [PollEntry(pidDescriptor.number, .readable)]
        guard (try? pollDescriptors(&entries, deadlineMilliseconds: Self.killedMilliseconds)) ?? 0 > 0 else { return }
        _ = unsafe shim_wait(identifier, 1, &code)
    }
}

extension ChildProcess.Tie {
    fileprivate var flags: UInt32 {
        switch self {
        case .standard: 0
        case .ownGroup: SHIM_SPAWN_GROUP
        case .ownSession: SHIM_SPAWN_SESSION
        case .bound: SHIM_SPAWN_BOUND
        }
    }
}

extension ChildProcess.Stream {
    fileprivate func number(or inherited: CInt) -> CInt {
        switch self {
        case .null: -1
        case .inherited: inherited
        case .descriptor(let descriptor): descriptor
        }
    }
}

/// Lends `strings` as C wants a list of arguments: pointers with a null one at the end.
private func withCStrings<R>(
    _ strings: [String], _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> R
) -> R {
    var bytes: [CChar] = []
    var starts: [Int] = []
    for string in strings {
        starts.append(bytes.count)
        bytes += string.utf8.map { CChar(bitPattern: $0) }
        bytes.append(0)
    }
    return unsafe bytes.withUnsafeMutableBufferPointer { memory in
        var pointers: [UnsafeMutablePointer<CChar>?] = unsafe starts.map { start in
            unsafe memory.baseAddress.map { unsafe $0 + start }
        }
        unsafe pointers.append(nil)
        return unsafe pointers.withUnsafeBufferPointer { list in
            guard let first = list.baseAddress else { preconditionFailure("the list has at least its end") }
            return unsafe body(first)
        }
    }
}
