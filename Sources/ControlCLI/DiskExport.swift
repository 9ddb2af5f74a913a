internal import ArgumentParser
internal import BlockIO
internal import DiskImage

struct DiskExport: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "export", abstract: "Write the content of a disk or an image to a sparse raw file.",
        discussion: "The disk must not be in use.")

    @Argument(help: .image) var disk: String
    @Argument(help: "The raw file, which must not exist yet.", completion: .file()) var file: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument.existing(disk, common.configuration())
        let report = try Transfer.run("exporting", common) { progress throws(DiskError) in
            try exportImage(from: disk.path, to: file, in: LinuxFileSystem(), progress: progress)
        }
        try Transfer.tell(report, from: disk.path, to: file, common)
    }
}
