internal import AgentAPI
internal import AgentCore
internal import ArgumentParser

struct SnapshotDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete", abstract: "Drop a state: the changes after it are merged into it.",
        discussion: "The disk may be in use. When interrupted, the same command goes on where it stopped.")

    @Argument(help: .disk, completion: .directory) var disk: String
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
        // It may have been typed without braces, or in capitals.
        let name = guid.filter { $0 != "{" && $0 != "}" }.lowercased()
        let isLeft = try translated { try DiskSnapshots().list(disk.path) }.contains { $0.guid.contains(name) }
        try Report(common).result(
            SnapshotReport(disk: disk.path, snapshots: isLeft ? [] : [guid], needed: isLeft ? [guid] : []),
            [
                isLeft
                    ? "\(disk.path): several states lie on snapshot \(guid), which goes when one of them is left"
                    : "\(disk.path): snapshot \(guid) is merged"
            ])
    }
}

/// What snapshot commands tell in JSON that do something with snapshots.
struct SnapshotReport: Encodable {
    var disk: String
    var snapshots: [String]
    /// Those that are to go, but that other states still lie on.
    var needed: [String] = []
}
