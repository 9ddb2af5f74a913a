internal import AgentAPI
internal import AgentCore
internal import ArgumentParser
internal import Geometry

struct SnapshotList: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "Show the states of a disk.")

    @Argument(help: .disk, completion: .directory) var disk: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument.existing(disk, common.configuration())
        let snapshots = try translated { try DiskSnapshots().list(disk.path) }
        var rows = [["SNAPSHOT", "PARENT", "ON HOST", "FILE", ""]]
        for snapshot in snapshots {
            let kind = snapshot.isTop ? "top" : snapshot.isTemporary ? "temporary" : ""
            rows.append([
                snapshot.guid, snapshot.parent ?? "-", SizeText.format(snapshot.allocatedBytes), snapshot.file, kind,
            ])
        }
        try Report(common).result(["snapshots": snapshots], Report.columns(rows))
    }
}
