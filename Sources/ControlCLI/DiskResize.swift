internal import AgentAPI
internal import AgentCore
internal import ArgumentParser
internal import BlockIO
internal import DiskImage
internal import Geometry

struct DiskResize: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resize", abstract: "Make a disk larger, also while it is in use.",
        discussion: "The file system on it is not changed: use resize2fs(8) or its like afterwards.")

    @Argument(help: .disk, completion: .directory) var disk: String
    @Option(help: ArgumentHelp("The new size, such as 20G; rounded up to whole clusters.", valueName: "size"))
    var size: SizeArgument
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument.existing(disk, common.configuration())
        let attachments = DeviceAttachments()
        let grown: UInt64
        if try attachments.attached(disk.path) != nil {
            _ = try attachments.control(disk.path).call(.grow(bytes: size.bytes))
            guard case .status(let status) = try attachments.control(disk.path).call(.status) else {
                throw CommandFailure(
                    .peerProtocol, "the server of \(disk.path) does not tell its size: attach it again")
            }
            grown = status.sizeBytes
        } else {
            let opened = try Disk.open(disk.path, in: LinuxFileSystem())
            try opened.grow(to: size.bytes)
            grown = opened.byteCount
            try opened.close()
        }
        var report = ResizeReport(disk: disk.path, sizeBytes: grown)
        var lines = ["\(disk.path) has \(SizeText.format(grown)) now"]
        if let device = try attachments.fixedDevice(disk.path), device.sizeBytes < grown {
            report.device = device.path
            report.deviceSizeBytes = device.sizeBytes
            lines.append(
                "\(device.path) keeps its \(SizeText.format(device.sizeBytes)) until it is made anew: "
                    + "'godwit disk umount', and 'godwit disk mount' again")
        }
        try Report(common).result(report, lines)
    }
}

private struct ResizeReport: Encodable {
    var disk: String
    var sizeBytes: UInt64
    /// A block device that does not follow, and the size that it keeps.
    var device: String?
    var deviceSizeBytes: UInt64?
}
