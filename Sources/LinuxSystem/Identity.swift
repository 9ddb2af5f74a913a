internal import CSystemShims

/// The user with whose rights this process runs.
public func effectiveUser() -> UInt32 { shim_effective_user() }

/// This process's number.
public func ownProcess() -> Int32 { shim_getpid() }

extension OwnedDescriptor {
    /// A further descriptor, above the standard streams, of the file that `descriptor` leads to.
    public init(duplicating descriptor: CInt) throws(SystemError) {
        self.init(adopting: try check(shim_duplicate(descriptor), "duplicate", "descriptor \(descriptor)"))
    }
}

extension UnixSocket {
    /// Ends both directions of a connection, or a listener: whoever waits on it in another thread wakes up. The
    /// descriptor stays open.
    public static func end(_ socket: CInt) { _ = shim_shutdown(socket) }
}

/// Tells one start of this host from another; empty when the kernel does not say.
public func bootIdentifier() -> String {
    ((try? kernelText("/proc/sys/kernel/random/boot_id")) ?? "").filter { !$0.isWhitespace }
}
