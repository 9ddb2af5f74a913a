internal import Codecs
internal import Geometry
internal import LinuxSystem

/// From the guest's stop to its start at the target, and what is done when that fails.
extension MigrationController {
    // MARK: the guest stands still

    func stopGuest() throws(MigrationError) {
        try checkStop()
        report.predictedDowntimeMilliseconds = planner.predictedMilliseconds
        report.isForced = planner.isForced
        tell(.stopping(predictedMilliseconds: planner.predictedMilliseconds))
        if let note = guest.stopNote() { try place.noteStop(note) }
        stoppedAt = time.monotonic()
        wasStopped = true
        try guest.stop()
        let isPaused = try source.pause(deadlineMilliseconds: options.pauseDeadlineMilliseconds)
        let pausedAt = time.monotonic()
        report.stopMilliseconds = milliseconds(since: stoppedAt)
        let limit = options.limits.switchNanosecondsMax.map { time.monotonic().addingSaturated($0) }
        // Once the pause has ended by itself nothing can be given up any more, in however long a time.
        let pauseEnd = isPaused ? pausedAt + options.pauseDeadlineMilliseconds * 1_000_000 : .max
        isLimitedByPause = pauseEnd < limit ?? .max
        switchDeadline = isLimitedByPause ? pauseEnd : limit
        watch?.set(deadline: switchDeadline)
    }

    func sendFinal() throws(MigrationError) {
        let outgoing = try stream()
        let start = time.monotonic()
        report.finalBytes = try outgoing.copy(.dirty, checking: checkSwitch, progress: { _ in })
        report.sourceDigest = try outgoing.finish().description
        report.finalCopyMilliseconds = milliseconds(since: start)
    }

    func verify() throws(MigrationError) {
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
                "the copy at \(outgoing.link.name) has digest \(root.prefix(64)), the disk here "
                    + "\(report.sourceDigest): not switched"
            )
        }
        // All that can fail for want of space happens before anything is given up.
        try place.prepareToGiveUp(
            MigratedRecord(
                identity: report.identity, target: target.name, state: .released, attempt: attempt, root: root,
                sizeBytes: source.byteCount, startCommand: options.startCommand,
                removesSource: options.removesSource))
        report.verifyMilliseconds = milliseconds(since: start)
    }

    /// The last moment to be stopped by anybody.
    func release() throws(MigrationError) {
        try checkSwitch()
        watch?.end()
        guard watch?.reason == nil else { throw MigrationError(.link, "the conversation was ended") }
        try source.release()
    }

    private func checkSwitch() throws(MigrationError) {
        try checkStop()
        if let switchDeadline, time.monotonic() >= switchDeadline { throw tooLate }
    }

    var tooLate: MigrationError {
        guard !isLimitedByPause else {
            return MigrationError(
                .expired,
                "the switch took more than \(options.pauseDeadlineMilliseconds / 1000) s, for which writes are held "
                    + "back at most: it was given up, and the guest runs on here; a --max-downtime below that has "
                    + "more copied before, unless the target or the link is what takes so long")
        }
        return MigrationError(
            .expired,
            "the switch took more than \((options.limits.switchNanosecondsMax ?? 0) / 1_000_000) ms, three times the "
                + "downtime limit (or a second): it was given up, and the guest runs on here; allow a longer "
                + "--max-downtime, or switch in any case with --force-switch")
    }

    // MARK: the target takes over

    func commit() throws(MigrationError) {
        guard let link, let record = try place.provenRecord(), let commit = record.commit else {
            throw MigrationError(.link, "there is no connection")
        }
        let start = time.monotonic()
        let reply =
            options.usesThreads
            ? try Handover.commit(commit, over: link, patience) : try link.call(.commit(commit))
        try note(reply, start)
    }

    private var patience: HandoverPatience {
        HandoverPatience(
            timeoutMilliseconds: options.commitTimeoutMilliseconds, time: time, wait: options.wait,
            shouldStop: shouldStop,
            tell: { [tell] number, failure, next in
                tell(.unanswered(attempt: number, failure: failure, nextNanoseconds: next))
            })
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

    /// The source's record says who owns the disk; if it is the target, it is told once more.
    func recover(after failure: MigrationError?) throws(MigrationError) {
        endConversation()
        let failure = failure ?? MigrationError(.source, "the disk could not be given up")
        guard hasBegunToGiveUp else { throw rolledBack(failure) }
        let start = time.monotonic()
        var isGivenUp = true
        do throws(MigrationError) {
            if let record = try place.provenRecord() {
                source.confirmRelease()
                try note(try Handover(place: place, target: target, patience: patience).run(record), start)
            } else {
                isGivenUp = false
            }
        } catch {
            throw MigrationError.unconfirmed(disk.folder, by: target.name, error)
        }
        guard isGivenUp else { throw rolledBack(failure) }
        finish()
    }

    /// The move itself is done: what can't be tidied up now is told, and can be done later.
    func finish() {
        do throws(MigrationError) {
            let left = try place.finish(removesSource: options.removesSource) { () throws(MigrationError) in
                try source.retire()
            }
            if !left.isEmpty {
                report.leftBehind = "not the disk's, so it stays in \(disk.folder): \(left.joined(separator: ", "))"
            }
        } catch {
            report.leftBehind = error.message
        }
    }

    // MARK: the guest goes on here

    /// How long the target may take to close what it has.
    private static let abortNanoseconds: UInt64 = 30_000_000_000

    /// Undoes what was done: each part is worth doing without the others.
    /// - Returns: what to tell, which is first of all whether the guest runs.
    func rolledBack(_ failure: MigrationError) -> MigrationError {
        place.forgetGivingUp()
        source.resume()
        source.stopTracking()
        var told = failure
        if wasStopped {
            do throws(MigrationError) {
                try guest.restart()
                // If this fails, a later --recover starts what runs already; the hook has to bear that.
                try? place.forgetStop()
            } catch {
                told = MigrationError(
                    .guestDown,
                    "\(error.message): the guest of \(disk.folder) is down, and nothing but that is left to do: start "
                        + "it, or run godwit migrate --recover \(disk.folder). The migration had failed before, as "
                        + failure.message)
            }
        }
        // With a peer that is gone this fails at once; one that hangs, or one who does not want to wait, ends it.
        if failure.code != .link {
            watch?.end()
            // The one that there was may have ended with the release.
            let last = options.usesThreads ? link.map { LinkWatch($0, time: time, shouldStop: shouldStop) } : nil
            last?.set(deadline: time.monotonic() + Self.abortNanoseconds)
            _ = try? link?.call(.abort)
            last?.end()
        }
        place.removeTree()
        return told
    }

    func hopeless(_ reason: PrecopyPlanner.Reason) -> MigrationError {
        let carried = planner.linkRate > 0 ? planner.linkRate : planner.goodput
        let rates =
            "it dirties \(SizeText.format(UInt64(planner.dirtyRate)))/s, the link carries "
            + "\(SizeText.format(UInt64(carried)))/s"
        let why =
            reason == .tooManyRounds
            ? "\(options.limits.roundsMax) rounds were not enough" : "the guest writes too fast"
        let isLongest = planner.limits.downtimeNanoseconds < options.limits.downtimeNanoseconds
        return MigrationError(
            .notConverging,
            "\(why) for a downtime of \(planner.limits.downtimeNanoseconds / 1_000_000) ms: \(rates). "
                + "The guest runs on here; try when it writes less, "
                + (isLongest ? "" : "allow a longer --max-downtime, ") + "or switch in any case with --force-switch")
    }
}
