internal import AgentCore
internal import ArgumentParser
internal import Geometry

struct SnapshotCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Freeze the state of disks, all at one instant.",
        discussion: "Mounted file systems are frozen for the switch, so that the state is as after a clean sync.")

    @Argument(help: .disk, completion: .directory) var disks: [String]
    @Option(
        help: ArgumentHelp(
            "The file systems thaw by themselves after this time; limits.freeze of the configuration if not given.",
            valueName: "duration"))
    var freezeDeadline: DurationArgument?
    @OptionGroup var common: CommonOptions

    func run() throws {
        let configuration = try common.configuration()
        let named = try DiskArgument.existing(disks, configuration)
        let hooks = HookRunner(joining: named.map { $0.hooks(configuration) })
        let deadline = try DurationArgument.freeze(freezeDeadline, configuration)
        let results = try SnapshotCoordinator(hooks: hooks).snapshot(
            named.map(\.path), freezeDeadlineMilliseconds: deadline)
        let lines = results.map { result in
            let frozen = DurationText.format(nanoseconds: result.freezeNanoseconds)
            let switched = DurationText.format(nanoseconds: result.switchNanoseconds)
            return "\(result.disk): snapshot \(result.guid), frozen for \(frozen), writes held for \(switched)"
                + (result.consistent ? "" : ", state as after a power cut")
        }
        try Report(common).result(["snapshots": results], lines)
    }
}
