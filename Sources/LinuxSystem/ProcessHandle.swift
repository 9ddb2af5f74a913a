internal import CSystemShims
internal import Geometry
internal import SystemPackage

/// A process of this host that need not be a child, held so that its number can't become another's unnoticed.
public final class ProcessHandle: Sendable {
    public let identifier: Int32
    /// Clock ticks from boot to its start: with the number, a name that is never used again.
    public let startTicks: UInt64
    private let pidDescriptor: OwnedDescriptor

    /// - Parameter startTicks: the process's, when it is known.
    /// - Returns: `nil` when there is no such process, when it has ended, or when it is a later one of the same number.
    public init?(_ identifier: Int32, startTicks expected: UInt64? = nil) throws(SystemError) {
        let result = shim_pidfd_open(identifier)
        guard result >= 0 else { return nil }
        pidDescriptor = OwnedDescriptor(adopting: result)
        guard let found = try Self.startTicks(of: identifier), expected == nil || expected == found else { return nil }
        self.identifier = identifier
        startTicks = found
    }

    /// `nil` when it does not run.
    private static func startTicks(of identifier: Int32) throws(SystemError) -> UInt64? {
        // 12 (a name) S 1 … the 22nd field is the start; the name may hold spaces and parentheses.
        guard let text = try kernelText("/proc/\(identifier)/stat"), let nameEnd = text.lastIndex(of: ")") else {
            return nil
        }
        let fields = text[text.index(after: nameEnd)...].parts(between: " ")
        guard fields.count > 19, fields[0] != "Z", fields[0] != "X" else { return nil }
        return UInt64(fields[19])
    }

    /// Waits for its end. - Returns: `false` when it still runs after that time.
    public func waitForEnd(deadlineMilliseconds: Int?) throws(SystemError) -> Bool {
        var entries = [PollEntry(pidDescriptor.number, .readable)]
        guard try pollDescriptors(&entries, deadlineMilliseconds: deadlineMilliseconds) > 0 else { return false }
        // Nothing to do unless it is a child of this process.
        var code: CInt = 0
        _ = unsafe shim_wait(identifier, 0, &code)
        return true
    }

    /// Sends a signal; nothing happens when it has ended.
    public func send(_ signal: CInt) throws(SystemError) {
        let result = shim_pidfd_signal(pidDescriptor.number, signal)
        if result == -Errno.noSuchProcess.rawValue { return }
        _ = try check(result, "signal", "process \(identifier)")
    }

    /// Asks it to end, kills it when it has not after `graceMilliseconds`, and waits for its end.
    /// - Returns: `false` when even that had no effect in 10 s: it hangs in the kernel.
    @discardableResult
    public func stop(graceMilliseconds: Int) throws(SystemError) -> Bool {
        try send(Signal.terminate)
        if try waitForEnd(deadlineMilliseconds: graceMilliseconds) { return true }
        try send(Signal.kill)
        return try waitForEnd(deadlineMilliseconds: 10_000)
    }
}

/// Sends a signal to all processes of a group: that of a child which was started with `newGroup` and is not yet
/// awaited.
public func signalProcessGroup(_ group: Int32, _ signal: CInt) { _ = shim_kill(-group, signal) }
