public import SystemPackage

/// What goes wrong in a simulated file system, and when.
public struct FaultPlan: Sendable {
    /// The calls that change something. Each transfer of a batch counts as one.
    public enum Call: String, Hashable, Sendable, CaseIterable {
        case write, synchronize, truncate, reserve, zero, punch
        case create, rename, remove, synchronizeFolder, createFolder, removeFolder
        /// Changes nothing, so it counts only where it is named.
        case read
        /// Names, sizes and the like are looked at: never counted.
        case look
        public static let changes = Set(allCases).subtracting([.read, .look])
        public static let taking: Set<Call> = [.write, .reserve, .zero, .truncate, .create, .createFolder]
    }

    public enum Effect: Hashable, Sendable {
        /// The power goes while the call is made: it throws ``SimulatedFileSystem/powerCut``, as does every later call.
        /// What it would have done may or may not have been done, like anything that was not synchronized.
        case stop
        /// The call throws that and has done nothing; a write may have written its first half.
        case fail(Errno)
        /// A write throws that and has written any sectors of its bytes.
        case tear(Errno, seed: UInt64)
        /// A synchronization throws that, and what waited for it never becomes durable, though reads still see it until
        /// the cache is dropped: the host has marked it clean. A second one has nothing to complain of.
        case failDropping(Errno)
    }

    public var calls: Set<Call>
    /// The first call is number 1; counted from when the plan was made the file system's.
    public var number: Int
    public var effect: Effect
    /// Every call from that number on fails.
    public var isLasting: Bool

    public init(_ effect: Effect, at number: Int, of calls: Set<Call> = Call.changes, isLasting: Bool = false) {
        self.effect = effect
        self.number = number
        self.calls = calls
        self.isLasting = isLasting
    }

    /// The power goes at the Nth change.
    public static func stop(atChange number: Int) -> FaultPlan { FaultPlan(.stop, at: number) }
    /// From the Nth call that takes space on there is none.
    public static func outOfSpace(at number: Int, isLasting: Bool = true) -> FaultPlan {
        FaultPlan(.fail(.noSpace), at: number, of: Call.taking, isLasting: isLasting)
    }
    /// The medium fails at the Nth of these calls.
    public static func ioError(at number: Int, of calls: Set<Call>) -> FaultPlan {
        FaultPlan(.fail(.ioError), at: number, of: calls)
    }
}

/// What of that which was not synchronized outlives a power cut.
public enum Survival: Hashable, Sendable {
    /// Nothing: the strictest medium with a volatile cache.
    case nothing
    /// Everything: the process was killed, the host lives on.
    case everything
    /// What was done first, up to some call, which may be torn.
    case prefix(seed: UInt64)
    /// Any subset; writes are torn between sectors of 512 bytes.
    case random(seed: UInt64)
}
