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

    public init(
        bytes: UInt64, nanoseconds: UInt64, intervalNanoseconds: UInt64, dirtyBytes: UInt64, fixedNanoseconds: UInt64
    ) {
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
    /// Of the last rounds that copied anything, in bytes a second.
    public private(set) var goodput: Double = 0
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
            learn(result)
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

    private mutating func learn(_ result: RoundResult) {
        let seconds = max(Double(result.nanoseconds) / 1e9, 1e-6)
        dirtyRate = Double(result.dirtyBytes) / max(Double(result.intervalNanoseconds) / 1e9, 1e-6)
        // Tiny rounds are all overhead: they say little about how fast much data goes, and nothing when they are empty.
        if result.bytes > 0 {
            let measured = Double(result.bytes) / seconds
            goodput = result.bytes >= 4 << 20 || goodput == 0 ? measured : (measured + 3 * goodput) / 4
        }
        let copying = result.dirtyBytes == 0 ? 0 : goodput > 0 ? Double(result.dirtyBytes) / goodput * 1e9 : .infinity
        let predicted = copying + Double(result.fixedNanoseconds)
        predictedDowntime = predicted < 1e18 ? UInt64(predicted) : .max
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
