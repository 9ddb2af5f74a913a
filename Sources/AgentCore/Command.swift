internal import AgentAPI
internal import BlockIO
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// How often the server of a disk is looked at while a tool waits for its device.
private let lookMilliseconds = 3000

/// Runs one of the host's tools, which must succeed. One that hangs in the kernel, and so can't be killed, is left.
/// - Parameter server: of the disk whose device the tool may wait for; when it gives no sign, or waits for space on the
///   host, neither will the device.
/// - Returns: what it printed, without the last newline.
/// - Throws: `.timeout` and `.outOfSpace`, besides others.
@discardableResult
func runCommand(
    _ program: String, _ arguments: [String], limitSeconds: Int = 60, server: ServerSign? = nil
) throws(AgentError) -> String {
    let words = ([program] + arguments).joined(separator: " ")
    var stall: AgentError?
    let result: ProgramResult
    do throws(SystemError) {
        // It must not go on with its work when nobody is left to make note of it.
        result = try ChildProcess.run(
            program, arguments, environment: plainEnvironment(), limit: 64 << 10,
            deadlineMilliseconds: limitSeconds * 1000, tie: .bound,
            lookMilliseconds: server == nil ? nil : lookMilliseconds
        ) {
            stall = server?.stall()
            return stall == nil
        }
    } catch {
        guard error.errno == .noSuchFileOrDirectory else { throw AgentError(error) }
        throw AgentError(.unsupported, "\(program) is not installed")
    }
    if result.isTimedOut, let stall {
        throw AgentError(
            stalled: stall.code,
            "'\(words)' waits for the disk's server, and is left to itself: \(stall). It goes on when the "
                + "server does; 'godwit disk detach --force' ends the server: what is not flushed is lost then")
    }
    guard !result.isTimedOut else { throw AgentError(.timeout, "'\(words)' did not end in \(limitSeconds) s") }
    guard result.exitCode == 0 else {
        let said = (result.errorText + result.outputText).parts(between: "\n").suffix(3).joined(separator: "; ")
        throw AgentError(.commandFailed, "'\(words)' failed (exit code \(result.exitCode)): \(said)")
    }
    var text = result.outputText
    if text.ends(with: "\n") { text.removeLast() }
    return text
}

/// This process's, with messages that can be told apart.
private func plainEnvironment() -> [String: String] {
    var variables = processEnvironment()
    variables["LC_ALL"] = "C"
    return variables
}

/// The signs of life of a disk's server.
struct ServerSign: Sendable {
    let controlSocket: String
    static let milliseconds: UInt64 = 10_000

    /// - Returns: `nil` when it answers, or has ended, so that nothing waits for it; else how it failed to.
    func silence() -> AgentError? {
        do throws(ControlError) { _ = try status() } catch {
            if error.code == ControlError.timeout { return AgentError(error) }
        }
        return nil
    }

    /// What waits is tried again each second: so long it may say that it waits for what is there already.
    private static let stallNanoseconds: UInt64 = 2_500_000_000
    private static let stallStepMilliseconds = 100

    /// - Returns: why what waits for its disk may wait for long; `nil`: it may not.
    func stall() -> AgentError? {
        let deadline = SystemTime().monotonic() + Self.stallNanoseconds
        while true {
            guard let stall = stallNow() else { return nil }
            guard stall.isPassing, SystemTime().monotonic() < deadline else { return stall.error }
            var none: [PollEntry] = []
            _ = try? pollDescriptors(&none, deadlineMilliseconds: Self.stallStepMilliseconds)
        }
    }

    private struct Stall {
        var error: AgentError
        /// It may be over the next time; a server that gives no sign has been waited for.
        var isPassing = true
    }

    private func stallNow() -> Stall? {
        do throws(ControlError) {
            let status = try status()
            if status.isOutOfSpace == true {
                return Stall(
                    error: AgentError(
                        .outOfSpace, "writes to the disk wait for space on the host, where its images are"))
            }
            guard let reason = status.waitsFor else { return nil }
            return Stall(error: AgentError(.timeout, "requests to the disk wait for its host (\(reason))"))
        } catch {
            return error.code == ControlError.timeout ? Stall(error: AgentError(error), isPassing: false) : nil
        }
    }

    private func status() throws(ControlError) -> DeviceStatus {
        try ControlClient.connect(controlSocket, silenceMilliseconds: Self.milliseconds).status()
    }

    /// - Throws: `.timeout` when it gives none.
    func expect(of disk: String) throws(AgentError) {
        guard let silence = silence() else { return }
        throw AgentError(
            .timeout,
            "\(disk): \(silence). End it with 'godwit disk detach --force' when waiting is no use: what is not flushed "
                + "is lost")
    }
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
            let path = try programPath(program)
            let file = PathText.isAbsolute(path) ? path : try LinuxFileSystem().resolve(path)
            let word = try Pipe()
            // The shell becomes the program, and keeps its number and the time of its start. It lives long, and is in
            // nobody's way: no file system is in use for having been where its command was given.
            child = try ChildProcess(
                "/bin/sh",
                ["-c", "cd / && read -r word && exec \"$@\" < /dev/null", "sh", file] + arguments,
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
