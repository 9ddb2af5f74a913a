internal import ArgumentParser
internal import BlockIO
internal import DiskImage
internal import Geometry

struct DiskImport: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "import", abstract: "Make a disk from a raw file or any ploop image.",
        discussion: "Holes and zeros of the source take no space in the disk.")

    @Argument(help: "A raw file, a ploop image of any kind, or another disk; it is only read.", completion: .file())
    var file: String
    @Argument(
        help: ArgumentHelp("The new disk's folder; made when missing.", valueName: "folder"), completion: .directory)
    var folder: String
    @Option(help: ArgumentHelp("Cluster size, from 32K to 64M; the source's or 1M if not given.", valueName: "size"))
    var cluster: ClusterArgument?
    @Option(help: ArgumentHelp("Image format, 1 or 2; 2 if not given.", valueName: "version"))
    var imageVersion: ImageVersionArgument?
    @Flag(help: "Take the file for the plain content of a disk, whatever it looks like.") var raw = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        try Transfer.refuseStandardStream(file)
        var options = ImportOptions(clusterSize: cluster?.size)
        if let imageVersion { options.version = imageVersion.version }
        options.isRaw = raw
        let report = try Transfer.run("importing", common) { progress throws(DiskError) in
            try importImage(from: file, to: folder, options: options, in: LinuxFileSystem(), progress: progress)
        }
        try Transfer.tell(report, from: file, to: folder, common)
    }
}

/// What import and export have in common.
enum Transfer {
    static func run(
        _ label: String, _ common: CommonOptions, _ body: (TransferProgress) throws(DiskError) -> TransferReport
    ) throws(CommandFailure) -> TransferReport {
        let display = ProgressDisplay(label, common)
        defer { display.finish() }
        return try translated { try Interruption.withCleanEnd { try body(display.update) } }
    }

    static func refuseStandardStream(_ file: String) throws(CommandFailure) {
        guard file == "-" else { return }
        throw CommandFailure(
            .usage, "- is no file: standard input and output have no places to look up; use a file (./- if it is one)")
    }

    static func tell(
        _ report: TransferReport, from source: String, to target: String, _ common: CommonOptions
    ) throws(CommandFailure) {
        var lines = [
            "\(target): \(SizeText.format(report.byteCount)), of which \(SizeText.format(report.dataBytes)) are data"
        ]
        if report.byteCount != report.sourceBytes {
            lines.append(
                "\(source) has \(report.sourceBytes) bytes: the disk is rounded up to whole sectors, "
                    + "\(report.byteCount - report.sourceBytes) bytes more")
        }
        if report.clusterBytes > 0, report.byteCount % report.clusterBytes != 0 {
            lines.append(
                "\(report.byteCount) bytes are no whole clusters: the ploop driver does not take such a disk, "
                    + "the user backend does")
        }
        if report.danglingEntries > 0 {
            lines.append("\(source) was not closed: \(report.danglingEntries) clusters without data were read as zeros")
        }
        try Report(common).result(
            TransferResult(
                source: source, target: target, sizeBytes: report.byteCount, sourceBytes: report.sourceBytes,
                readBytes: report.readBytes,
                dataBytes: report.dataBytes, danglingEntries: report.danglingEntries), lines)
    }
}

private struct TransferResult: Encodable {
    var source: String
    var target: String
    var sizeBytes: UInt64
    var sourceBytes: UInt64
    var readBytes: UInt64
    var dataBytes: UInt64
    var danglingEntries: Int
}
