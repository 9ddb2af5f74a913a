internal import BlockIO
internal import LinuxSystem
internal import SystemPackage

/// The target takes over what the source has given up, and starts its guest: once, however often it is asked.
struct Takeover {
    let place: TargetPlace
    let guest: any TargetGuest
    let time: any TimeSource
    private var fs: any FileSystem { place.fs }

    /// - Parameter lock: of the copy, where the caller holds it; else whoever has it is waited for.
    /// - Returns: how long it took, and why the guest was not started.
    func run(
        _ commit: MigrationCommit, holding lock: (any HeldLock)?
    ) throws(MigrationError) -> (nanoseconds: UInt64, startFailure: String?) {
        guard MigrationIdentity.isOne(commit.identity), MigrationIdentity.isOne(commit.attempt) else {
            throw MigrationError(.protocolViolation, "a commit without the name of what is committed")
        }
        let held = if let lock { lock } else { try place.lockCopy() }
        defer { withExtendedLifetime(held) {} }
        guard held != nil else { throw Self.nothing(at: place) }
        let start = time.monotonic()
        // What this peer may not have run stays on no record: who goes on from that may have more rights.
        let objection = commit.startCommand.flatMap { guest.objection(to: $0) }
        let command = objection == nil ? commit.startCommand : nil
        let refusal = objection.map(Self.refusal)
        var record = try activate(command: command, refusal: refusal) { record throws(MigrationError) in
            guard record.matches(commit) else { throw Self.other(record, than: commit, at: place) }
        }
        guard try !hasMovedOn() else { return (time.elapsed(since: start), nil) }
        // Of a commit that comes again with one that may be run, or without any.
        record.refusal = refusal
        let failure = startOnce(&record, command: command)
        return (time.elapsed(since: start), failure)
    }

    private static func refusal(_ objection: String) -> String {
        "this host \(objection); now 'godwit migrate --recover --start-command' here starts the guest"
    }

    /// The same for what a crash of this host has interrupted, without the source.
    /// - Returns: `nil` when nothing was taken over here, or nothing is left to do.
    func resume() throws(MigrationError) -> ArrivedDisk? {
        let before = try at(.target) { () throws(SystemError) in
            try fs.record(IncomingRecord.self, at: place.arrived)
        }
        if before?.start?.state == .started { return nil }
        if before == nil {
            // One that is still coming is locked for as long as that takes, and only the source's word makes it a disk.
            let coming = try at(.target) { () throws(SystemError) in
                try fs.record(IncomingRecord.self, at: place.incoming)
            }
            if let coming, coming.state != .active { return nil }
        }
        guard let held = try place.lockCopy() else { return nil }
        defer { withExtendedLifetime(held) {} }
        var isWaiting = false
        var record: IncomingRecord?
        do throws(MigrationError) {
            record = try activate(command: nil, refusal: nil) { record throws(MigrationError) in
                // Only the source's word makes a copy the disk.
                guard record.state == .active else {
                    isWaiting = true
                    throw MigrationError(.refused, "")
                }
            }
        } catch {
            guard isWaiting else { throw error }
        }
        guard var record, try !hasMovedOn() else { return nil }
        return ArrivedDisk(startFailure: startOnce(&record, command: record.start?.command ?? record.startCommand))
    }

    // MARK: the disk

    /// Puts the disk in place; goes on where an earlier call was interrupted.
    /// - Parameters:
    ///   - command: how the guest is to be started; of who says that the copy is the disk.
    ///   - refusal: why the source's command is not that.
    ///   - check: throws when this is not the copy that is meant.
    private func activate(
        command: String?, refusal: String?, _ check: (IncomingRecord) throws(MigrationError) -> Void
    ) throws(MigrationError) -> IncomingRecord {
        let arrived = try at(.target) { () throws(SystemError) in
            try fs.record(IncomingRecord.self, at: place.arrived)
        }
        if let arrived {
            try check(arrived)
            try at(.target) { () throws(SystemError) in
                // The rename may be one whose durability was never confirmed.
                try fs.synchronizeFolder(place.parent)
                try tidy()
            }
            return arrived
        }
        let found = try at(.target) { () throws(SystemError) in
            try fs.record(IncomingRecord.self, at: place.incoming)
        }
        guard var record = found else { throw Self.nothing(at: place) }
        try check(record)
        try at(.target) { () throws(SystemError) in
            try refuseOtherPlace(record)
            if record.state == .prepared {
                record.state = .active
                record.startCommand = command
                record.refusal = refusal
                try fs.store(record, at: place.incoming)
            }
            // The disk is ours from here on; all that follows can be done again.
            let hidden = "\(place.partial)/\(MigrationFiles.descriptorPartial)"
            if try fs.exists(hidden) { try fs.rename(hidden, to: "\(place.partial)/\(MigrationFiles.descriptor)") }
            try fs.store(record, at: "\(place.partial)/\(MigrationFiles.arrived)")
            if let problem = try place.nameProblem() {
                throw SystemError(errno: .fileExists, operation: "put in place", subject: "the disk: \(problem)")
            }
            try fs.rename(place.partial, to: place.folder)
            try fs.synchronizeFolder(place.parent)
            try tidy()
        }
        return record
    }

    /// Whether the disk that has arrived was to be handed over to another host since: its guest is no business of the
    /// host's any more that it came from, and may run there. Asked with the lock held, which whoever hands it over has,
    /// too.
    private func hasMovedOn() throws(MigrationError) -> Bool {
        try at(.target) { () throws(SystemError) in
            if try fs.exists("\(place.folder)/\(MigrationFiles.outgoing)") { return true }
            return try fs.exists("\(place.folder)/\(MigrationFiles.migrated)")
        }
    }

    /// The folder that the copy lies in is the one that it was put in.
    private func refuseOtherPlace(_ record: IncomingRecord) throws(SystemError) {
        guard let then = record.parent, let now = try place.parentMark(), !now.isSame(then) else { return }
        throw SystemError(
            errno: .staleNFSFileHandle, operation: "put the disk in place, as another file system lies now at",
            subject: place.parent)
    }

    private func tidy() throws(SystemError) {
        try fs.removeIfThere("\(place.folder)/\(MigrationFiles.incoming)")
        try fs.removeIfThere("\(place.folder)/\(MigrationFiles.tree)")
    }

    private static func nothing(at place: TargetPlace) -> MigrationError {
        MigrationError(.refused, "no copy for \(place.folder) lies here that could be committed")
    }

    private static func other(
        _ record: IncomingRecord, than commit: MigrationCommit, at place: TargetPlace
    ) -> MigrationError {
        let what =
            record.identity != commit.identity
            ? "the copy of another disk"
            : record.state == .receiving ? "a copy that is not whole" : "another copy of it"
        return MigrationError(
            .refused,
            "what lies here for \(place.folder) is \(what) (attempt \(record.attempt), "
                + "digest \(record.root ?? "none")), not the one that was handed over (attempt \(commit.attempt), "
                + "digest \(commit.root.prefix(64))): look whether its file system is mounted")
    }

    // MARK: the guest

    /// - Returns: why the guest does not run, as far as that is known.
    private func startOnce(_ record: inout IncomingRecord, command: String?) -> String? {
        if let before = record.start {
            if before.state == .started { return nil }
            // What was begun before this host's present start has ended with it.
            if before.state == .starting, before.boot == place.boot, !guest.isToldHow {
                return "its start (attempt \(before.attempt)) was interrupted, so it may run or not: look, and say how "
                    + "to start it with 'godwit migrate --recover --start-command' there, with 'true' where it runs"
            }
        }
        var start = StartRecord(
            state: .starting, attempt: (record.start?.attempt ?? 0) &+ 1, boot: place.boot, command: command)
        do throws(MigrationError) {
            // Without the note it would be started again: better not at all.
            try note(start, in: &record)
            if let refusal = record.refusal, !guest.isToldHow { throw MigrationError(.guest, refusal) }
            try guest.start(folder: place.folder, command: command, attempt: start.attempt)
            start.state = .started
        } catch {
            // Also where the note was not made: nothing was begun then.
            start.state = .failed
            // A record that is too long could not be read again.
            start.failure = MigrationFiles.message(of: error)
        }
        // Where this fails it counts as one that was interrupted.
        do throws(MigrationError) { try note(start, in: &record) } catch {
            record.start?.failure = MigrationFiles.message(of: error)
        }
        return start.failure
    }

    private func note(_ start: StartRecord, in record: inout IncomingRecord) throws(MigrationError) {
        record.start = start
        let record = record
        try at(.target) { () throws(SystemError) in try fs.store(record, at: place.arrived) }
    }
}
