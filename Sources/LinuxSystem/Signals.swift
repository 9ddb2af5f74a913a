internal import CSystemShims
internal import SystemPackage

/// Signals by name.
public enum Signal {
    public static let hangUp: CInt = 1
    public static let interrupt: CInt = 2
    public static let kill: CInt = 9
    public static let terminate: CInt = 15
    public static let child: CInt = 17
    public static let resume: CInt = 18
    public static let stop: CInt = 19
}

/// Signals as something to wait for instead of something that interrupts.
///
/// Make it before any other thread: a signal goes to whatever thread does not block it, and threads inherit what their
/// maker blocks.
public final class SignalWatch: Sendable {
    private let owned: OwnedDescriptor

    public init(_ signals: [CInt]) throws(SystemError) {
        let fd = unsafe shim_signal_descriptor(signals, UInt32(signals.count))
        owned = OwnedDescriptor(adopting: try check(fd, "watch", "signals"))
    }

    /// Readable when a signal is there; lent.
    public var descriptor: CInt { owned.number }

    /// The next signal; waits for one.
    public func next() throws(SystemError) -> CInt {
        // The kernel hands out whole records of 128 bytes, which begin with the number.
        let record = try owned.readSome(upTo: 128)
        guard record.count == 128 else { throw SystemError(errno: .ioError, operation: "read", subject: "a signal") }
        return CInt(record[0]) | CInt(record[1]) << 8
    }
}
