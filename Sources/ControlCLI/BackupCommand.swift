internal import AgentCore
internal import ArgumentParser
internal import Backup
internal import BackupStore
internal import BlockIO
internal import Geometry
internal import LinuxSystem

struct BackupCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "backup", abstract: "Put the present state of disks into a store.",
        discussion: "The disks may be in use. After the first time only what has changed is read.")

    @Argument(
        help: "The disks' folders, or their names in the configuration; several are frozen at one instant.",
        completion: .directory)
    var disks: [String] = []
    @Option(help: .store, completion: .directory) var store: String?
    @Flag(help: "Back up every disk of the configuration that has a store.") var all = false
    @Option(help: ArgumentHelp("Leave out disks whose last point in the store is younger.", valueName: "duration"))
    var ifOlderThan: DurationArgument?
    @Flag(help: "Read everything that is allocated, whatever the change map says.") var full = false
    @Option(
        help: ArgumentHelp(
            "The file systems thaw by themselves after this time; limits.freeze of the configuration if not given.",
            valueName: "duration"))
    var freezeDeadline: DurationArgument?
    @OptionGroup var common: CommonOptions

    func validate() throws {
        if all {
            guard disks.isEmpty, store == nil else {
                throw ValidationError("--all takes disks and stores from the configuration: leave the others out")
            }
        } else if disks.isEmpty {
            throw ValidationError("name a disk, or give --all")
        }
    }

    func run() throws {
        let configuration = try common.configuration()
        let sets = try all ? BackupSet.all(of: configuration) : BackupSet.named(disks, store: store, configuration)
        guard !sets.isEmpty else {
            throw CommandFailure(
                .configuration, "no disk of the configuration has a store: add them, see godwit.toml(5)")
        }
        // One run of this kind at a time: the one that is under way does what this one would do.
        let lock = all ? try overlapLock() : nil
        defer { withExtendedLifetime(lock) {} }
        var list = BackupList()
        var failures: [CommandFailure] = []
        for (number, set) in sets.enumerated() {
            do throws(CommandFailure) {
                try Interruption.withCleanEnd { () throws(CommandFailure) in
                    try run(set, configuration, &list, &failures)
                }
            } catch {
                failures.append(error)
                for disk in set.disks { list.failures.append(FailedBackup(disk: disk.folder, error)) }
            }
            // One disk's trouble is no reason to leave the others without a backup.
            guard Interruption.isRequested else { continue }
            for disk in sets[(number + 1)...].flatMap(\.disks) {
                let failure = CommandFailure(.interrupted, "the backup was stopped before it came to this disk")
                failures.append(failure)
                list.failures.append(FailedBackup(disk: disk.folder, failure))
            }
            break
        }
        try tell(list, failures)
    }

    private func tell(_ list: BackupList, _ failures: [CommandFailure]) throws(CommandFailure) {
        let isSingle = !all && disks.count == 1
        if isSingle, let first = failures.first { throw first }
        if isSingle, list.backups.count == 1 {
            return try Report(common).result(list.backups[0], list.backups[0].lines)
        }
        let lines = list.backups.flatMap(\.lines) + list.leftOut.map { "\($0.disk): left out, \($0.reason)" }
        try Report(common).result(list, lines.isEmpty && failures.isEmpty ? ["nothing to do"] : lines)
        if let first = failures.first {
            let count = list.backups.count + list.leftOut.count + list.failures.count
            // Also with --quiet, which is how cron runs it.
            let each = list.failures.map { "\n\($0.disk): \($0.message)" }.joined()
            throw CommandFailure(first.status, "\(list.failures.count) of \(count) backups failed:\(each)")
        }
    }

    private func run(
        _ set: BackupSet, _ configuration: Configuration, _ list: inout BackupList, _ failures: inout [CommandFailure]
    ) throws(CommandFailure) {
        let opened = try set.store.open(writable: true, common)
        defer { opened.close() }
        var options = BackupService.Options()
        options.readsAll = full
        options.freezeDeadlineMilliseconds = try DurationArgument.freeze(freezeDeadline, configuration)
        options.ageMinNanoseconds = ifOlderThan.map { $0.milliseconds &* 1_000_000 }
        let displays = PhaseDisplays(common)
        defer { displays.finish() }
        let report = try translated {
            try BackupService().run(
                set.disks, store: opened, hooks: set.hooks, options: options, progress: displays.update)
        }
        displays.finish()
        list.backups += report.outcomes.map { BackupReport($0, store: "\(set.store.location)") }
        list.leftOut += report.leftOut.map { LeftOutDisk(disk: $0.disk, reason: $0.reason) }
        for (disk, failure) in report.failures {
            let failure = CommandFailure(failure)
            failures.append(failure)
            list.failures.append(FailedBackup(disk: disk, failure))
        }
    }

    private func overlapLock() throws(CommandFailure) -> any HeldLock {
        let folder = environmentVariable("GODWIT_RUN_DIR") ?? "/run/godwit"
        return try translated {
            let files = LinuxFileSystem()
            if try !files.exists(folder) { try files.createFolder(folder) }
            guard let lock = try files.lock("\(folder)/backup-all.lock", wait: false) else {
                throw CommandFailure(.busy, "another 'godwit backup --all' is running: wait for its end")
            }
            return lock
        }
    }
}

/// Disks that are frozen together and go to one store.
struct BackupSet {
    var disks: [(folder: String, name: String)]
    var store: StoreArgument
    var hooks: HookRunner

    /// The groups of the configuration; disks without a group are each by themselves.
    static func all(of configuration: Configuration) throws(CommandFailure) -> [BackupSet] {
        var sets: [BackupSet] = []
        var places: [[UInt8]: Int] = [:]
        for disk in configuration.disks {
            guard let location = disk.store else { continue }
            let key = disk.group.map { Array("\($0)\n\(location)".utf8) }
            if let key, let place = places[key] {
                sets[place].disks.append((disk.path, disk.name))
                sets[place].hooks = HookRunner(joining: [sets[place].hooks, HookRunner(hooks: disk.hooks)])
                continue
            }
            if let key { places[key] = sets.count }
            sets.append(
                BackupSet(
                    disks: [(disk.path, disk.name)], store: try StoreArgument(location, configuration),
                    hooks: HookRunner(hooks: disk.hooks)))
        }
        return sets
    }

    /// - Parameter store: if not given, the one that the configuration names for the disks.
    static func named(
        _ names: [String], store: String?, _ configuration: Configuration
    ) throws(CommandFailure) -> [BackupSet] {
        var disks: [DiskArgument] = []
        disks += try DiskArgument.existing(names, configuration)
        guard let first = disks.first else { return [] }
        guard let location = store ?? first.entry?.store else {
            throw CommandFailure(.usage, "\(first.path) has no store in the configuration: name one with --store")
        }
        if store == nil, let other = disks.first(where: { $0.entry?.store != location }) {
            throw CommandFailure(
                .usage, "\(other.path) belongs to another store than \(first.path): name one with --store")
        }
        return [
            BackupSet(
                disks: disks.map { ($0.path, $0.name) }, store: try StoreArgument(location, configuration),
                hooks: HookRunner(joining: disks.map { $0.hooks(configuration) }))
        ]
    }
}

/// A progress line for each phase of each disk.
private final class PhaseDisplays {
    private let common: CommonOptions
    private var current: (key: String, display: ProgressDisplay)?

    init(_ common: CommonOptions) { self.common = common }

    func update(_ disk: String, _ phase: BackupService.Phase, _ done: UInt64, _ total: UInt64) -> Bool {
        let key = "\(disk)\n\(phase)"
        if current?.key != key {
            finish()
            let name = PathText.lastPart(of: disk)
            current = (key, ProgressDisplay("\(name): \(phase)", common, counts: phase == .reading ? .bytes : .items))
        }
        return current?.display.update(done, total) ?? true
    }

    func finish() {
        current?.display.finish()
        current = nil
    }
}
