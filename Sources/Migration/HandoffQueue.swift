internal import LinuxSystem

/// Hands values from one thread to another, a few at a time; either side can end it.
final class HandoffQueue<Element: Sendable>: Sendable {
    private struct State {
        var elements: [Element] = []
        var isFinished = false
        var failure: MigrationError?
    }
    private let state = Monitor(State())
    private let limit: Int

    /// - Parameter limit: how many may wait before ``put(_:)`` blocks.
    init(limit: Int) { self.limit = limit }

    /// - Returns: `false` when the other side wants no more.
    func put(_ element: Element) -> Bool {
        let taken = state.wait { state -> Bool? in
            if state.isFinished { return false }
            guard state.elements.count < self.limit else { return nil }
            state.elements.append(element)
            return true
        }
        return taken ?? false
    }

    /// - Returns: `nil` when there will be no more.
    /// - Throws: what ``fail(_:)`` was given.
    func take() throws(MigrationError) -> Element? {
        let next = try state.wait { state throws(MigrationError) -> Element?? in
            if let failure = state.failure { throw failure }
            if !state.elements.isEmpty { return .some(state.elements.removeFirst()) }
            return state.isFinished ? .some(nil) : nil
        }
        return next ?? nil
    }

    /// No more will be put; what is there can still be taken.
    func finish() { state.change { $0.isFinished = true } }

    /// What is there is dropped; who takes gets the error.
    func fail(_ error: MigrationError) {
        state.change { state in
            state.isFinished = true
            state.failure = state.failure ?? error
            state.elements = []
        }
    }

    /// The taker wants no more.
    func cancel() {
        state.change { state in
            state.isFinished = true
            state.elements = []
        }
    }
}
