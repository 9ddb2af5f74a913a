internal import Synchronization

/// That somebody has asked this process to end: what waits for another process hears of it.
public enum StopRequest {
    private static let requested = Atomic<Bool>(false)
    private static let event = try? WakeEvent()

    /// From the thread that takes the signals.
    public static func make() {
        requested.store(true, ordering: .releasing)
        event?.wake()
    }

    public static var isMade: Bool { requested.load(ordering: .acquiring) }

    /// Readable once it is made, for ever; lent. Negative, and so skipped by poll, when there is none.
    public static var descriptor: CInt { event?.descriptor ?? -1 }
}
