internal import AgentCore
internal import Geometry
internal import Migration

/// `godwit migrate --recover`: of one disk, or of all that have something of a migration left.
struct MigrationRecoveryRun {
    private let common: CommonOptions
    private let configuration: Configuration
    private let patience: HandoverPatience
    /// Starts the guest here, instead of what is configured or on record.
    private let startCommand: String?
    private static let standardTimeoutMilliseconds: UInt64 = 300_000

    init(
        _ common: CommonOptions, _ configuration: Configuration, _ timeout: DurationArgument?, _ startCommand: String?
    ) {
        self.startCommand = startCommand
        self.common = common
        self.configuration = configuration
        let report = Report(common)
        patience = HandoverPatience(
            timeoutMilliseconds: timeout?.milliseconds ?? Self.standardTimeoutMilliseconds,
            shouldStop: { Interruption.isRequested }, tell: { Self.tell(report, $0, $1, $2) })
    }

    /// Tells of a try to have the target take a disk over.
    static func tell(_ report: Report, _ attempt: Int, _ failure: String, _ next: UInt64?) {
        let then = next.map { ", again in \(DurationText.format(nanoseconds: $0))" } ?? ""
        report.note("try \(attempt): the target has not taken over\(then): \(failure)")
    }

    /// - Parameter disk: `nil`: all.
    func run(_ disk: String?) throws {
        guard let disk else { return try runAll() }
        let (result, lines, failure) = try recover(try DiskArgument(disk, configuration))
        try Report(common).result(result, lines)
        if let failure { throw failure }
    }

    private func runAll() throws {
        let service = MigrationService(register: MigrationRegister())
        var list = RecoveryList()
        var lines: [String] = []
        var first: CommandFailure?
        let open = try translated { () throws(MigrationError) in try service.unfinished(configuration) }
        for error in open.failures {
            let failure = CommandFailure(error)
            list.failures.append(RecoveryFailure(disk: nil, code: failure.status.name, message: failure.message))
            lines.append(failure.message)
            first = first ?? failure
        }
        for disk in open.disks {
            guard !Interruption.isRequested else {
                let failure = CommandFailure(.interrupted, "stopped before \(disk)")
                list.failures.append(
                    RecoveryFailure(disk: disk, code: failure.status.name, message: failure.message))
                lines.append("\(disk): not looked at")
                first = first ?? failure
                continue
            }
            do throws(CommandFailure) {
                let (result, told, failure) = try recover(try DiskArgument(disk, configuration))
                list.disks.append(result)
                lines += told
                first = first ?? failure
            } catch {
                list.failures.append(
                    RecoveryFailure(disk: disk, code: error.status.name, message: error.message))
                lines.append("\(disk): \(error.message)")
                first = first ?? error
            }
        }
        if lines.isEmpty { lines.append("no migration of a disk of this host is open") }
        try Report(common).result(list, lines)
        if let first { throw first }
    }

    private func recover(
        _ disk: DiskArgument
    ) throws(CommandFailure) -> (RecoveryReport, [String], CommandFailure?) {
        let path = disk.path
        var own = disk.entry?.hooks ?? configuration.hooks
        if let startCommand { own[.start] = Hook(command: startCommand) }
        let hooks = HookRunner(hooks: own)
        let outcome = try translated {
            try Interruption.withCleanEnd { () throws(MigrationError) in
                try MigrationService(register: MigrationRegister()).recover(
                    path, hooks: hooks, startCommand: startCommand, configuration: configuration, patience: patience)
            }
        }
        var report = RecoveryReport(disk: path, owner: "source")
        switch outcome {
        case .ownedHere(let left): return ownedHere(path, left)
        case .ownedThere(let record, let startFailure, let leftBehind):
            report.owner = "target"
            report.target = record.target
            report.startFailure = startFailure
            var lines = ["\(path) belongs to \(record.target)"]
            if !leftBehind.isEmpty {
                lines.append("not the disk's, so it stays in \(path): \(leftBehind.joined(separator: ", "))")
            }
            return (report, lines, notStarted("\(path) is at \(record.target)", startFailure))
        case .arrived(let startFailure):
            report.owner = "target"
            report.startFailure = startFailure
            let lines = ["\(path) came to this host and belongs to it"]
            return (report, lines, notStarted("\(path) is here", startFailure))
        case .waiting(let partial):
            return (report, ["\(partial) is a copy that waits for its source, which owns the disk"], nil)
        }
    }

    private func notStarted(_ where: String, _ failure: String?) -> CommandFailure? {
        failure.map { CommandFailure(.guestNotStarted, "\(`where`), but its guest does not run there: \($0)") }
    }

    private func ownedHere(
        _ path: String, _ left: MigrationOutcome.LeftHere
    ) -> (RecoveryReport, [String], CommandFailure?) {
        let text =
            left.isUnderWay ? "a migration of it was begun and can be started again" : "no migration of it is open"
        var lines = ["\(path) belongs to this host; \(text)"]
        if !left.targets.isEmpty {
            lines.append("partial copies of it may lie at \(left.targets.joined(separator: ", "))")
        }
        if left.wasRestarted { lines.append("its guest, which the migration had stopped, was started again") }
        let report = RecoveryReport(disk: path, owner: "source", startFailure: left.restartFailure)
        let failure = left.restartFailure.map { CommandFailure(.guestDown, "\($0): the guest of \(path) is down") }
        return (report, lines, failure)
    }
}

private struct RecoveryReport: Encodable {
    var disk: String
    /// `source` or `target`.
    var owner: String
    var target: String?
    var startFailure: String?
}

private struct RecoveryFailure: Encodable {
    /// `nil`: a note of a migration that can't be read.
    var disk: String?
    var code: String
    var message: String
}

private struct RecoveryList: Encodable {
    var disks: [RecoveryReport] = []
    var failures: [RecoveryFailure] = []
}
