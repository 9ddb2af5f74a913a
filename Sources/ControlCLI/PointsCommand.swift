internal import AgentCore
internal import ArgumentParser
internal import BackupStore
internal import ChunkTree
internal import Codecs
internal import Geometry
internal import LinuxSystem

struct PointsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "points", abstract: "List the restore points of a store, oldest first.")

    @Option(help: .store, completion: .directory) var store: String
    @Option(help: ArgumentHelp("Only points of this disk, by its name or identity.", valueName: "disk"))
    var disk: String?
    @OptionGroup var common: CommonOptions

    func run() throws {
        let opened = try StoreArgument(store, common.configuration()).open(writable: false, common)
        defer { opened.close() }
        var bad: [BadPoint] = []
        var points = try opened.points { bad.append(BadPoint($0, $1)) }
        let names = Set(points.map(\.content.name)).sorted()
        if let disk { points = points.filter { $0.content.name.isSame(as: disk) || $0.content.disk == disk } }
        let now = SystemTime().realtime()
        let all = points.map { PointReport($0, at: now) }
        // The last of a disk is really the last: a time that can't be is no later than any other.
        let reports = all.filter(\.isFromFuture) + all.filter { !$0.isFromFuture }
        var rows = [["POINT", "DISK", "SIZE", "READ", "NEW", "STORED", "KIND"]]
        for report in reports {
            rows.append([
                report.id, report.name, SizeText.format(report.sizeBytes), SizeText.format(report.readBytes),
                SizeText.format(report.newBytes), SizeText.format(report.storedBytes),
                report.mode + (report.isFromFuture ? ", from the future" : ""),
            ])
        }
        let others =
            disk == nil || names.isEmpty
            ? "" : " of a disk of that name; there are some of \(names.joined(separator: ", "))"
        let lines = reports.isEmpty ? ["no points\(others)"] : Report.columns(rows)
        try Report(common).result(PointList(points: reports, badPoints: bad), lines + bad.map(\.line))
        try BadPoint.fail(bad, in: opened.address)
    }
}

private struct PointList: Encodable {
    var points: [PointReport]
    var badPoints: [BadPoint]
}

/// A restore point that can't be listed: damaged, of a later version, or not to be read.
struct BadPoint: Encodable {
    var id: String
    var code: String
    var message: String

    init(_ id: String, _ error: StoreError) {
        self.id = id
        code = CommandFailure(error).status.name
        message = error.message
    }

    var line: String { "\(id)  \(message)" }

    /// Ends the command when there are some: what is good has been reported.
    static func fail(_ bad: [BadPoint], in store: String) throws(CommandFailure) {
        guard !bad.isEmpty else { return }
        let isDamaged = bad.contains { $0.code == ExitStatus.corrupt.name }
        let isUnreadable = bad.contains { $0.code == ExitStatus.inputOutput.name }
        throw CommandFailure(
            isDamaged ? .corrupt : isUnreadable ? .inputOutput : .unsupported,
            "\(bad.count) points of \(store) could not be listed; the others are not touched by that: see 'godwit "
                + "store verify'")
    }
}

/// What `points` tells of one of them.
struct PointReport: Encodable {
    var id: String
    /// The disk's identity, and what it is called.
    var disk: String
    var name: String
    /// Nanoseconds since 1970-01-01 UTC.
    var timeNanoseconds: UInt64
    /// Its time can't be: it is of a clock that was ahead. It comes before all others.
    var isFromFuture: Bool
    var sizeBytes: UInt64
    /// The digest of the content: disks of one size and content have the same one, in every store, and in a migration
    /// whose chunks are as large as a store's.
    var digest: String
    var parent: String?
    var snapshot: String
    /// `full` or `incremental`: how it was made. Every point is whole.
    var mode: String
    var readBytes: UInt64
    var newBytes: UInt64
    var storedBytes: UInt64

    init(_ point: RestorePoint, at now: UInt64) {
        let content = point.content
        id = point.id
        disk = content.disk
        name = content.name
        timeNanoseconds = content.time
        isFromFuture = point.isFromFuture(at: now)
        sizeBytes = content.root.shape.byteCount
        digest = content.root.digest.description
        parent = content.parent
        snapshot = content.snapshot
        mode = content.statistics["incremental"] == 1 ? "incremental" : "full"
        readBytes = content.statistics["bytes-read"] ?? 0
        newBytes = content.statistics["bytes-new"] ?? 0
        storedBytes = content.statistics["bytes-stored"] ?? 0
    }
}
