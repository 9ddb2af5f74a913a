internal import CSystemShims

/// The user with whose rights this process runs.
public func effectiveUser() -> UInt32 { shim_effective_user() }

/// This process's number.
public func ownProcess() -> Int32 { shim_getpid() }

extension UnixSocket {
    /// Ends both directions of a connection, or a listener: whoever waits on it in another thread wakes up. The
    /// descriptor stays open.
    public static func end(_ socket: CInt) { _ = shim_shutdown(socket) }
}
