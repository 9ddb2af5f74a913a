internal import ArgumentParser
internal import Backup
internal import BackupStore
internal import Geometry

struct StoreVerify: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify", abstract: "Check everything in a store.",
        discussion: "Reads the whole store. Exit status 12 tells of damage, 15 of what can't be read.")

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
        guard !found.isSound else { return }
        let count =
            "\(found.problemCount) problems, \(found.damagedPoints.count) of \(found.points) points can't be "
            + "restored in whole"
        guard found.problemCount > found.unreadableCount else {
            throw CommandFailure(
                .inputOutput,
                "parts of \(opened.address) can't be read, \(count): see to its medium, and verify it again")
        }
        throw CommandFailure(
            .corrupt,
            "\(opened.address) is damaged, \(count): run 'godwit store repair' where the store is; the next backups "
                + "store again what they still find")
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
    /// Of the problems, those that tell of what could not be read.
    var unreadableCount: Int
    /// Nothing new is built on what is damaged.
    var isNoted: Bool
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
        unreadableCount = report.unreadableCount
        isNoted = report.isNoted
        durationNanoseconds = report.durationNanoseconds
    }

    private static let linesMax = 20

    var lines: [String] {
        var lines = Array(problems.prefix(Self.linesMax))
        if problemCount > lines.count {
            lines.append("and \(problemCount - lines.count) more problems: --json lists the first thousand")
        }
        lines += damagedPoints.map { "point \($0) can't be restored in whole" }
        if unusedPacks > 0 { lines.append("\(unusedPacks) packs are in no index; the next backup uses them") }
        lines.append(
            "\(store): \(points) points, \(chunks) chunks and \(nodes) nodes in \(packs) packs, "
                + "\(SizeText.format(readBytes)) read in \(DurationText.format(nanoseconds: durationNanoseconds)): "
                + (isSound ? "sound" : "damaged"))
        return lines
    }
}
