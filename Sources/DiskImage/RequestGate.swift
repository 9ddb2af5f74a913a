internal import LinuxSystem

/// Lets requests in and out, so that the stack under them can be changed while none is inside. Holds the current chain.
///
/// A request that is inside does not enter a second time: it would wait for a change that waits for it.
final class RequestGate: Sendable {
    private struct State {
        var chain: Chain
        var readers = 0
        var writers = 0
        /// How many hold writes back.
        var pauses = 0
        /// Somebody changes the chain and lets nobody in.
        var isClosed = false
        /// Every request fails with it.
        var ended: DiskError?
        /// Every change fails with it: an earlier one was lost.
        var failed: DiskError?

        /// Nobody is inside, and somebody waits for that.
        var isEmptied: Bool { readers == 0 && writers == 0 && (isClosed || ended != nil) }
    }

    private let state: Monitor<State>

    init(chain: Chain) { state = Monitor(State(chain: chain)) }

    /// For looks from outside a request, and from inside.
    var chain: Chain { state.withLock { $0.chain } }
    /// Why no change can be trusted any more.
    var failure: DiskError? { state.withLock { $0.failed } }

    func enterRead() throws(DiskError) -> Chain {
        if let chain = try state.withLock({ state throws(DiskError) in try Self.enterRead(&state) }) { return chain }
        return try state.await { state throws(DiskError) in try Self.enterRead(&state) }
    }

    private static func enterRead(_ state: inout State) throws(DiskError) -> Chain? {
        if let ended = state.ended { throw ended }
        guard !state.isClosed else { return nil }
        state.readers += 1
        return state.chain
    }

    /// Waits while writes are held back.
    func enterWrite() throws(DiskError) -> Chain {
        if let chain = try enterWriteNow() { return chain }
        return try HeldWrites.waiting { () throws(DiskError) in
            while true {
                let chain = try state.wait(until: HeldWrites.nextLook) {
                    state throws(DiskError) in try Self.enterWrite(&state)
                }
                if HeldWrites.isGone {
                    if chain != nil { leaveWrite() }
                    throw DiskError(.invalid, "the write's client has hung up", path: "")
                }
                if let chain { return chain }
            }
        }
    }

    /// - Returns: `nil` instead of waiting.
    func enterWriteNow() throws(DiskError) -> Chain? {
        try state.withLock { state throws(DiskError) in try Self.enterWrite(&state) }
    }

    private static func enterWrite(_ state: inout State) throws(DiskError) -> Chain? {
        if let failure = state.ended ?? state.failed { throw failure }
        guard !state.isClosed, state.pauses == 0 else { return nil }
        state.writers += 1
        return state.chain
    }

    func leaveRead() {
        leave { state in
            state.readers -= 1
            return state.isEmptied
        }
    }

    func leaveWrite() {
        leave { state in
            state.writers -= 1
            return state.isEmptied || (state.writers == 0 && state.pauses > 0)
        }
    }

    /// Wakes nobody unless somebody waits for those inside: a read must not wake all the writes that are held.
    /// - Parameter body: whether this is what somebody may wait for.
    private func leave(_ body: (inout State) -> Bool) {
        let isAwaited = state.withLock { body(&$0) }
        if isAwaited { state.change { _ in } }
    }

    /// Holds new writes back and waits until none is inside.
    func pauseWrites() throws(DiskError) {
        state.withLock { $0.pauses += 1 }
        do throws(DiskError) {
            try state.await { state throws(DiskError) -> Void? in
                if let ended = state.ended { throw ended }
                return state.writers == 0 ? () : nil
            }
        } catch {
            resumeWrites()
            throw error
        }
    }

    func resumeWrites() { state.change { $0.pauses -= 1 } }

    /// Waits until nobody is inside, runs `body` with nobody getting in, and puts its chain on. A reader, too, must not
    /// be inside with the old one: it would meet entries of the map that are newer than its chain, and load pages of
    /// the map that are older than the new one.
    func exclusively<E: Error>(_ body: (Chain) throws(E) -> Chain) throws(E) {
        let chain = state.await { state -> Chain? in
            guard !state.isClosed else { return nil }
            state.isClosed = true
            return state.chain
        }
        defer { state.change { $0.isClosed = false } }
        state.await { state -> Void? in state.readers == 0 && state.writers == 0 ? () : nil }
        let changed = try body(chain)
        state.withLock { $0.chain = changed }
    }

    /// From now on every change fails with `error`; the first one counts.
    func fail(_ error: DiskError) {
        var error = error
        // Whatever it was for: nobody is to wait for its end.
        error.isFinal = true
        error.mayPass = false
        state.change { if $0.failed == nil { $0.failed = error } }
    }

    /// From now on every request fails with `error`; returns when nobody is inside.
    func end(_ error: DiskError) {
        state.change { if $0.ended == nil { $0.ended = error } }
        state.await { state -> Void? in state.readers == 0 && state.writers == 0 ? () : nil }
    }
}
