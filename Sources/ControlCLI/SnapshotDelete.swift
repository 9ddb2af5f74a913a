internal import AgentCore
internal import ArgumentParser

struct SnapshotDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Drop a state: the changes after it are merged into it.",
        discussion: "The disk may be in use. When interrupted, the same command goes on where it stopped.")

    @Argument(help: .disk) var disk: String
    @Argument(help: ArgumentHelp("The snapshot, from 'godwit snapshot list'.", valueName: "snapshot")) var guid: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument.existing(disk, common.configuration())
        let progress = ProgressDisplay("merging", common, counts: .items)
        defer { progress.finish() }
        try Interruption.withCleanEnd {
            guard try translated({ try DiskSnapshots().delete(guid, of: disk.path, progress: progress.update) }) else {
                throw CommandFailure(.interrupted, "the merge of \(guid) was stopped: run the command again to go on")
            }
        }
        try Report(common).result(
            SnapshotReport(disk: disk.path, snapshots: [guid]), ["\(disk.path): snapshot \(guid) is merged"])
    }
}

/// What snapshot commands tell in JSON that do something with snapshots.
struct SnapshotReport: Encodable {
    var disk: String
    var snapshots: [String]
}
