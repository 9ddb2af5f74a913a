internal import ArgumentParser
internal import BackupStore
internal import ChunkTree
internal import Geometry

struct StoreStats: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stats", abstract: "Tell how much a store holds, and in how much space.")

    @Argument(help: .store, completion: .directory) var store: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        let opened = try StoreArgument(store, common.configuration()).open(writable: false, common)
        defer { opened.close() }
        let points = try opened.points()
        let packs = try opened.list(.pack)
        let indexes = try opened.list(.index)
        let report = StatsReport(
            store: opened.address, id: opened.info.uuid, chunkBytes: UInt64(opened.info.chunkBytes),
            points: points.count,
            disks: Set(points.map(\.content.disk)).count,
            virtualBytes: points.reduce(0) { $0 &+ $1.content.root.shape.byteCount },
            packs: packs.count, packBytes: packs.reduce(0) { $0 + $1.byteCount },
            indexBytes: indexes.reduce(0) { $0 + $1.byteCount }, freeBytes: try opened.freeBytes())
        try Report(common).result(report, report.lines)
    }
}

private struct StatsReport: Encodable {
    var store: String
    var id: String
    var chunkBytes: UInt64
    var points: Int
    var disks: Int
    /// Sizes of the disks of all points.
    var virtualBytes: UInt64
    var packs: Int
    var packBytes: UInt64
    var indexBytes: UInt64
    var freeBytes: UInt64?

    var lines: [String] {
        Report.columns([
            ["store", store],
            ["identity", id],
            ["chunks of", SizeText.format(chunkBytes)],
            ["points", "\(points) of \(disks) disks, \(SizeText.format(virtualBytes)) in all"],
            ["packs", "\(packs), \(SizeText.format(packBytes))"],
            ["index", SizeText.format(indexBytes)],
            ["free", freeBytes.map { SizeText.format($0) } ?? "unknown"],
        ])
    }
}
