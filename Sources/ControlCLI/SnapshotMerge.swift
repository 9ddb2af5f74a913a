internal import AgentCore
internal import ArgumentParser

struct SnapshotMerge: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "merge", abstract: "Drop all states below the current one, so that a single image is left.",
        discussion: "The disk may be in use. When interrupted, the same command goes on where it stopped.")

    @Argument(help: .disk, completion: .directory) var disk: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument.existing(disk, common.configuration())
        var merged: [String] = []
        // Youngest first: each merge moves only what one delta holds, and the chain gets shorter from its busy end.
        let doomed = try SnapshotChain(translated { try DiskSnapshots().list(disk.path) }).belowTop
        for guid in doomed {
            let progress = ProgressDisplay("merging \(merged.count + 1) of \(doomed.count)", common, counts: .items)
            defer { progress.finish() }
            try Interruption.withCleanEnd {
                guard try translated({ try DiskSnapshots().delete(guid, of: disk.path, progress: progress.update) })
                else {
                    throw CommandFailure(
                        .interrupted, "the merge of \(guid) was stopped: run the command again to go on")
                }
            }
            merged.append(guid)
        }
        let left = try SnapshotChain(translated { try DiskSnapshots().list(disk.path) }).belowTop
        let done = merged.filter { !left.contains($0) }
        let what = "\(disk.path): \(done.count) snapshots merged"
        try Report(common).result(
            SnapshotReport(disk: disk.path, snapshots: done, needed: left),
            [
                left.isEmpty
                    ? what + ", one image is left"
                    : what + "; other states lie on \(left.joined(separator: ", ")), which goes when they do"
            ])
    }
}
