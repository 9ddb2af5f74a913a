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
        var bad: [BadPoint] = []
        let points = try opened.points { bad.append(BadPoint($0, $1)) }
        let packs = try opened.list(.pack)
        let indexes = try opened.list(.index)
        let report = StatsReport(
            store: opened.address, id: opened.info.uuid, chunkBytes: UInt64(opened.info.chunkBytes),
            points: points.count,
            disks: Set(points.map(\.content.disk)).count,
            virtualBytes: Self.sum(points.map(\.content.root.shape.byteCount)),
            packs: packs.count, packBytes: Self.sum(packs.map(\.byteCount)),
            indexBytes: Self.sum(indexes.map(\.byteCount)), freeBytes: try opened.freeBytes(), badPoints: bad)
        try Report(common).result(report, report.lines + bad.map(\.line))
        try BadPoint.fail(bad, in: opened.address)
    }
}

extension StoreStats {
    /// A store's figures may be a peer's word.
    private static func sum(_ counts: [UInt64]) -> UInt64 {
        counts.reduce(0) { sum, count in
            let (next, overflow) = sum.addingReportingOverflow(count)
            return overflow ? .max : next
        }
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
    var badPoints: [BadPoint]

    var lines: [String] {
        Report.columns([
            ["store", store],
            ["identity", id],
            ["chunks of", SizeText.format(chunkBytes)],
            ["points", "\(points) of \(disks) disks, \(SizeText.format(virtualBytes)) if all were restored"],
            ["packs", "\(packs), \(SizeText.format(packBytes))"],
            ["index", SizeText.format(indexBytes)],
            ["free", freeBytes.map { SizeText.format($0) } ?? "unknown"],
        ])
    }
}
