internal import LinuxSystem

/// Holds the writes of a device back for a share of the time, so that a merge gets ahead of who writes. Each hold is
/// short: a write is delayed, and never for the whole of a merge.
struct WriteBrake {
    private static let periodNanoseconds: UInt64 = 80_000_000
    private static let shareMax: UInt64 = 7

    private let gate: RequestGate
    /// Eighths of the time in which writes are held back; 0: never.
    private let share: UInt64
    private let time = SystemTime()
    private var isHolding = false
    private var sliceEnd: UInt64

    /// - Parameter strength: of 8; more than 7 is 7, so that writes always go on.
    init(_ gate: RequestGate, strength: Int) {
        self.gate = gate
        share = min(UInt64(max(0, strength)), Self.shareMax)
        sliceEnd = time.monotonic() + Self.periodNanoseconds / 8 * (8 - share)
    }

    /// To be called at each step of the work that has to get ahead.
    mutating func step() {
        guard share > 0, time.monotonic() >= sliceEnd else { return }
        if isHolding {
            release()
        } else {
            // Fails only when the device ends, which the work finds out by itself.
            guard (try? gate.pauseWrites()) != nil else { return }
            isHolding = true
        }
        sliceEnd = time.monotonic() + Self.periodNanoseconds / 8 * (isHolding ? share : 8 - share)
    }

    /// To be called at the end of the work, however it ended.
    mutating func release() {
        guard isHolding else { return }
        isHolding = false
        gate.resumeWrites()
    }
}
