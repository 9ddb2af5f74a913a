internal import ArgumentParser
internal import Backup
internal import BackupStore
internal import Geometry

struct StoreVerify: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Check everything in a store.",
        discussion: "Reads the whole store. Exit status 12 tells of damage.")

    @Argument(help: .store, completion: .directory) var store: String
    @Flag(help: "Check stored bytes only, without unpacking them.") var quick = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        let opened = try StoreArgument(store, common.configuration()).open(writable: false, common)
        defer { opened.close() }
        var job = VerifyJob()
        job.isQuick = quick
        let display = ProgressDisplay("verifying", common)
        defer { display.finish() }
        let found = try Interruption.withCleanEnd { try job.run(store: opened, progress: display.update) }
        display.finish()
        let report = VerifyResult(store: opened.address, found)
        try Report(common).result(report, report.lines)
        guard found.isSound else {
            throw CommandFailure(
                .corrupt,
                "\(opened.address) is damaged, \(found.problemCount) problems, \(found.damagedPoints.count) of "
                    + "\(found.points) points can't be restored in whole: keep it, and back up to a new store")
        }
    }
}

private struct VerifyResult: Encodable {
    var store: String
    var isSound: Bool
    var points: Int
    var damagedPoints: [String]
    var packs: Int
    var unusedPacks: Int
    var chunks: UInt64
    var nodes: UInt64
    var readBytes: UInt64
    var problems: [String]
    var problemCount: Int
    var durationNanoseconds: UInt64

    init(store: String, _ report: VerifyReport) {
        self.store = store
        isSound = report.isSound
        points = report.points
        damagedPoints = report.damagedPoints
        packs = report.packs
        unusedPacks = report.unusedPacks
        chunks = report.chunks
        nodes = report.nodes
        readBytes = report.bytesRead
        problems = report.problems
        problemCount = report.problemCount
        durationNanoseconds = report.durationNanoseconds
    }

    var lines: [String] {
        var lines = problems
        if problemCount > problems.count { lines.append("and \(problemCount - problems.count) more problems") }
        lines += damagedPoints.map { "point \($0) can't be restored in whole" }
        lines.append(
            "\(store): \(points) points, \(chunks) chunks and \(nodes) nodes in \(packs) packs, "
                + "\(SizeText.format(readBytes)) read in \(DurationText.format(nanoseconds: durationNanoseconds)): "
                + (isSound ? "sound" : "damaged"))
        return lines
    }
}
