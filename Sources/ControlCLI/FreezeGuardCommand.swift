internal import AgentCore
internal import ArgumentParser
internal import LinuxSystem

/// Not for people: the process that thaws file systems whatever happens to who froze them.
struct FreezeGuardCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "internal-freeze-guard", abstract: "Holds file systems frozen for another godwit process.",
        shouldDisplay: false)

    @Option var deadline: DurationArgument
    /// The process that thaws when the guard can't.
    @Flag var watch = false
    /// See `FreezeTarget.argument`.
    @Argument var targets: [String]

    func run() throws {
        let targets = self.targets.compactMap { FreezeTarget(argument: $0) }
        guard targets.count == self.targets.count else {
            throw ValidationError("what is to be frozen is not understood")
        }
        let milliseconds = min(deadline.milliseconds, Configuration.Limits.freezeMillisecondsMax)
        let code =
            watch
            ? FreezeGuard.watch(targets, deadlineMilliseconds: milliseconds)
            : FreezeGuard.run(targets, deadlineMilliseconds: milliseconds)
        if code != 0 { throw ExitCode(code) }
    }
}
