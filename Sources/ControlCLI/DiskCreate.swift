internal import ArgumentParser
internal import BlockIO
internal import DiskImage
internal import Geometry
internal import ImageFormat

struct DiskCreate: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "create", abstract: "Make a new, empty disk.")

    @Argument(help: ArgumentHelp("The disk's folder; made when missing.", valueName: "folder"), completion: .directory)
    var folder: String
    @Option(help: ArgumentHelp("Size of the disk, such as 8G; rounded up to whole clusters.", valueName: "size"))
    var size: SizeArgument
    @Option(help: ArgumentHelp("Cluster size, a power of two from 32K to 64M; 1M if not given.", valueName: "size"))
    var cluster: ClusterArgument?
    @Option(help: ArgumentHelp("Image format, 1 or 2; 2 if not given.", valueName: "version"))
    var imageVersion: ImageVersionArgument?
    @Flag(help: "Reserve all the space at once.") var preallocated = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        var options = CreateOptions(byteCount: size.bytes)
        if let cluster { options.clusterSize = cluster.size }
        if let imageVersion { options.version = imageVersion.version }
        options.isPreallocated = preallocated
        let files = LinuxFileSystem()
        try createDisk(at: folder, options: options, in: files)
        let info = DiskReport(try diskInfo(at: folder, in: files))
        try Report(common).result(info, ["\(info.path): \(SizeText.format(info.sizeBytes)), \(info.kind)"])
    }
}

/// A cluster size on the command line.
struct ClusterArgument: ExpressibleByArgument, Hashable {
    var size: ClusterSize

    init?(argument: String) {
        guard let bytes = SizeText.parse(argument), let size = ClusterSize(bytes: bytes) else { return nil }
        self.size = size
    }
}

/// A version of the image format on the command line.
struct ImageVersionArgument: ExpressibleByArgument, Hashable {
    var version: ImageVersion

    init?(argument: String) {
        guard let number = Int(argument), let version = ImageVersion(rawValue: number) else { return nil }
        self.version = version
    }
}
