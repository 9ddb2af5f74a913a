internal import AgentCore
internal import ArgumentParser
internal import BlockIO
internal import DiskImage

struct SnapshotSwitch: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "switch", abstract: "Go back to a state: what was written since is dropped.",
        discussion: "The disk must not be in use. The state itself stays, and can be gone back to again.")

    @Argument(help: .disk, completion: .directory) var disk: String
    @Argument(help: ArgumentHelp("The snapshot, from 'godwit snapshot list'.", valueName: "snapshot")) var guid: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument.existing(disk, common.configuration())
        guard try DeviceAttachments().attached(disk.path) == nil else {
            throw CommandFailure(.inUse, "\(disk.path) is attached: detach it with 'godwit disk detach' first")
        }
        try switchSnapshot(of: disk.path, to: guid, in: LinuxFileSystem())
        try Report(common).result(
            SnapshotReport(disk: disk.path, snapshots: [guid]), ["\(disk.path) is as it was at snapshot \(guid)"])
    }
}
