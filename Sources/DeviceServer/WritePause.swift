internal import AgentAPI
internal import DiskImage
internal import LinuxSystem
internal import Synchronization

/// Holds the guest's writes back for one connection at a time, and lets them go on at the deadline whatever happens to
/// who asked.
final class WritePause: Sendable {
    private enum State {
        case running
        case paused(holder: UInt64, watch: Watch)
        /// As paused, without a deadline: the disk is being handed over, and its record decides what becomes of it.
        case releasing(holder: UInt64)
        /// The deadline passed; kept until the holder asks or another one pauses.
        case expired(holder: UInt64)
        /// The disk has gone to another host: nothing is held back, everything fails.
        case released
        /// The device closes.
        case closed
    }

    /// What the thread that waits for the deadline is woken by, when the pause ends before.
    private final class Watch: Sendable {
        let pipe: Pipe
        init() throws(SystemError) { pipe = try Pipe() }
    }

    private let state = Mutex(State.running)
    /// Held while a pause begins, so that a late one can't undo the next.
    private let beginning = Mutex(())
    private let hold: @Sendable (_ milliseconds: UInt64) throws(ControlError) -> Void
    private let letGo: @Sendable () -> Void
    private let handover: HandoverSteps

    /// What a release does to the disk, and what it goes by.
    struct HandoverSteps: Sendable {
        /// Writes are to be held without a deadline.
        /// - Throws: `.busy` when they were no longer held.
        var begin: @Sendable () throws(DiskError) -> Void
        /// All that is held, and all that comes, fails.
        var finish: @Sendable () -> Void
        /// As before the release; the writes are still held.
        var cancel: @Sendable () -> Void
        /// Whether the record is there that gives the disk to another host, or can't be looked for.
        var isGivenAway: @Sendable () -> Bool
    }

    /// - Parameters:
    ///   - hold: holds back new writes; returns when those in flight have ended and are durable. Undone by one `letGo`.
    ///   - letGo: does not wait for anything that waits for this.
    init(
        hold: @escaping @Sendable (_ milliseconds: UInt64) throws(ControlError) -> Void,
        letGo: @escaping @Sendable () -> Void, handover: HandoverSteps
    ) {
        self.hold = hold
        self.letGo = letGo
        self.handover = handover
    }

    var isPaused: Bool {
        state.withLock { state in
            switch state {
            case .paused, .releasing: true
            default: false
            }
        }
    }

    var isReleased: Bool {
        state.withLock { state in
            if case .released = state { true } else { false }
        }
    }

    /// Starts a pause that belongs to `holder`. Its time runs from when the writes stand still.
    func begin(holder: UInt64, milliseconds: UInt64) throws(ControlError) {
        let result: Result<Void, ControlError> = beginning.withLock { _ in
            do throws(ControlError) {
                return .success(try beginInTurn(holder: holder, milliseconds: milliseconds))
            } catch {
                return .failure(error)
            }
        }
        try result.get()
    }

    private func beginInTurn(holder: UInt64, milliseconds: UInt64) throws(ControlError) {
        let refusal: ControlError? = state.withLock { state in
            switch state {
            case .running, .expired: nil
            case .paused, .releasing:
                ControlError(code: ControlError.busy, message: "the disk's writes are paused already")
            case .released: Self.released
            case .closed: Self.closed
            }
        }
        if let refusal { throw refusal }
        let watch: Watch
        do { watch = try Watch() } catch { throw ControlError(code: "io", message: "cannot watch a pause: \(error)") }
        try hold(milliseconds)
        let isClosed = state.withLock { state in
            if case .closed = state {
                letGo()
                return true
            }
            state = .paused(holder: holder, watch: watch)
            return false
        }
        if isClosed { throw Self.closed }
        do {
            // Not joined: it ends by itself, at the latest at the deadline.
            _ = try OwnThread(name: "pause-deadline") { [weak self] in
                var entries = [PollEntry(watch.pipe.reading.number, .readable)]
                let woken = (try? pollDescriptors(&entries, deadlineMilliseconds: Int(clamping: milliseconds))) ?? 0
                if woken == 0 { self?.expire(watch) }
            }
        } catch {
            _ = end(holder: holder)
            throw ControlError(code: "io", message: "cannot watch a pause: \(error)")
        }
    }

    /// Ends the pause of `holder`, if it has one. - Returns: `false` when it had ended by itself.
    func end(holder: UInt64) -> Bool {
        state.withLock { state in
            switch state {
            case .paused(holder, let watch):
                state = .running
                letGo()
                try? watch.pipe.writing.writeAll([0])
                return true
            case .releasing(holder):
                // Whoever asked may be dead: what it has put on record counts.
                if handover.isGivenAway() {
                    handover.finish()
                    state = .released
                } else {
                    handover.cancel()
                    letGo()
                    state = .running
                }
                return true
            case .expired(holder):
                state = .running
                return false
            default: return true
            }
        }
    }

    /// Ends whatever pause there is, and allows no other: the device closes.
    func close() {
        state.withLock { state in
            switch state {
            case .released: return
            case .paused(_, let watch):
                letGo()
                try? watch.pipe.writing.writeAll([0])
            case .releasing:
                // They may be another host's already.
                handover.finish()
            default: break
            }
            state = .closed
        }
    }

    /// This side is about to end connections: a holder that lives on may still put the disk on record as another
    /// host's, so what its release holds fails.
    func failRelease() {
        state.withLock { state in
            guard case .releasing = state else { return }
            handover.finish()
            state = .released
        }
    }

    func holds(_ holder: UInt64) -> Bool {
        state.withLock { state in
            if case .paused(holder, _) = state { true } else { false }
        }
    }

    /// Turns the pause of `holder` into one without a deadline, which ends with a record that gives the disk away, or
    /// with the holder.
    func release(holder: UInt64) throws(ControlError) {
        let result: Result<Void, ControlError> = state.withLock { state in
            guard case .paused(holder, let watch) = state else { return .failure(Self.expired) }
            // The deadline must not let writes go on between the two, so both are within the lock.
            do throws(DiskError) { try handover.begin() } catch {
                return .failure(error.code == .busy ? Self.expired : ControlError(error))
            }
            state = .releasing(holder: holder)
            try? watch.pipe.writing.writeAll([0])
            return .success(())
        }
        try result.get()
    }

    /// The record is there: nothing is written here any more.
    func confirmRelease(holder: UInt64) throws(ControlError) {
        let isReleasing = state.withLock { state in
            guard case .releasing(holder) = state else { return false }
            handover.finish()
            state = .released
            return true
        }
        guard isReleasing else {
            throw ControlError(code: ControlError.invalid, message: "this connection releases no disk")
        }
    }

    private func expire(_ watch: Watch) {
        state.withLock { state in
            guard case .paused(let holder, let current) = state, current === watch else { return }
            state = .expired(holder: holder)
            letGo()
        }
    }

    static let expired = ControlError(
        code: ControlError.expired, message: "the pause ended by itself at its deadline; writes have gone on since")
    static let closed = ControlError(code: ControlError.unreachable, message: "the disk is closed")
    static let released = ControlError(
        code: ControlError.released, message: "the disk belongs to another host; attach it there")
}
