/// Hears of a thread that is about to wait because writes are held back: for minutes perhaps, in which another thread
/// can do what that one would have done next.
public protocol HeldWriteObserver: Sendable {
    /// Runs `wait`, which blocks until writes go on or fail.
    func whileHeld<R, E: Error>(_ wait: () throws(E) -> R) throws(E) -> R
}

/// The one place that writes pass which are held back, before they wait. What is not held back comes by here never.
public enum HeldWrites {
    /// Who hears of the waits of this thread. A server sets it once for each of its threads.
    @TaskLocal public static var observer: (any HeldWriteObserver)?

    static func waiting<R, E: Error>(_ wait: () throws(E) -> R) throws(E) -> R {
        guard let observer else { return try wait() }
        return try observer.whileHeld(wait)
    }
}
