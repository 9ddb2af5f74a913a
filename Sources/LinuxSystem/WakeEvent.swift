internal import CSystemShims

/// Wakes a thread that sleeps in ``pollDescriptors(_:deadlineMilliseconds:)``. Wakes given before the sleep count.
public final class WakeEvent: Sendable {
    private let owned: OwnedDescriptor

    public init() throws(SystemError) {
        owned = OwnedDescriptor(adopting: try check(shim_eventfd(), "make", "an event"))
    }

    /// Readable after ``wake()``, until ``clear()``; lent.
    public var descriptor: CInt { owned.number }

    public func wake() {
        var one: UInt64 = 1
        // Fails only when the counter is full, and then it is readable anyway.
        _ = unsafe shim_write(owned.number, &one, 8)
    }

    public func clear() {
        var count: UInt64 = 0
        _ = unsafe shim_read(owned.number, &count, 8)
    }
}

/// Sets whether calls on an open descriptor fail with EAGAIN instead of blocking. - Returns: whether it was so before.
public func setNonblocking(_ descriptor: CInt, _ nonblocking: Bool) throws(SystemError) -> Bool {
    try check(shim_set_nonblocking(descriptor, nonblocking ? 1 : 0), "set the mode of", "descriptor \(descriptor)") != 0
}

/// Takes standard input and output away for a conversation: returns descriptors of their own for both, while from now
/// on reading standard input finds nothing and what is printed goes to standard error, this process's children
/// included.
public func takeStandardStreams() throws(SystemError) -> (input: CInt, output: CInt) {
    let input = try check(shim_duplicate(0), "take", "standard input")
    let output = try check(shim_duplicate(1), "take", "standard output")
    let null = OwnedDescriptor(adopting: try check(unsafe shim_open("/dev/null", 0, 0), "open", "/dev/null"))
    _ = try check(shim_redirect(0, null.number), "replace", "standard input")
    _ = try check(shim_redirect(1, 2), "replace", "standard output")
    return (input, output)
}

/// Reads what there is from a borrowed descriptor. - Returns: 0 at the end. - Throws: EAGAIN when it is non-blocking
/// and there is nothing.
public func readDescriptor(_ descriptor: CInt, into memory: UnsafeMutableRawBufferPointer) throws(SystemError) -> Int {
    let result = unsafe shim_read(descriptor, memory.baseAddress, UInt64(memory.count))
    return Int(try check(result, "read", "descriptor \(descriptor)"))
}

/// Writes what fits to a borrowed descriptor. - Throws: EAGAIN when it is non-blocking and nothing fits.
public func writeDescriptor(_ descriptor: CInt, _ memory: UnsafeRawBufferPointer) throws(SystemError) -> Int {
    let result = unsafe shim_write(descriptor, memory.baseAddress, UInt64(memory.count))
    return Int(try check(result, "write", "descriptor \(descriptor)"))
}
