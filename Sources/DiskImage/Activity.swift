/// Something that is done with a disk beside the requests of its guest.
public enum Activity: String, CaseIterable, Hashable, Sendable {
    /// The next top is being made.
    case prepare
    /// It waits to be put on.
    case prepared
    /// It is being put on.
    case commit
    /// States are removed: what is above one is merged into its file.
    case merge
    /// The top itself is merged into the state below it, while writes are held.
    case mergeTop
    /// Clusters of the top are moved so that its file gets shorter.
    case compact
    /// The part of a longer work that a snapshot does not wait for: it ends early, and goes on afterwards.
    case step
    /// The device is made larger.
    case grow
    /// What is written is recorded: for a migration.
    case track
    /// Writes are held back.
    case hold
    /// Another chain is put on.
    case swap
    /// A file that was frozen is brought into the form of a closed image.
    case finish
    /// The disk is closed, or its device detached.
    case close

    /// As in "... is under way".
    public var words: String {
        switch self {
        case .prepare, .prepared, .commit: "a snapshot"
        case .merge, .mergeTop: "a merge of snapshots"
        case .compact, .step: "a compaction"
        case .grow: "a resize"
        case .track: "a migration"
        case .hold: "a pause of its writes"
        case .swap, .finish: "a change of its images"
        case .close: "its detachment"
        }
    }
}

/// What is under way on one disk, and what may begin beside it: the one place that says what excludes what, for the
/// engine and for the owner of a device of the driver.
public struct Activities: Hashable, Sendable {
    /// What becomes of an activity that wants to begin while another is under way.
    public enum Relation: Hashable, Sendable {
        /// Both go on.
        case beside
        /// It begins when the other has ended, which is soon.
        case waits
        /// The other one is asked to stop, and it begins then.
        case stops
        /// It does not begin, and is told why.
        case refused
    }

    public enum Answer: Hashable, Sendable {
        case begun
        /// It has begun, too, and is to wait for ``Activities/hasRoom(for:)``: others were asked to stop.
        case stopping
        /// To be asked again when something has ended.
        case waits
        case refused(Activity)
    }

    private var counts: [Activity: Int] = [:]
    private var asked: Set<Activity> = []

    public init() {}

    /// What becomes of `new` while `running` is under way.
    public static func relation(of new: Activity, to running: Activity) -> Relation {
        switch (new, running) {
        // The end: only what belongs to something that is under way begins any more.
        case (.swap, .close), (.finish, .close): .beside
        case (_, .close): .refused
        case (.close, .merge), (.close, .compact), (.close, .step): .stops
        case (.close, .prepared), (.close, .track), (.close, .hold): .beside
        case (.close, _): .waits
        // One top at a time.
        case (.prepare, .prepare), (.prepare, .prepared), (.prepare, .commit): .refused
        case (.prepare, .step): .stops
        case (.prepare, .mergeTop): .waits
        case (.step, .prepare), (.step, .prepared), (.step, .commit): .waits
        case (.mergeTop, .prepare), (.mergeTop, .prepared), (.mergeTop, .commit): .refused
        // One change of the levels at a time, but for a snapshot beside a merge.
        case (.merge, .merge), (.merge, .compact), (.compact, .merge), (.compact, .compact): .refused
        case (.mergeTop, .compact), (.compact, .mergeTop), (.mergeTop, .mergeTop): .refused
        case (.step, .step): .waits
        // The size stays while anybody counts on it.
        case (.grow, .swap), (.grow, .step): .waits
        case (.grow, .hold), (.hold, .grow), (.grow, .finish), (.finish, .grow): .beside
        case (.grow, _): .refused
        // Parts of the grow itself.
        case (.swap, .grow), (.step, .grow): .beside
        case (_, .grow): .refused
        case (.swap, .swap), (.finish, .finish): .waits
        default: .beside
        }
    }

    /// Begins `new` if nothing that is under way forbids it.
    public mutating func begin(_ new: Activity) -> Answer {
        var waits = false
        for running in Activity.allCases where isUnderWay(running) {
            switch Self.relation(of: new, to: running) {
            case .beside, .stops: continue
            case .refused: return .refused(running)
            case .waits: waits = true
            }
        }
        if waits { return .waits }
        let stopping = Activity.allCases.filter { isUnderWay($0) && Self.relation(of: new, to: $0) == .stops }
        asked.formUnion(stopping)
        counts[new, default: 0] += 1
        return stopping.isEmpty ? .begun : .stopping
    }

    /// Whether all has ended that was asked to stop for `activity`, which has begun.
    public func hasRoom(for activity: Activity) -> Bool {
        !Activity.allCases.contains { isUnderWay($0) && Self.relation(of: activity, to: $0) == .stops }
    }

    public mutating func end(_ activity: Activity) {
        guard let count = counts[activity] else { return }
        counts[activity] = count == 1 ? nil : count - 1
        if count == 1 { asked.remove(activity) }
    }

    /// Begins to close: nothing else begins from here on, and what can be is asked to stop.
    /// - Returns: `false` when that was so before.
    public mutating func beginClosing() -> Bool {
        guard !isUnderWay(.close) else { return false }
        for running in Activity.allCases where isUnderWay(running) && Self.relation(of: .close, to: running) == .stops {
            asked.insert(running)
        }
        counts[.close] = 1
        return true
    }

    /// Whether all has ended that has to before the disk is closed.
    public var mayClose: Bool {
        !Activity.allCases.contains { running in
            running != .close && isUnderWay(running) && Self.relation(of: .close, to: running) != .beside
        }
    }

    /// `old` has come to its next part, `new`, which nothing can have forbidden.
    public mutating func turn(_ old: Activity, into new: Activity) {
        end(old)
        counts[new, default: 0] += 1
    }

    public func isUnderWay(_ activity: Activity) -> Bool { counts[activity] != nil }
    /// Somebody waits for it to stop.
    public func isAskedToStop(_ activity: Activity) -> Bool { asked.contains(activity) }
}

extension DiskError {
    /// What to say when `running` forbids what was asked for.
    public static func busy(_ running: Activity, path: String) -> DiskError {
        DiskError(
            .busy, "\(path): \(running.words) is under way on this disk; try again when it has ended", path: path)
    }
}
