public import BlockIO
internal import ChunkTree
internal import Codecs
internal import Geometry
public import LinuxSystem

/// Moves one disk to another host: the source's side. ``PrecopyPlanner`` decides, this acts. For one thread.
///
/// A failure before the source has given up the disk leaves its guest running here and at the target a partial copy
/// that a rerun goes on from. After that only forward leads out: ``SourcePlace`` has the record, ``MigrationRecovery``
/// the way.
public final class MigrationController {
    let disk: MigratedDisk
    let target: MigrationTarget
    let source: any MigrationSource
    let guest: any GuestControl
    let options: MigrationOptions
    let time: any TimeSource
    let place: SourcePlace
    private let tell: (MigrationProgress) -> Void
    private let shouldStop: () -> Bool

    private var planner: PrecopyPlanner
    private var report: MigrationReport
    private var link: MigrationLink?
    private var outgoing: OutgoingStream?
    private var wasStopped = false
    private var stoppedAt: UInt64 = 0

    /// - Parameters:
    ///   - tell: called with progress on the caller's thread.
    ///   - shouldStop: asked often; honoured until the guest has been stopped for the switch.
    public init(
        disk: MigratedDisk, target: MigrationTarget, source: any MigrationSource, guest: any GuestControl,
        options: MigrationOptions = MigrationOptions(), fs: any FileSystem, time: any TimeSource = SystemTime(),
        tell: @escaping (MigrationProgress) -> Void = { _ in }, shouldStop: @escaping () -> Bool = { false }
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
        planner = PrecopyPlanner(limits: options.limits)
        report = MigrationReport(identity: "", target: target.name, sizeBytes: source.byteCount)
    }

    /// Does it all. - Returns: once the disk is the target's and the guest was started there.
    public func run() throws(MigrationError) -> MigrationReport {
        let start = time.monotonic()
        let link = try target.connect()
        self.link = link
        defer { self.link?.close() }
        try begin(link)
        var actions = planner.handle(.started)
        var failure: MigrationError?
        while let action = actions.first {
            var event: PrecopyPlanner.Event?
            do throws(MigrationError) { event = try perform(action, after: failure) } catch {
                guard !planner.isOver else { throw error }
                failure = error
                event = .failed
            }
            guard let event else { break }
            actions = planner.handle(event)
        }
        report.seconds = Double(time.monotonic() - start) / 1e9
        return report
    }

    private func begin(_ link: MigrationLink) throws(MigrationError) {
        let identity = try place.identity(for: target.name)
        let granuleBytes = options.granuleBytes ?? Self.granuleBytes(usedBytes: disk.usedBytes)
        // Chunks of the size that backups have, unless the granules are finer.
        let chunkBytes = UInt32(min(granuleBytes, UInt64(TreeShape.chunkBytesStandard)))
        report.identity = identity
        let offer = MigrationOffer(
            identity: identity, sizeBytes: source.byteCount, clusterBytes: disk.clusterBytes,
            imageVersion: disk.imageVersion, usedBytes: disk.usedBytes, chunkBytes: chunkBytes)
        guard case .checked(let found, let partialBytes) = try link.call(.check(offer)) else {
            throw MigrationError(.protocolViolation, "\(link.name) gave the wrong reply to a check")
        }
        let problems =
            try place.problems(
                sizeBytes: source.byteCount, treeBytes: disk.usedBytes / UInt64(chunkBytes) * 34)
            + found.map { "\(link.name): \($0)" }
        guard problems.isEmpty else { throw MigrationError(.refused, problems.joined(separator: "\n")) }
        tell(.checked)
        if partialBytes > 0 { tell(.resuming(bytes: partialBytes)) }
        try place.begin(identity: identity, target: target.name)
        do throws(MigrationError) {
            let outgoing = try OutgoingStream(
                source: source, tree: try place.makeTree(sizeBytes: source.byteCount, chunkBytes: offer.chunkBytes),
                link: link, level: options.compressionLevel, usesThreads: options.usesThreads)
            self.outgoing = outgoing
            // Before the first byte is read: whatever is written from here on comes again.
            try source.startTracking(granuleBytes: granuleBytes)
            report.reusedBytes = try outgoing.begin(offer)
        } catch {
            rollBack()
            throw error
        }
    }

    /// Small writes spread over the disk dirty a granule each, so fine ones let a migration converge where coarse ones
    /// would have it copy many times what is written. What they cost is the hash tree's file, one part in 128 of the
    /// data at 4 KiB.
    private static func granuleBytes(usedBytes: UInt64) -> UInt64 {
        usedBytes <= 512 << 30 ? 4 << 10 : usedBytes <= 4 << 40 ? 16 << 10 : 64 << 10
    }

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
            try source.release()
            return .released
        case .record:
            try place.giveUp()
            return .recorded
        case .commit:
            try commit()
            return .committed
        case .finish:
            finish()
            return nil
        case .rollBack(let reason):
            rollBack()
            throw failure ?? hopeless(reason)
        case .recover:
            try recover(after: failure)
            return nil
        }
    }

    // MARK: copying

    private func copyRound(_ round: Int) throws(MigrationError) -> RoundResult {
        let outgoing = try stream()
        let start = time.monotonic()
        let sentBefore = outgoing.link.sent
        let bytes = try outgoing.copy(
            round == 1 ? .everything : .dirty,
            checking: { () throws(MigrationError) in
                if self.shouldStop() {
                    throw MigrationError(.cancelled, "the migration was stopped; the guest runs on here")
                }
            },
            progress: { done in
                self.tell(.copied(done: done, total: round == 1 ? max(self.disk.usedBytes, done) : done))
            })
        let syncNanoseconds = try outgoing.sync()
        let copied = time.monotonic() - start
        // What the guest's system holds back would only come to light when it is stopped.
        guest.settle()
        let flushStart = time.monotonic()
        try source.flush()
        let end = time.monotonic()
        let dirty = try source.dirtyBytes()
        let roundTrip = try outgoing.roundTrip(time)
        let result = RoundResult(
            bytes: bytes, nanoseconds: copied, intervalNanoseconds: end - start, dirtyBytes: dirty,
            fixedNanoseconds: syncNanoseconds + (end - flushStart) + 6 * roundTrip + Self.overheadNanoseconds)
        var preview = planner
        _ = preview.handle(.roundEnded(result))
        let told = RoundReport(
            round: round, bytes: bytes, sentBytes: outgoing.link.sent - sentBefore, seconds: Double(end - start) / 1e9,
            dirtyBytes: dirty, dirtyBytesPerSecond: preview.dirtyRate, goodputBytesPerSecond: preview.goodput,
            predictedDowntimeMilliseconds: preview.predictedMilliseconds)
        report.rounds.append(told)
        tell(.round(told))
        return result
    }

    /// Renames, journals, threads: what a switch costs and no round measures.
    private static let overheadNanoseconds: UInt64 = 10_000_000

    // MARK: the switch

    private func stopGuest() throws(MigrationError) {
        report.predictedDowntimeMilliseconds = planner.predictedMilliseconds
        report.isForced = planner.isForced
        tell(.stopping(predictedMilliseconds: planner.predictedMilliseconds))
        stoppedAt = time.monotonic()
        wasStopped = true
        try guest.stop()
        try source.pause(deadlineMilliseconds: options.pauseDeadlineMilliseconds)
        report.stopMilliseconds = milliseconds(since: stoppedAt)
    }

    private func sendFinal() throws(MigrationError) {
        let outgoing = try stream()
        let start = time.monotonic()
        report.finalBytes = try outgoing.copy(.dirty, checking: { () throws(MigrationError) in }, progress: { _ in })
        report.sourceDigest = try outgoing.finish().description
        report.finalCopyMilliseconds = milliseconds(since: start)
    }

    private func verify() throws(MigrationError) {
        let outgoing = try stream()
        let start = time.monotonic()
        guard case .prepared(let root) = try outgoing.link.call(.prepare) else {
            throw MigrationError(.protocolViolation, "\(outgoing.link.name) gave the wrong reply to a prepare")
        }
        report.targetDigest = root
        report.sentBytes = outgoing.link.sent
        guard root == report.sourceDigest else {
            throw MigrationError(
                .digestMismatch,
                "the copy at \(outgoing.link.name) has digest \(root), the disk here "
                    + "\(report.sourceDigest): not switched"
            )
        }
        // All that can fail for want of space happens before anything is given up.
        try place.prepareToGiveUp(
            MigratedRecord(
                identity: report.identity, target: target.name, state: .released, root: root,
                startCommand: options.startCommand, removesSource: options.removesSource))
        report.verifyMilliseconds = milliseconds(since: start)
    }

    private func commit() throws(MigrationError) {
        guard let link else { throw MigrationError(.link, "there is no connection") }
        let start = time.monotonic()
        let reply = try link.call(.commit(identity: report.identity, startCommand: options.startCommand))
        try note(reply, start)
    }

    private func note(_ reply: MigrationReply, _ start: UInt64) throws(MigrationError) {
        guard case .active(_, let failure) = reply else {
            throw MigrationError(.protocolViolation, "\(target.name) gave the wrong reply to a commit")
        }
        report.startFailure = failure
        report.startMilliseconds = milliseconds(since: start)
        report.downtimeMilliseconds = milliseconds(since: stoppedAt)
        tell(.finishing)
    }

    // MARK: when it fails

    /// The guest goes on here. Nothing in it throws: each part is worth doing without the others.
    private func rollBack() {
        place.forgetGivingUp()
        source.resume()
        source.stopTracking()
        if wasStopped {
            do throws(MigrationError) { try guest.restart() } catch { report.startFailure = error.message }
        }
        _ = try? link?.call(.abort)
        place.removeTree()
    }

    private func hopeless(_ reason: PrecopyPlanner.Reason) -> MigrationError {
        let rates =
            "it dirties \(SizeText.format(UInt64(planner.dirtyRate)))/s, the link carries "
            + "\(SizeText.format(UInt64(planner.goodput)))/s"
        let why =
            reason == .tooManyRounds
            ? "\(options.limits.roundsMax) rounds were not enough" : "the guest writes too fast"
        return MigrationError(
            .notConverging,
            "\(why) for a downtime of \(options.limits.downtimeNanoseconds / 1_000_000) ms: \(rates). "
                + "The guest runs on here; "
                + "try when it writes less, allow a longer --max-downtime, or switch in any case with --force-switch")
    }

    /// The source's record says who owns the disk; if it is the target, it is told once more.
    private func recover(after failure: MigrationError?) throws(MigrationError) {
        link?.close()
        let recovery = MigrationRecovery(place: place, target: target)
        do throws(MigrationError) {
            let start = time.monotonic()
            guard let reply = try recovery.commitAgain(attempts: 3) else {
                place.forgetGivingUp()
                throw MigrationError(
                    .source,
                    "\(failure?.message ?? "the disk could not be given up"); it still belongs to this host, "
                        + "but its server has let go of it: detach it and attach it again")
            }
            try note(reply, start)
        } catch {
            guard error.code != .source else { throw error }
            throw MigrationError(
                .unconfirmed,
                "\(disk.folder) was handed to \(target.name), which has not confirmed it (\(error.message)). "
                    + "It can be used on no host until it has: run godwit migrate --recover \(disk.folder)")
        }
        finish()
    }

    /// The move itself is done: what can't be tidied up now is told, and can be done later.
    private func finish() {
        do throws(MigrationError) {
            try place.finish(removesSource: options.removesSource) { () throws(MigrationError) in try source.retire() }
        } catch {
            report.leftBehind = error.message
        }
    }

    private func stream() throws(MigrationError) -> OutgoingStream {
        guard let outgoing else { throw MigrationError(.protocolViolation, "nothing was begun") }
        return outgoing
    }

    private func milliseconds(since start: UInt64) -> Double { Double(time.monotonic() - start) / 1e6 }
}

extension PrecopyPlanner {
    /// Nothing more will be done whatever happens.
    var isOver: Bool { [.done, .rolledBack, .unconfirmed].contains(state) }
    var predictedMilliseconds: Double? { predictedDowntime == .max ? nil : Double(predictedDowntime) / 1e6 }
}
