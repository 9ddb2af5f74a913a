internal import LinuxSystem
internal import SystemPackage

/// Runs one of the host's tools, which must succeed. - Returns: what it printed, without the last newline.
@discardableResult
func runCommand(
    _ program: String, _ arguments: [String], limitSeconds: Int = 60
) throws(AgentError) -> String {
    let result: ProgramResult
    do throws(SystemError) {
        result = try ChildProcess.run(program, arguments, limit: 64 << 10, deadlineMilliseconds: limitSeconds * 1000)
    } catch {
        guard error.errno == .noSuchFileOrDirectory else { throw AgentError(error) }
        throw AgentError(.unsupported, "\(program) is not installed")
    }
    let words = ([program] + arguments).joined(separator: " ")
    guard !result.isTimedOut else { throw AgentError(.timeout, "'\(words)' did not end in \(limitSeconds) s") }
    guard result.exitCode == 0 else {
        let said = (result.errorText + result.outputText).split(separator: "\n").suffix(3).joined(separator: "; ")
        throw AgentError(.commandFailed, "'\(words)' failed (exit code \(result.exitCode)): \(said)")
    }
    var text = result.outputText
    if text.hasSuffix("\n") { text.removeLast() }
    return text
}

/// Starts one of the host's tools that goes on after this process, in a process group of its own.
/// - Parameter output: its standard output; `nil`: the log, as for its errors.
func startDaemon(
    _ program: String, _ arguments: [String], log: String, output: CInt? = nil
) throws(AgentError) -> ChildProcess {
    do throws(SystemError) {
        let log = try openLog(log)
        return try ChildProcess(
            program, arguments, input: .null, output: .descriptor(output ?? log.number),
            errors: .descriptor(log.number),
            newGroup: true)
    } catch {
        guard error.errno == .noSuchFileOrDirectory else { throw AgentError(error) }
        throw AgentError(.unsupported, "\(program) is not installed")
    }
}

extension ProcessMark {
    /// `nil` when the process has ended already.
    init?(of child: ChildProcess) throws(AgentError) {
        let handle = try withAgentError { () throws(SystemError) in try ProcessHandle(child.identifier) }
        guard let handle else { return nil }
        self.init(pid: handle.identifier, startTicks: handle.startTicks)
    }

    /// `nil` when it has ended.
    func handle() throws(AgentError) -> ProcessHandle? {
        try withAgentError { () throws(SystemError) in try ProcessHandle(pid, startTicks: startTicks) }
    }
}
