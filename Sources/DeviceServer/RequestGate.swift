internal import LinuxSystem
internal import Synchronization

/// Lets requests in until it is closed, and tells when the last one has left.
final class RequestGate: Sendable {
    private static let closedBit = 1 << 62
    /// Requests inside, plus `closedBit` once closed.
    private let state = Atomic<Int>(0)
    /// The last request to leave a closed gate writes to it.
    private let emptied: Pipe

    init() throws(SystemError) { emptied = try Pipe() }

    var isClosed: Bool { state.load(ordering: .relaxed) >= Self.closedBit }

    /// - Returns: `nil` when the gate is closed, else what `body` returned.
    func pass<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R? {
        guard state.add(1, ordering: .acquiring).newValue < Self.closedBit else {
            leave()
            return nil
        }
        defer { leave() }
        return try body()
    }

    private func leave() {
        if state.subtract(1, ordering: .acquiringAndReleasing).newValue == Self.closedBit {
            try? emptied.writing.writeAll([0])
        }
    }

    /// Lets nobody in any more. - Returns: `false` when that was so before.
    func shut() -> Bool { state.bitwiseOr(Self.closedBit, ordering: .acquiringAndReleasing).oldValue < Self.closedBit }

    /// Waits, after ``shut()``, until the last request has left. For one caller.
    func awaitEmpty() {
        // Counted as one more inside, so that leaving tells this caller, too, when nobody else was.
        state.add(1, ordering: .acquiring)
        leave()
        _ = try? emptied.reading.readSome(upTo: 1)
    }
}
