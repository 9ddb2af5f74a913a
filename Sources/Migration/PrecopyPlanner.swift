/// What one round of copying cost, and what it left.
public struct RoundResult: Hashable, Sendable {
    /// Bytes that were to be looked at: all the data in the first round, dirty granules in the later ones.
    public var bytes: UInt64
    /// How long it took until all of it was at the target, in nanoseconds.
    public var nanoseconds: UInt64
    /// How long it was until the dirty bytes were counted.
    public var intervalNanoseconds: UInt64
    /// Bytes that are dirty at its end.
    public var dirtyBytes: UInt64
    /// What each switch costs besides copying: the target's sync, round trips, the source's flush.
    public var fixedNanoseconds: UInt64
    /// Bytes of data that differed from what the target had.
    public var changedBytes: UInt64
    /// What went over the link for those, and how long the link took for it.
    public var sentBytes: UInt64
    public var linkNanoseconds: UInt64

    /// - Parameters:
    ///   - changedBytes: `nil`: all of `bytes`.
    ///   - sentBytes: `nil`: all of `bytes`, as they were.
    ///   - linkNanoseconds: `nil`: the whole time.
    public init(
        bytes: UInt64, nanoseconds: UInt64, intervalNanoseconds: UInt64, dirtyBytes: UInt64, fixedNanoseconds: UInt64,
        changedBytes: UInt64? = nil, sentBytes: UInt64? = nil, linkNanoseconds: UInt64? = nil
    ) {
        self.changedBytes = changedBytes ?? bytes
        self.sentBytes = sentBytes ?? bytes
        self.linkNanoseconds = linkNanoseconds ?? nanoseconds
        self.bytes = bytes
        self.nanoseconds = nanoseconds
        self.intervalNanoseconds = intervalNanoseconds
        self.dirtyBytes = dirtyBytes
        self.fixedNanoseconds = fixedNanoseconds
    }
}

/// When copying ends.
public struct PrecopyLimits: Hashable, Sendable {
    /// How long the guest may stand still.
    public var downtimeNanoseconds: UInt64 = 300_000_000
    /// Rounds after which it ends in any case.
    public var roundsMax = 30
    /// Rounds in a row that got the guest no nearer to the switch before it counts as hopeless.
    public var stalledRoundsMax = 5
    /// At such an end: switch, however long it takes.
    public var forcesSwitch = false
    public init() {}

    /// How long writes may be held for a switch before it is given up: three times the limit, but a second at least.
    /// `nil`: however long it takes.
    public var switchNanosecondsMax: UInt64? {
        guard !forcesSwitch else { return nil }
        let (tripled, overflow) = downtimeNanoseconds.multipliedReportingOverflow(by: 3)
        return overflow ? .max : max(tripled, 1_000_000_000)
    }
}

/// The decisions of a migration, without any I/O: events in, actions out.
///
/// The order is what keeps the disk with one owner: nothing irreversible before ``Action/record``, which comes after
/// the target proved its copy and made it durable, and after the source can no longer write. Every failure before it
/// rolls back, every one from it on must be recovered.
public struct PrecopyPlanner: Hashable, Sendable {
    public enum Event: Hashable, Sendable {
        case started
        case roundEnded(RoundResult)
        /// The guest no longer writes.
        case stopped
        /// All of the disk is at the target.
        case finalSent
        /// The target's digest is ours, and its copy durable.
        case verified
        /// The source can no longer write.
        case released
        /// Its journal says that the disk is the target's.
        case recorded
        case committed
        case failed
    }
    public enum Action: Hashable, Sendable {
        case copyRound(Int)
        case stopGuest
        case sendFinal
        case verify
        case release
        /// The one step that hands the disk over.
        case record
        case commit
        /// Tidy up at the source.
        case finish
        /// The guest goes on at the source.
        case rollBack(Reason)
        /// The target must be asked to commit once more.
        case recover
    }
    public enum Reason: Hashable, Sendable {
        case failure
        /// The guest dirties at least as much as is copied in the same time.
        case hopeless
        case tooManyRounds
    }
    public enum State: Hashable, Sendable {
        case idle, copying(round: Int), stopping, sending, verifying, releasing, recording, committing
        case done, rolledBack, unconfirmed
    }

    public private(set) var state = State.idle
    public let limits: PrecopyLimits
    /// How fast data is dealt with, sent or found to be there already: of the last rounds that looked at any, in bytes
    /// a second.
    public private(set) var goodput: Double = 0
    /// How fast the link carries what is sent, in bytes of the stream a second; 0 before enough was sent to tell.
    public private(set) var linkRate: Double = 0
    /// Bytes of the stream for a byte that the guest wrote.
    private var streamRatio: Double = 1
    /// In the last round, in bytes a second.
    public private(set) var dirtyRate: Double = 0
    public private(set) var predictedDowntime: UInt64 = .max
    /// Switched at a stated end although the prediction is over the limit.
    public private(set) var isForced = false
    private var stalledRounds = 0
    private var bestPrediction = UInt64.max

    public init(limits: PrecopyLimits = PrecopyLimits()) { self.limits = limits }

    public mutating func handle(_ event: Event) -> [Action] {
        switch (state, event) {
        case (.idle, .started): return go(.copying(round: 1), .copyRound(1))
        case (.copying(let round), .roundEnded(let result)):
            learn(result, round)
            return afterRound(round)
        case (.stopping, .stopped): return go(.sending, .sendFinal)
        case (.sending, .finalSent): return go(.verifying, .verify)
        case (.verifying, .verified): return go(.releasing, .release)
        case (.releasing, .released): return go(.recording, .record)
        case (.recording, .recorded): return go(.committing, .commit)
        case (.committing, .committed): return go(.done, .finish)
        // Whether the record is there is not known: it has to be read.
        case (.recording, .failed), (.committing, .failed): return go(.unconfirmed, .recover)
        case (.idle, .failed), (.copying, .failed), (.stopping, .failed), (.sending, .failed), (.verifying, .failed),
            (.releasing, .failed):
            return go(.rolledBack, .rollBack(.failure))
        default: return []
        }
    }

    private mutating func go(_ next: State, _ action: Action) -> [Action] {
        state = next
        return [action]
    }

    /// Rounds of less say much about round trips, and little about how fast much data goes.
    private static let tellingBytes = 4 << 20
    /// Less than this is sent within the fixed time.
    private static let smallBytes = 65_536.0

    private mutating func learn(_ result: RoundResult, _ round: Int) {
        dirtyRate = Double(result.dirtyBytes) / max(Double(result.intervalNanoseconds) / 1e9, 1e-6)
        Self.blend(&goodput, result.bytes, result.nanoseconds)
        if Double(result.sentBytes) >= Self.smallBytes {
            Self.blend(&linkRate, result.sentBytes, result.linkNanoseconds)
        }
        // The first round's data is not what the guest writes now.
        if round > 1, Double(result.changedBytes) >= Self.smallBytes {
            streamRatio = Double(result.sentBytes) / Double(result.changedBytes)
        }
        let predicted = copyingNanoseconds(result.dirtyBytes) + Double(result.fixedNanoseconds)
        predictedDowntime = predicted < 1e18 ? UInt64(predicted) : .max
    }

    private static func blend(_ rate: inout Double, _ bytes: UInt64, _ nanoseconds: UInt64) {
        guard bytes > 0 else { return }
        let measured = Double(bytes) / max(Double(nanoseconds) / 1e9, 1e-6)
        rate = bytes >= UInt64(tellingBytes) || rate == 0 ? measured : (measured + 3 * rate) / 4
    }

    /// All that is dirty may differ from what the target has, whatever share of an earlier round did: the slower of
    /// looking and sending counts.
    private func copyingNanoseconds(_ dirty: UInt64) -> Double {
        guard dirty > 0 else { return 0 }
        let looking = goodput > 0 ? Double(dirty) / goodput : .infinity
        let stream = Double(dirty) * streamRatio
        let sending = linkRate > 0 ? stream / linkRate : stream <= Self.smallBytes ? 0 : .infinity
        return max(looking, sending) * 1e9
    }

    private mutating func afterRound(_ round: Int) -> [Action] {
        if predictedDowntime <= limits.downtimeNanoseconds { return go(.stopping, .stopGuest) }
        // Under a steady writer each round is shorter than the one before until rounds no longer shrink.
        let isNearer = Double(predictedDowntime) < Double(bestPrediction) * 0.9
        stalledRounds = dirtyRate >= goodput || !isNearer ? stalledRounds + 1 : 0
        bestPrediction = min(bestPrediction, predictedDowntime)
        let reason: Reason? =
            stalledRounds >= limits.stalledRoundsMax ? .hopeless : round >= limits.roundsMax ? .tooManyRounds : nil
        guard let reason else { return go(.copying(round: round + 1), .copyRound(round + 1)) }
        guard limits.forcesSwitch else { return go(.rolledBack, .rollBack(reason)) }
        isForced = true
        return go(.stopping, .stopGuest)
    }
}
