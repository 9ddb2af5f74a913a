internal import AgentCore
internal import ArgumentParser
internal import BlockIO
internal import DiskImage

struct DiskInfoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "info", abstract: "Tell what a disk or an image is; it may be in use.")

    @Argument(help: .image, completion: .file()) var disk: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument.existing(disk, common.configuration())
        let info = try diskInfo(at: disk.path, in: LinuxFileSystem())
        let isAttached = try DeviceAttachments().attached(disk.path) != nil
        let report = DiskReport(info, isAttached: isAttached)
        try Report(common).result(report, report.lines)
    }
}
