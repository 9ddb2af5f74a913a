internal import CSystemShims

/// Where time comes from. Passed in, so that tests can script it.
public protocol TimeSource: Sendable {
    /// Nanoseconds since an arbitrary start; never goes back.
    func monotonic() -> UInt64
    /// Nanoseconds since 1970-01-01 UTC.
    func realtime() -> UInt64
}

extension TimeSource {
    /// Nanoseconds of the monotonic clock from `start` until now. 0 if `start` is later: of two threads that looked at
    /// the clock before they took a lock, the first one to look may be the last one to come.
    public func elapsed(since start: UInt64) -> UInt64 {
        let now = monotonic()
        return now > start ? now - start : 0
    }
}

public struct SystemTime: TimeSource {
    public init() {}
    public func monotonic() -> UInt64 { shim_monotonic_ns() }
    public func realtime() -> UInt64 { shim_realtime_ns() }
}

/// Lets this thread rest: between two tries of what may succeed later, never to wait for another thread.
public func pauseThread(nanoseconds: UInt64) {
    var nothing: [PollEntry] = []
    _ = try? pollDescriptors(&nothing, deadlineMilliseconds: Int(clamping: nanoseconds / 1_000_000))
}

/// The largest resident set of this process so far, in bytes.
public func peakMemoryBytes() -> UInt64 { shim_peak_memory() }

/// Processors that this process may use.
public func processorCount() -> Int { max(1, Int(shim_processors())) }

/// Bytes from the kernel's random source.
public func randomBytes(_ count: Int) -> [UInt8] {
    unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
        let result = unsafe shim_random(buffer.baseAddress, UInt64(count))
        precondition(result == 0, "getrandom(2) cannot fail once the system is up")
        initialized = count
    }
}
