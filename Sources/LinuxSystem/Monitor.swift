internal import CSystemShims

/// A value behind a lock, whose changes other threads can wait for, with a deadline. `Mutex` is lighter where nobody
/// waits.
@safe public final class Monitor<Value>: @unchecked Sendable {
    // @unchecked: `value` is touched only between lock and unlock of `lock`; the pointer is constant.
    private let lock: OpaquePointer
    private var value: Value

    public init(_ value: sending Value) {
        guard let made = unsafe shim_monitor_new() else { preconditionFailure("out of memory for a lock") }
        unsafe lock = made
        self.value = value
    }

    deinit { unsafe shim_monitor_free(lock) }

    /// Reads or changes the value without waking anybody.
    public func withLock<R, E: Error>(_ body: (inout Value) throws(E) -> R) throws(E) -> R {
        unsafe shim_monitor_lock(lock)
        defer { unsafe shim_monitor_unlock(lock) }
        return try body(&value)
    }

    /// Changes the value and wakes every waiter.
    public func change<R, E: Error>(_ body: (inout Value) throws(E) -> R) throws(E) -> R {
        unsafe shim_monitor_lock(lock)
        defer {
            unsafe shim_monitor_wake_all(lock)
            unsafe shim_monitor_unlock(lock)
        }
        return try body(&value)
    }

    /// Calls `body` now and after each change, until it answers; what it changes wakes the other waiters.
    /// - Parameter deadline: on the monotonic clock in nanoseconds; `nil` waits for ever.
    /// - Returns: `nil` when the deadline passed without an answer.
    public func wait<R, E: Error>(
        until deadline: UInt64? = nil, _ body: (inout Value) throws(E) -> R?
    ) throws(E) -> R? {
        unsafe shim_monitor_lock(lock)
        defer { unsafe shim_monitor_unlock(lock) }
        while true {
            if let answer = try body(&value) {
                unsafe shim_monitor_wake_all(lock)
                return answer
            }
            guard unsafe shim_monitor_wait(lock, deadline ?? .max) != 0 else {
                // One last look: the change may have come together with the deadline.
                guard let answer = try body(&value) else { return nil }
                unsafe shim_monitor_wake_all(lock)
                return answer
            }
        }
    }
}
