public import LinuxSystem

/// Whether Debian's ploop tools are there.
public let hasPloop = hasTool("ploop")

/// Runs Debian's `ploop`. Its exit code is the caller's to judge.
///
/// `ploop init` copies a fixed-size block from its stack, past the end of what it means to; with a small environment
/// that runs off the top of the stack and it crashes. So it gets a large one.
@discardableResult
public func runPloop(_ arguments: String...) throws -> ProgramResult {
    var environment = ["PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"]
    for index in 0..<3 { environment["PADDING\(index)"] = String(repeating: "x", count: 100_000) }
    return try ChildProcess.run("ploop", arguments, environment: environment)
}

/// Runs Debian's `ploop`, which must succeed.
@discardableResult
public func expectPloop(_ arguments: String...) throws -> String {
    var environment = ["PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"]
    for index in 0..<3 { environment["PADDING\(index)"] = String(repeating: "x", count: 100_000) }
    let result = try ChildProcess.run("ploop", arguments, environment: environment)
    guard result.exitCode == 0 else { throw ToolFailure(command: ["ploop"] + arguments, result: result) }
    return result.outputText
}
