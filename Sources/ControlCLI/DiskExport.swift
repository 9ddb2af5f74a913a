internal import ArgumentParser
internal import BlockIO
internal import DiskImage

struct DiskExport: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Write the content of a disk or an image to a sparse raw file.",
        discussion: "The disk must not be in use.")

    @Argument(help: .image, completion: .file()) var disk: String
    @Argument(help: "The raw file, which must not exist yet, or a block device.", completion: .file()) var file: String
    @Flag(help: "Write over what is on the block device.") var overwrite = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        try Transfer.refuseStandardStream(file)
        let disk = try DiskArgument.existing(disk, common.configuration())
        let report = try Transfer.run("exporting", common) { progress throws(DiskError) in
            try exportImage(
                from: disk.path, to: file, overwrites: overwrite, in: LinuxFileSystem(), progress: progress)
        }
        try Transfer.tell(report, from: disk.path, to: file, common)
    }
}
