public import BlockIO
internal import ChunkTree
internal import Codecs
internal import Geometry
public import LinuxSystem

/// Moves one disk to another host: the source's side. ``PrecopyPlanner`` decides, this acts. For one thread.
///
/// A failure before the source has given up the disk leaves its guest running here and at the target a partial copy
/// that a rerun goes on from. After that only forward leads out: ``SourcePlace`` has the record, ``Handover`` the way.
public final class MigrationController {
    let disk: MigratedDisk
    let target: MigrationTarget
    let source: any MigrationSource
    let guest: any GuestControl
    let options: MigrationOptions
    let time: any TimeSource
    let place: SourcePlace
    let tell: (MigrationProgress) -> Void
    let shouldStop: @Sendable () -> Bool

    var planner: PrecopyPlanner
    var report: MigrationReport
    var link: MigrationLink?
    var watch: LinkWatch?
    /// Names what this run copies.
    let attempt = MigrationIdentity.make()
    /// On the monotonic clock.
    var stoppedAt: UInt64 = 0
    var wasStopped = false
    /// Before, the disk is this host's whatever becomes of its path.
    var hasBegunToGiveUp = false
    /// By then the target has to have proved its copy.
    var switchDeadline: UInt64?
    /// It is the end of the time for which writes can be held back.
    var isLimitedByPause = false
    private var outgoing: OutgoingStream?

    /// - Parameters:
    ///   - tell: called with progress on the caller's thread.
    ///   - shouldStop: asked often, from several threads; honoured until the disk is given up, and after that while the
    ///     target does not answer.
    public init(
        disk: MigratedDisk, target: MigrationTarget, source: any MigrationSource, guest: any GuestControl,
        options: MigrationOptions = MigrationOptions(), fs: any FileSystem, time: any TimeSource = SystemTime(),
        tell: @escaping (MigrationProgress) -> Void = { _ in }, shouldStop: @escaping @Sendable () -> Bool = { false }
    ) {
        self.disk = disk
        self.target = target
        self.source = source
        self.guest = guest
        self.options = options
        self.time = time
        self.tell = tell
        self.shouldStop = shouldStop
        place = SourcePlace(folder: disk.folder, fs: fs)
        // A switch that takes longer than writes can be held back for is none to begin, unless it is forced.
        var limits = options.limits
        limits.downtimeNanoseconds = min(limits.downtimeNanoseconds, options.pauseDeadlineMilliseconds * 1_000_000)
        planner = PrecopyPlanner(limits: limits)
        report = MigrationReport(identity: "", target: target.name, sizeBytes: 0)
    }

    /// Does it all. - Returns: once the disk is the target's; ``MigrationReport/startFailure`` tells of its guest.
    public func run() throws(MigrationError) -> MigrationReport {
        let start = time.monotonic()
        let lock = try place.lock()
        defer { withExtendedLifetime(lock) {} }
        try begin()
        defer { endConversation() }
        var actions = planner.handle(.started)
        var failure: MigrationError?
        while let action = actions.first {
            var event: PrecopyPlanner.Event?
            do throws(MigrationError) { event = try perform(action, after: failure) } catch {
                guard !planner.isOver else { throw error }
                failure = explained(error)
                event = .failed
            }
            guard let event else { break }
            actions = planner.handle(event)
        }
        report.seconds = Double(time.elapsed(since: start)) / 1e9
        return report
    }

    // MARK: the beginning

    private func begin() throws(MigrationError) {
        let granuleBytes = options.granuleBytes ?? Self.granuleBytes(of: disk)
        // Before anything is asked of the source: from here on the disk does not grow, and what is written comes again.
        try source.startTracking(granuleBytes: granuleBytes)
        do throws(MigrationError) {
            report.sizeBytes = source.byteCount
            let link = try target.connect(options.usesThreads ? shouldStop : nil)
            self.link = link
            if options.usesThreads { watch = LinkWatch(link, time: time, shouldStop: shouldStop) }
            try begin(link, granuleBytes: granuleBytes)
        } catch {
            place.removeTree()
            source.stopTracking()
            let explained = explained(error)
            endConversation()
            throw explained
        }
    }

    private func begin(_ link: MigrationLink, granuleBytes: UInt64) throws(MigrationError) {
        // Chunks of the size that backups have, unless the granules are finer.
        let chunkBytes = UInt32(min(granuleBytes, UInt64(TreeShape.chunkBytesStandard)))
        var journal = try place.outgoing() ?? OutgoingRecord(identity: MigrationIdentity.make())
        if let stop = journal.stop, stop.boot == place.boot {
            // This run would take the guest for one that runs, and lose where its file system was mounted.
            throw MigrationError(
                .guestDown,
                "an earlier migration stopped the guest of \(disk.folder), and whether it was started again is not on "
                    + "record: run godwit migrate --recover \(disk.folder) first")
        }
        report.identity = journal.identity
        let offer = MigrationOffer(
            identity: journal.identity, sizeBytes: source.byteCount, clusterBytes: disk.clusterBytes,
            imageVersion: disk.imageVersion, usedBytes: disk.usedBytes, chunkBytes: chunkBytes,
            startCommand: options.startCommand)
        guard case .checked(let found, let partialBytes) = try link.call(.check(offer)) else {
            throw MigrationError(.protocolViolation, "\(link.name) gave the wrong reply to a check")
        }
        let problems =
            try place.problems(sizeBytes: source.byteCount, treeBytes: disk.usedBytes / UInt64(chunkBytes) * 34)
            + found.map { "\(link.name): \($0)" }
        guard problems.isEmpty else { throw MigrationError(.refused, problems.joined(separator: "\n")) }
        tell(.checked)
        if partialBytes > 0 { tell(.resuming(bytes: partialBytes)) }
        journal.add(OutgoingRecord.Attempt(attempt: attempt, target: target.name))
        try place.store(journal)
        let outgoing = try OutgoingStream(
            source: source, tree: try place.makeTree(sizeBytes: source.byteCount, chunkBytes: offer.chunkBytes),
            link: link, level: options.compressionLevel, usesThreads: options.usesThreads)
        self.outgoing = outgoing
        report.reusedBytes = try outgoing.begin(offer, attempt: attempt) { done throws(MigrationError) in
            try self.checkStop()
            self.tell(.comparing(done: done, total: offer.sizeBytes))
        }
    }

    /// Small writes spread over the disk dirty a granule each, so fine ones let a migration converge where coarse ones
    /// would have it copy many times what is written. What they cost is the hash tree's file, one part in 128 of the
    /// data at 4 KiB.
    private static func granuleBytes(of disk: MigratedDisk) -> UInt64 {
        let wanted: UInt64 =
            disk.usedBytes <= 512 << 30 ? 4 << 10 : disk.usedBytes <= 4 << 40 ? 16 << 10 : 64 << 10
        // What the driver keeps of changes is 64 MiB of bits at most, however little of the disk is in use.
        var least: UInt64 = 4 << 10
        while disk.sizeBytes.dividedRoundingUp(by: least) > 8 * 64 << 20, least < 1 << 20 { least *= 4 }
        return max(wanted, least)
    }

    // MARK: actions

    /// - Returns: what came of it; `nil` when it is over.
    private func perform(
        _ action: PrecopyPlanner.Action, after failure: MigrationError?
    ) throws(MigrationError) -> PrecopyPlanner.Event? {
        switch action {
        case .copyRound(let round): return .roundEnded(try copyRound(round))
        case .stopGuest:
            try stopGuest()
            return .stopped
        case .sendFinal:
            try sendFinal()
            return .finalSent
        case .verify:
            try verify()
            return .verified
        case .release:
            try release()
            return .released
        case .record:
            try place.giveUp { hasBegunToGiveUp = true }
            source.confirmRelease()
            return .recorded
        case .commit:
            try commit()
            return .committed
        case .finish:
            finish()
            return nil
        case .rollBack(let reason): throw rolledBack(failure ?? hopeless(reason))
        case .recover:
            try recover(after: failure)
            return nil
        }
    }

    // MARK: copying

    private func copyRound(_ round: Int) throws(MigrationError) -> RoundResult {
        let outgoing = try stream()
        let start = time.monotonic()
        let before = (sent: outgoing.link.sent, busy: outgoing.link.busyNanoseconds, changed: outgoing.changedBytes)
        let bytes = try outgoing.copy(
            round == 1 ? .everything : .dirty, checking: checkStop,
            progress: { done in
                self.tell(.copied(done: done, total: round == 1 ? max(self.disk.usedBytes, done) : done))
            })
        let syncNanoseconds = try outgoing.sync(time)
        let copied = time.elapsed(since: start)
        let sent = outgoing.link.sent - before.sent
        // What the guest's system holds back would only come to light when it is stopped.
        guest.settle()
        try checkStop()
        let flushStart = time.monotonic()
        try source.flush()
        let end = time.monotonic()
        let dirty = try source.dirtyBytes()
        let roundTrip = try outgoing.roundTrip(time)
        let result = RoundResult(
            bytes: bytes, nanoseconds: copied, intervalNanoseconds: end - start, dirtyBytes: dirty,
            fixedNanoseconds: syncNanoseconds + (end - flushStart) + 6 * roundTrip + Self.overheadNanoseconds,
            changedBytes: outgoing.changedBytes - before.changed, sentBytes: sent,
            linkNanoseconds: outgoing.link.busyNanoseconds - before.busy)
        var preview = planner
        _ = preview.handle(.roundEnded(result))
        let told = RoundReport(
            round: round, bytes: bytes, sentBytes: sent, seconds: Double(end - start) / 1e9,
            dirtyBytes: dirty, dirtyBytesPerSecond: preview.dirtyRate, goodputBytesPerSecond: preview.goodput,
            linkBytesPerSecond: preview.linkRate == 0 ? nil : preview.linkRate,
            predictedDowntimeMilliseconds: preview.predictedMilliseconds)
        report.rounds.append(told)
        tell(.round(told))
        return result
    }

    /// Renames, journals, threads: what a switch costs and no round measures.
    private static let overheadNanoseconds: UInt64 = 10_000_000

    func stream() throws(MigrationError) -> OutgoingStream {
        guard let outgoing else { throw MigrationError(.protocolViolation, "nothing was begun") }
        return outgoing
    }

    func checkStop() throws(MigrationError) {
        if shouldStop() { throw Self.cancelled }
    }

    static let cancelled = MigrationError(.cancelled, "the migration was stopped; the guest runs on here")

    /// What a failure of the conversation came from, where that was on this side.
    private func explained(_ error: MigrationError) -> MigrationError {
        if error.code == .source, shouldStop() { return Self.cancelled }
        guard error.code == .link else { return error }
        return switch watch?.reason {
        case .cancelled: Self.cancelled
        case .late: tooLate
        case nil: error
        }
    }

    func endConversation() {
        watch?.end()
        watch = nil
        link?.close()
    }

    func milliseconds(since start: UInt64) -> Double { Double(time.elapsed(since: start)) / 1e6 }
}

extension PrecopyPlanner {
    /// Nothing more will be done whatever happens.
    var isOver: Bool { [.done, .rolledBack, .unconfirmed].contains(state) }
    var predictedMilliseconds: Double? { predictedDowntime == .max ? nil : Double(predictedDowntime) / 1e6 }
}
