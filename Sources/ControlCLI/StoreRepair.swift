internal import ArgumentParser
internal import Backup
internal import BackupStore
internal import Geometry

struct StoreRepair: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "repair", abstract: "Make the index of a store anew, and set aside what is damaged.",
        discussion: "Backups may go on meanwhile. Nothing is deleted but index files that are replaced.")

    @Argument(help: .store, completion: .directory) var store: String
    @Flag(help: "Also set points aside that can't be restored in whole, when all of the store can be read.")
    var setAsideLostPoints = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        let opened = try StoreArgument(store, common.configuration()).open(writable: true, common)
        defer { opened.close() }
        let display = ProgressDisplay("repairing", common)
        defer { display.finish() }
        var job = RepairJob()
        job.setsLostPointsAside = setAsideLostPoints
        let outcome = try Interruption.withCleanEnd { try job.run(store: opened, progress: display.update) }
        display.finish()
        let report = RepairResult(store: opened.address, outcome)
        try Report(common).result(report, report.lines)
        if let failure = outcome.setAsideFailure {
            throw CommandFailure(
                CommandFailure(failure).status,
                "\(outcome.pointsSetAside.count) of \(outcome.damagedPoints.count) lost points of \(opened.address) "
                    + "are set aside, then: \(failure.message)")
        }
        guard outcome.damagedPoints.isEmpty else {
            throw CommandFailure(
                .corrupt,
                "\(outcome.damagedPoints.count) of \(outcome.points) points of \(opened.address) can't be restored in "
                    + "whole; the next backups store again what they still find"
                    + (setAsideLostPoints ? "" : ", and --set-aside-lost-points takes out what stays lost"))
        }
        guard outcome.repair.unreadable.isEmpty else {
            throw CommandFailure(
                .inputOutput,
                "\(outcome.repair.unreadable.count) parts of \(opened.address) can't be read and are left where they "
                    + "are: see to its medium, and repair it again")
        }
        // Of damaged points it was told above.
        guard outcome.problems.isEmpty else {
            throw CommandFailure(
                .inputOutput,
                "not every point of \(opened.address) can be read, \(outcome.problems.count) problems; the first: "
                    + outcome.problems[0].text)
        }
    }
}

private struct RepairResult: Encodable {
    var store: String
    var points: Int
    var damagedPoints: [String]
    var pointsSetAside: [String]
    var packs: Int
    var objects: UInt64
    var packsTakenUp: Int
    var packsSetAside: [String]
    var objectsSaved: UInt64
    var objectsLost: UInt64
    var indexesSetAside: [String]
    var wrongEntries: UInt64
    var unreadable: [String]
    var problems: [String]
    var readBytes: UInt64

    init(store: String, _ outcome: RepairJob.Outcome) {
        self.store = store
        points = outcome.points
        damagedPoints = outcome.damagedPoints
        pointsSetAside = outcome.pointsSetAside
        let repair = outcome.repair
        packs = repair.packs
        objects = repair.objects
        packsTakenUp = repair.packsTakenUp
        packsSetAside = repair.packsSetAside
        objectsSaved = repair.objectsSaved
        objectsLost = repair.objectsLost
        indexesSetAside = repair.indexesSetAside
        wrongEntries = repair.wrongEntries
        unreadable = repair.unreadable
        problems = repair.problems + outcome.problems.map(\.text)
        readBytes = repair.bytesRead
    }

    private static let linesMax = 20

    var lines: [String] {
        var lines = Array(problems.prefix(Self.linesMax))
        if problems.count > lines.count {
            lines.append("and \(problems.count - lines.count) more problems: --json lists them")
        }
        if packsTakenUp > 0 { lines.append("\(packsTakenUp) packs were in no index, and are used now") }
        if !packsSetAside.isEmpty {
            lines.append(
                "\(packsSetAside.count) damaged packs are set aside: \(objectsSaved) objects of them were saved, "
                    + "\(objectsLost) are lost")
        }
        if !indexesSetAside.isEmpty { lines.append("\(indexesSetAside.count) index files are set aside") }
        let aside = Set(pointsSetAside)
        lines += damagedPoints.map {
            "point \($0) can't be restored in whole" + (aside.contains($0) ? ", and is set aside" : "")
        }
        lines.append(
            "\(store): \(objects) objects in \(packs) packs are indexed anew, \(SizeText.format(readBytes)) read, "
                + "\(points - damagedPoints.count) of \(points) points are whole")
        return lines
    }
}
