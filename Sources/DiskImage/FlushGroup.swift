internal import LinuxSystem

/// Lets threads that flush at the same time share one flush: who comes while one runs waits for the next, which one of
/// those who wait does for all.
final class FlushGroup: Sendable {
    private struct State {
        /// Number of the next flush to start.
        var next: UInt64 = 1
        var isRunning = false
        /// Number of the last flush that ended, and of the last that succeeded.
        var ended: UInt64 = 0
        var succeeded: UInt64 = 0
        var error: DiskError?
    }

    private enum Turn {
        case lead(UInt64)
        case over(DiskError?)
    }

    private let state = Monitor(State())

    /// Returns when a flush that started after this call has succeeded.
    func flush(_ body: () throws(DiskError) -> Void) throws(DiskError) {
        let wanted = state.withLock { $0.next }
        let turn = state.await { state -> Turn? in
            // A later one covers all that an earlier one does.
            if state.succeeded >= wanted { return .over(nil) }
            if state.ended >= wanted { return .over(state.error) }
            guard !state.isRunning else { return nil }
            state.isRunning = true
            state.next += 1
            return .lead(state.next - 1)
        }
        switch turn {
        case .over(nil): return
        case .over(let error?): throw error
        case .lead(let number):
            var failure: DiskError?
            do throws(DiskError) { try body() } catch { failure = error }
            state.change { state in
                state.isRunning = false
                state.ended = number
                if failure == nil { state.succeeded = number }
                state.error = failure
            }
            if let failure { throw failure }
        }
    }
}
