internal import LinuxSystem
internal import SystemPackage

/// Runs one of the host's tools, which must succeed. - Returns: what it printed, without the last newline.
@discardableResult
func runCommand(
    _ program: String, _ arguments: [String], limitSeconds: Int = 60
) throws(AgentError) -> String {
    let result: ProgramResult
    do throws(SystemError) {
        // It must not go on with its work when nobody is left to make note of it.
        result = try ChildProcess.run(
            program, arguments, limit: 64 << 10, deadlineMilliseconds: limitSeconds * 1000, tie: .bound)
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

/// A program that is to go on after this process, and has yet to begin: it waits for the word. Until it has it, it ends
/// when this process does, so that nothing runs of which nobody has made note.
final class WaitingDaemon: Sendable {
    let child: ChildProcess
    /// Tells it from all other processes, before and after it has begun.
    let mark: ProcessMark
    private let word: OwnedDescriptor

    /// - Parameters:
    ///   - log: for its errors.
    ///   - output: its standard output; `nil`: the log.
    init(_ program: String, _ arguments: [String], log: String, output: CInt? = nil) throws(AgentError) {
        ignoreBrokenPipes()
        do throws(SystemError) {
            let log = try openLog(log)
            let word = try Pipe()
            // The shell becomes the program, and keeps its number and the time of its start.
            child = try ChildProcess(
                "/bin/sh",
                ["-c", "read -r word && exec \"$@\" < /dev/null", "sh", try programPath(program)] + arguments,
                input: .descriptor(word.reading.number), output: .descriptor(output ?? log.number),
                errors: .descriptor(log.number), tie: .ownSession)
            self.word = word.keepWriting()
        } catch {
            guard error.errno == .noSuchFileOrDirectory else { throw AgentError(error) }
            throw AgentError(.unsupported, "\(program) is not installed")
        }
        guard let mark = try ProcessMark(of: child) else {
            throw AgentError(.io, "\(program) ended before its start")
        }
        self.mark = mark
    }

    /// Gives the word: who it is has been noted.
    func begin() throws(AgentError) {
        try withAgentError { () throws(SystemError) in try word.writeAll(Array("begin\n".utf8)) }
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
