public import LinuxSystem
internal import Transport

/// How long, and with whose consent, a target that does not answer is asked to take a disk over.
public struct HandoverPatience {
    /// After this much time no further try is begun; 0: one try.
    public var timeoutMilliseconds: UInt64
    public var time: any TimeSource
    /// Waits for so many nanoseconds, or less.
    public var wait: @Sendable (UInt64) -> Void
    public var shouldStop: @Sendable () -> Bool
    /// Told after each try that failed: its number, why, and in how many nanoseconds the next one comes, if one does.
    public var tell: (Int, String, UInt64?) -> Void

    public init(
        timeoutMilliseconds: UInt64 = 0, time: any TimeSource = SystemTime(),
        wait: @escaping @Sendable (UInt64) -> Void = { pauseThread(nanoseconds: $0) },
        shouldStop: @escaping @Sendable () -> Bool = { false },
        tell: @escaping (Int, String, UInt64?) -> Void = { _, _, _ in }
    ) {
        self.timeoutMilliseconds = timeoutMilliseconds
        self.time = time
        self.wait = wait
        self.shouldStop = shouldStop
        self.tell = tell
    }
}

extension MigrationError {
    /// A disk was given up here, and nobody knows whether the target has it.
    static func unconfirmed(_ folder: String, by target: String, _ cause: MigrationError) -> MigrationError {
        MigrationError(
            .unconfirmed,
            "\(folder) was handed to \(target), which has not confirmed it (\(cause.message)). "
                + "It can be used on no host until it has: run godwit migrate --recover \(folder)")
    }
}

/// Has the target take over the copy that the source's record names.
struct Handover {
    let place: SourcePlace
    let target: MigrationTarget
    let patience: HandoverPatience
    private static let firstDelay: UInt64 = 500_000_000
    private static let delayMax: UInt64 = 15_000_000_000
    static let graceNanoseconds: UInt64 = 5_000_000_000
    /// A hook that starts a guest may take an hour at most, and the attachment before it ten minutes.
    private static let takeoverNanosecondsMax: UInt64 = 4_500_000_000_000
    /// Within this much time somebody who wants to stop is heard.
    private static let step: UInt64 = 100_000_000

    /// Asks until the target has it, over a new connection each time.
    /// - Throws: why the last try failed.
    func run(_ record: MigratedRecord) throws(MigrationError) -> MigrationReply {
        guard let commit = record.commit else {
            throw MigrationError(
                .source,
                "the record of the migration to \(record.target) was written by an older version; "
                    + "finish it with that version")
        }
        let end = patience.time.monotonic().addingSaturated(
            patience.timeoutMilliseconds.multipliedReportingOverflow(by: 1_000_000).partialValue)
        var delay = Self.firstDelay
        var number = 1
        while true {
            do throws(MigrationError) { return try ask(commit, record) } catch {
                let now = patience.time.monotonic()
                guard error.canPass, !patience.shouldStop(), now.addingSaturated(delay) < end else {
                    patience.tell(number, error.message, nil)
                    throw error
                }
                patience.tell(number, error.message, delay)
                sleep(until: now + delay)
                guard !patience.shouldStop() else { throw error }
                delay = min(delay * 2, Self.delayMax)
                number += 1
            }
        }
    }

    private func ask(_ commit: MigrationCommit, _ record: MigratedRecord) throws(MigrationError) -> MigrationReply {
        // Before anybody else may own the disk.
        try place.confirm(record)
        let link = try target.connect(Self.afterGrace(patience))
        defer { link.close() }
        let reply = try Self.commit(commit, over: link, patience)
        guard case .active = reply else {
            throw MigrationError(.protocolViolation, "\(link.name) gave the wrong reply to a commit")
        }
        return reply
    }

    /// Who wants to stop is heard once the target has had the time that it needs when all is well.
    private static func afterGrace(_ patience: HandoverPatience) -> @Sendable () -> Bool {
        let grace = SystemTime().monotonic() + graceNanoseconds
        let shouldStop = patience.shouldStop
        return { SystemTime().monotonic() >= grace && shouldStop() }
    }

    static func commit(
        _ commit: MigrationCommit, over link: MigrationLink, _ patience: HandoverPatience
    ) throws(MigrationError) -> MigrationReply {
        let watch = LinkWatch(link, shouldStop: afterGrace(patience))
        watch.set(deadline: SystemTime().monotonic() + takeoverNanosecondsMax)
        defer { watch.end() }
        return try link.call(.commit(commit))
    }

    private func sleep(until end: UInt64) {
        while !patience.shouldStop() {
            let now = patience.time.monotonic()
            guard now < end else { return }
            patience.wait(min(Self.step, end - now))
        }
    }
}

extension MigrationError {
    /// Somebody has to do something first; and who logs in wrongly time and again is locked out.
    private static let final: [TransportError.Code] = [
        .hostKeyUnknown, .hostKeyChanged, .authenticationFailed, .versionMismatch, .invalidTarget,
    ]

    /// Whether the same may succeed later, without anybody doing anything.
    var canPass: Bool {
        switch cause {
        case .link(let code): return !Self.final.contains(code)
        case .disk, .silence, nil: return ![.protocolViolation, .cancelled, .migrated].contains(code)
        }
    }
}
