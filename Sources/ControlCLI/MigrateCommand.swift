internal import AgentCore
internal import ArgumentParser
internal import Geometry
internal import Migration

struct MigrateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "migrate", abstract: "Move a disk to another host, while it is in use.",
        discussion:
            "Until the target has proved that its copy is the same, a failure leaves the disk and its guest here.")

    @Argument(help: .disk, completion: .directory) var disk: String?
    @Argument(help: ArgumentHelp("[user@]host[:port]:folder", valueName: "target")) var target: String?
    @Option(
        help: ArgumentHelp(
            "The longest standstill of the guest to plan for; limits.max-downtime of the configuration if not given.",
            valueName: "duration"))
    var maxDowntime: DurationArgument?
    @Option(help: ArgumentHelp("Rounds of copying after which it ends, 1 to 1000.", valueName: "number"))
    var maxRounds = 30
    @Flag(help: "Switch in the end, however long it takes, instead of giving up.") var forceSwitch = false
    @Option(
        help: ArgumentHelp(
            "Granule of the dirty map, from 4K to 1M; if not given 4K for up to 512G of data, 16K for 4T, else 64K.",
            valueName: "size"))
    var granule: GranuleArgument?
    @Option(help: ArgumentHelp("zstd level of the stream, 1 to 19.", valueName: "level")) var compressionLevel = 1
    @Option(help: ArgumentHelp("Stop the guest with this, instead of the configured stop hook.", valueName: "command"))
    var stopCommand: String?
    @Option(
        help: ArgumentHelp(
            "Start the guest with this at the target once the disk is there, or here again after a failure.",
            valueName: "command"))
    var startCommand: String?
    @Flag(help: "Remove the disk's files here once the target has it.") var removeSource = false
    @Option(
        help: ArgumentHelp(
            "Ask a target that does not answer for this long to take over what was handed to it; 5m if not given.",
            valueName: "duration"))
    var commitTimeout: DurationArgument?
    @Flag(help: "Finish a migration of this disk that was interrupted.") var recover = false
    @Flag(help: "With --recover: of all disks of this host.") var all = false
    @OptionGroup var common: CommonOptions

    func validate() throws {
        guard recover || !all else { throw ValidationError("--all goes with --recover") }
        guard !all || disk == nil else { throw ValidationError("--recover --all takes no disk: leave it out") }
        guard !all || startCommand == nil else {
            throw ValidationError("--start-command is of one disk: leave it or --all out")
        }
        guard all || disk != nil else { throw ValidationError("name a disk") }
        guard (target == nil) == recover else {
            throw ValidationError(
                recover
                    ? "--recover takes the target from the disk's record: leave it out"
                    : "name a target, or give --recover")
        }
        guard (1...1000).contains(maxRounds) else {
            throw ValidationError("--max-rounds is from 1 to 1000, not \(maxRounds)")
        }
        guard (1...19).contains(compressionLevel) else {
            throw ValidationError("--compression-level is from 1 to 19, not \(compressionLevel)")
        }
    }

    func run() throws {
        let configuration = try common.configuration()
        guard let disk, let target else {
            return try MigrationRecoveryRun(common, configuration, commitTimeout, startCommand).run(disk)
        }
        let named = try DiskArgument.existing(disk, configuration)
        var own = named.entry?.hooks ?? configuration.hooks
        if let stopCommand { own[.stop] = Hook(command: stopCommand) }
        if let startCommand { own[.start] = Hook(command: startCommand) }
        let hooks = HookRunner(hooks: own)
        let options = options(configuration)
        let display = MigrationDisplay(common)
        defer { display.finish() }
        let report = try translated {
            try Interruption.withCleanEnd { () throws(MigrationError) in
                try MigrationService(register: MigrationRegister()).migrate(
                    named.path, to: target, options: options, hooks: hooks, tell: display.tell,
                    shouldStop: { Interruption.isRequested })
            }
        }
        display.finish()
        try Report(common).result(report, lines(report))
        if let failure = report.startFailure {
            throw CommandFailure(
                .guestNotStarted, "\(named.path) is at \(report.target), but its guest does not run there: \(failure)")
        }
    }

    private func options(_ configuration: Configuration) -> MigrationOptions {
        var options = MigrationOptions()
        let downtime = maxDowntime?.milliseconds ?? configuration.limits.downtimeMilliseconds
        options.limits.downtimeNanoseconds = downtime &* 1_000_000
        options.limits.roundsMax = maxRounds
        options.limits.forcesSwitch = forceSwitch
        if let granule { options.granuleBytes = granule.bytes }
        if let commitTimeout { options.commitTimeoutMilliseconds = commitTimeout.milliseconds }
        options.compressionLevel = Int32(compressionLevel)
        options.startCommand = startCommand
        options.removesSource = removeSource
        return options
    }

    private func lines(_ report: MigrationReport) -> [String] {
        var rows = [
            ["target", report.target],
            ["size", SizeText.format(report.sizeBytes)],
            ["sent", "\(SizeText.format(report.sentBytes)) in \(Self.text(milliseconds: report.seconds * 1000))"],
            ["downtime", Self.text(milliseconds: report.downtimeMilliseconds)],
            ["digest", report.targetDigest],
        ]
        if report.reusedBytes > 0 { rows.insert(["reused", SizeText.format(report.reusedBytes)], at: 3) }
        if let predicted = report.predictedDowntimeMilliseconds {
            rows[rows.count - 2][1] += ", predicted \(Self.text(milliseconds: predicted))"
        }
        var lines = Report.columns(rows)
        if let left = report.leftBehind {
            lines.append("something is left behind here ('godwit migrate --recover' tries again): \(left)")
        }
        return lines
    }

    static func text(milliseconds: Double) -> String {
        DurationText.format(nanoseconds: UInt64(max(0, min(milliseconds, 1e12)) * 1e6))
    }
}

/// A granule of the dirty map on the command line.
struct GranuleArgument: ExpressibleByArgument, Hashable {
    var bytes: UInt64

    init?(argument: String) {
        guard let bytes = SizeText.parse(argument), bytes.nonzeroBitCount == 1, (4 << 10...1 << 20).contains(bytes)
        else {
            return nil
        }
        self.bytes = bytes
    }
}

/// Shows how a migration goes: a line for each round, progress within it.
private final class MigrationDisplay {
    private let common: CommonOptions
    private var round = 1
    private var display: ProgressDisplay
    private let comparison: ProgressDisplay

    init(_ common: CommonOptions) {
        self.common = common
        comparison = ProgressDisplay("the target reads its copy back", common)
        display = ProgressDisplay("round 1", common)
    }

    func tell(_ progress: MigrationProgress) {
        let report = Report(common)
        switch progress {
        case .checked: report.detail("both sides are fit for it")
        case .resuming(let bytes):
            report.note(
                "the target has \(SizeText.format(bytes)) of an earlier attempt, which are compared instead of sent")
        case .comparing(let done, let total): _ = comparison.update(done, total)
        case .copied(let done, let total):
            comparison.finish()
            _ = display.update(done, total)
        case .round(let told):
            display.finish()
            let predicted =
                told.predictedDowntimeMilliseconds.map { MigrateCommand.text(milliseconds: $0) } ?? "unknown"
            let duration = MigrateCommand.text(milliseconds: told.seconds * 1000)
            report.note(
                "round \(told.round): \(SizeText.format(told.bytes)) in \(duration), "
                    + "sent \(SizeText.format(told.sentBytes)), goodput \(rate(told.goodputBytesPerSecond)), "
                    + "link \(told.linkBytesPerSecond.map { rate($0) } ?? "unknown"), "
                    + "dirty \(SizeText.format(told.dirtyBytes)) at \(rate(told.dirtyBytesPerSecond)), "
                    + "downtime now \(predicted)"
            )
            round = told.round + 1
            display = ProgressDisplay("round \(round)", common)
        case .stopping: report.detail("stopping the guest")
        case .unanswered(let attempt, let failure, let next):
            MigrationRecoveryRun.tell(report, attempt, failure, next)
        case .finishing: report.detail("the target has the disk")
        }
    }

    private func rate(_ bytesPerSecond: Double) -> String {
        "\(SizeText.format(UInt64(max(0, min(bytesPerSecond, 1e18)))))/s"
    }

    func finish() {
        comparison.finish()
        display.finish()
    }
}
