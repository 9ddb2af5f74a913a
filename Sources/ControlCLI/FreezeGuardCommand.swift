internal import AgentCore
internal import ArgumentParser

/// Not for people: the process that thaws file systems whatever happens to who froze them.
struct FreezeGuardCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "internal-freeze-guard", abstract: "Holds file systems frozen for another godwit process.",
        shouldDisplay: false)

    @Option var deadline: DurationArgument
    /// The process that thaws when the guard can't.
    @Flag var watch = false
    @Argument var mountpoints: [String]

    func run() throws {
        let code =
            watch
            ? FreezeGuard.watch(mountpoints: mountpoints, deadlineMilliseconds: deadline.milliseconds)
            : FreezeGuard.run(mountpoints: mountpoints, deadlineMilliseconds: deadline.milliseconds)
        if code != 0 { throw ExitCode(code) }
    }
}
