public import LinuxSystem

/// A tool that ended with a failure.
public struct ToolFailure: Error, CustomStringConvertible {
    public var command: [String]
    public var result: ProgramResult

    public init(command: [String], result: ProgramResult) {
        self.command = command
        self.result = result
    }

    public var description: String {
        "\(command.joined(separator: " ")): exit code \(result.exitCode)\(result.isTimedOut ? " (timed out)" : "")\n"
            + result.outputText.suffix(2000) + result.errorText.suffix(2000)
    }
}

/// Runs another program to its end, at most two minutes unless told otherwise. Its exit code is the caller's to judge.
@discardableResult
public func runTool(
    _ program: String, _ arguments: String..., environment: [String: String]? = nil, input: [UInt8]? = nil,
    deadlineMilliseconds: Int = 120_000
) throws -> ProgramResult {
    try ChildProcess.run(
        program, arguments, environment: environment, input: input, deadlineMilliseconds: deadlineMilliseconds)
}

/// Runs another program, which must succeed. - Returns: what it printed.
@discardableResult
public func expectTool(
    _ program: String, _ arguments: String..., environment: [String: String]? = nil, input: [UInt8]? = nil,
    deadlineMilliseconds: Int = 120_000
) throws -> String {
    let result = try ChildProcess.run(
        program, arguments, environment: environment, input: input, deadlineMilliseconds: deadlineMilliseconds)
    guard result.exitCode == 0 else { throw ToolFailure(command: [program] + arguments, result: result) }
    return result.outputText
}

/// Whether a program is there: the condition of tests that need it.
public func hasTool(_ program: String) -> Bool {
    let result = try? ChildProcess.run("sh", ["-c", "command -v \"$1\"", "sh", program])
    return result?.exitCode == 0
}

/// Whether this user may mount, freeze and lock memory.
public let isRoot: Bool = (try? ChildProcess.run("id", ["-u"]).outputText) == "0\n"

/// Root and a loop device: what tests that mount need.
public let canMountLoop: Bool = isRoot && (try? ChildProcess.run("losetup", ["-f"]).exitCode) == 0
