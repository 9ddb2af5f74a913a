internal import LinuxSystem

/// Hears of a thread that is about to wait because writes are held back: for minutes perhaps, in which another thread
/// can do what that one would have done next.
public protocol HeldWriteObserver: Sendable {
    /// Runs `wait`, which blocks until writes go on or fail.
    func whileHeld<R, E: Error>(_ wait: () throws(E) -> R) throws(E) -> R
    /// Whoever asked has hung up. What it asked for must not be done any more: it may have asked for something else
    /// meanwhile, on another connection, at the same place.
    var isGone: Bool { get }
}

/// The one place that writes pass which are held back, before they wait: by a pause (``RequestGate``), or because the
/// host lacks what they need. What is not held back comes by here never.
public enum HeldWrites {
    /// Who hears of the waits of this thread. A server sets it once for each of its threads.
    @TaskLocal public static var observer: (any HeldWriteObserver)?

    /// How often a thread that waits sees whether it is to go on, unless it is woken before.
    public static let lookNanoseconds: UInt64 = 1_000_000_000

    /// When this thread is to look whether its client is still there, on the monotonic clock; `nil`: it has none.
    static var nextLook: UInt64? { observer == nil ? nil : SystemTime().monotonic() + lookNanoseconds }

    /// Whether somebody hears of the waits of this thread, who can tell whether its client is still there.
    public static var isObserved: Bool { observer != nil }

    /// Whether nobody is there any more to whom this thread's write matters.
    public static var isGone: Bool { observer?.isGone == true }

    /// Runs `wait`, which blocks until writes go on or fail, while somebody else may do this thread's work.
    public static func waiting<R, E: Error>(_ wait: () throws(E) -> R) throws(E) -> R {
        guard let observer else { return try wait() }
        return try observer.whileHeld(wait)
    }
}
