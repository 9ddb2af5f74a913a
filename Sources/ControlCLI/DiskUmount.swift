internal import AgentCore
internal import ArgumentParser

struct DiskUmount: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "umount", abstract: "Unmount a disk and remove its block device; it stays attached.")

    @Argument(help: .image, completion: .file()) var disk: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument(disk, common.configuration())
        try DeviceAttachments().unmount(disk.path)
        try Report(common).result(DoneReport(disk: disk.path), ["\(disk.path) is unmounted"])
    }
}
