internal import AgentCore
internal import ArgumentParser
internal import BlockIO
internal import DiskImage

struct DiskCheck: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Look for damage in a disk or an image, and repair it if asked.",
        discussion: "The disk must not be in use. Exit status 12 tells of damage that is left.")

    @Argument(help: .image, completion: .file()) var disk: String
    @Flag(help: "Put right what was found; nothing that was flushed is lost.") var repair = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument.existing(disk, common.configuration())
        let fs = LinuxFileSystem()
        let report = try checkDisk(at: disk.path, repair: repair, in: fs) { (folder) throws(DiskError) in
            try forgetBackupBases(of: folder, in: fs)
        }
        try Report(common).result(CheckResult(report), lines(report))
        guard report.isSound else {
            let way = repair ? "restore it from a backup" : "repair it with 'godwit disk check --repair \(disk.path)'"
            throw CommandFailure(.corrupt, "\(disk.path) is damaged: \(way)")
        }
    }

    private func lines(_ report: CheckReport) -> [String] {
        var lines: [String] = []
        for image in report.images {
            let kind = image.version == 0 ? "raw" : "version \(image.version)"
            lines.append("\(image.file): \(kind), \(image.allocatedClusters) clusters allocated")
            lines += image.repairs.map { "  repaired: \($0)" }
            lines += image.findings.filter { isShown($0) }.map { "  \($0.severity.rawValue): \($0.message)" }
            let all = image.counts.values.reduce(0, +)
            if all > UInt64(image.findings.count) { lines.append("  \(all) findings in all") }
        }
        lines += report.findings.filter { isShown($0) }.map { "\($0.severity.rawValue): \($0.message)" }
        lines.append(report.isSound ? "\(report.path) is sound" : "\(report.path) is damaged")
        return lines
    }

    /// Notes are for those who want to know more.
    private func isShown(_ finding: CheckFinding) -> Bool { common.verbose || finding.severity > .note }
}

/// What `disk check` tells in JSON.
private struct CheckResult: Encodable {
    var path: String
    var isSound: Bool
    var severity: String?
    var images: [ImageCheckReport]
    var findings: [CheckFinding]
    var repaired: [String: UInt64]

    init(_ report: CheckReport) {
        path = report.path
        isSound = report.isSound
        severity = report.severity?.rawValue
        images = report.images
        findings = report.findings
        repaired = report.repaired
    }
}
