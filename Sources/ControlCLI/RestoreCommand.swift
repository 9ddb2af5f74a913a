internal import ArgumentParser
internal import Backup
internal import BackupStore
internal import BlockIO
internal import Geometry
internal import ImageFormat

struct RestoreCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore", abstract: "Make a disk or a raw file of a restore point.",
        discussion: "Every part is checked on the way. The target appears when it is whole and durable.")

    @Argument(help: "The restore point, from 'godwit points', or the beginning of its name that no other has.")
    var point: String
    @Option(help: .store, completion: .directory) var store: String
    @Option(
        name: .customLong("to"),
        help: ArgumentHelp("Make a disk in this folder, which must not exist or be empty.", valueName: "folder"),
        completion: .directory)
    var folder: String?
    @Option(help: ArgumentHelp("Make a sparse raw file, which must not exist.", valueName: "file"), completion: .file())
    var raw: String?
    @Option(help: ArgumentHelp("Cluster size of the disk, from 32K to 64M; 1M if not given.", valueName: "size"))
    var cluster: ClusterArgument?
    @Option(help: ArgumentHelp("Image format of the disk, 1 or 2; 2 if not given.", valueName: "version"))
    var imageVersion: ImageVersionArgument?
    @OptionGroup var common: CommonOptions

    func validate() throws {
        guard (folder == nil) != (raw == nil) else { throw ValidationError("give either --to or --raw") }
        guard folder != "-", raw != "-" else {
            throw ValidationError("a restore writes in no order, so not to a pipe: give a file")
        }
        guard raw == nil || (cluster == nil && imageVersion == nil) else {
            throw ValidationError("a raw file has neither clusters nor an image version: leave them out")
        }
    }

    func run() throws {
        let opened = try StoreArgument(store, common.configuration()).open(writable: false, common)
        defer { opened.close() }
        let found = try find(in: opened)
        let path = folder ?? raw ?? ""
        let target: RestoreTarget =
            raw != nil
            ? .raw(file: path)
            : .disk(folder: path, clusterSize: cluster?.size ?? .standard, version: imageVersion?.version ?? .v2)
        let display = ProgressDisplay("restoring", common)
        defer { display.finish() }
        let figures = try Interruption.withCleanEnd {
            try RestoreJob(point: found, target: target)
                .run(store: opened, in: LinuxFileSystem(), progress: display.update)
        }
        display.finish()
        let report = RestoreReport(point: found.id, target: path, figures)
        try Report(common).result(report, report.lines)
    }

    private func find(in store: any StoreBackend) throws -> RestorePoint {
        let names = try store.list(.point).map(\.name)
        let matches = names.contains(point) ? [point] : names.filter { $0.begins(with: point) }
        guard let name = matches.first, matches.count == 1, let found = try store.point(name) else {
            throw CommandFailure(
                matches.count > 1 ? .usage : .notFound,
                matches.count > 1
                    ? "\(matches.count) points in \(store.address) begin with \(point): give more of the name"
                    : "there is no point \(point) in \(store.address): see 'godwit points'")
        }
        return found
    }
}

private struct RestoreReport: Encodable {
    var point: String
    var target: String
    var sizeBytes: UInt64
    /// Bytes that are not zeros.
    var restoredBytes: UInt64
    /// Bytes read from the store.
    var readBytes: UInt64
    var digest: String
    var durationNanoseconds: UInt64
    var restoredBytesPerSecond: UInt64
    var peakMemoryBytes: UInt64

    init(point: String, target: String, _ figures: RestoreStatistics) {
        self.point = point
        self.target = target
        sizeBytes = figures.byteCount
        restoredBytes = figures.bytesRestored
        readBytes = figures.bytesRead
        digest = figures.rootDigest
        durationNanoseconds = figures.durationNanoseconds
        restoredBytesPerSecond = figures.bytesPerSecond
        peakMemoryBytes = figures.peakMemoryBytes
    }

    var lines: [String] {
        let duration = DurationText.format(nanoseconds: durationNanoseconds)
        return [
            "\(target): \(SizeText.format(sizeBytes)), \(SizeText.format(restoredBytes)) restored in \(duration), "
                + "\(SizeText.format(restoredBytesPerSecond))/s",
            "digest \(digest)",
        ]
    }
}
