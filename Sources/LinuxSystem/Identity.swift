internal import CSystemShims
internal import Geometry

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

    /// Whoever reads from a connection finds its end; what is written to it still gets through.
    public static func endReceiving(_ socket: CInt) { _ = shim_shutdown_receiving(socket) }

    /// The process at the other end of a connection, as it was when it connected; `nil` where that is out of sight.
    public static func peerProcess(of connection: CInt) -> Int32? {
        let process = shim_peer_process(connection)
        return process > 0 ? process : nil
    }
}

/// Tells one start of this host from another; empty when the kernel does not say.
public func bootIdentifier() -> String {
    ((try? kernelText("/proc/sys/kernel/random/boot_id")) ?? "").filter { !$0.isWhitespace }
}

/// Whether nobody but this user and root can have written the file, or put another one or another folder in its place.
/// - Parameter path: absolute, without symbolic links.
public func isOnlyOurs(_ path: String) -> Bool {
    let stickyBit: UInt32 = 0o1000
    var path = path
    var isFolder = false
    while true {
        var status = shim_stat()
        guard unsafe shim_stat(path, &status) == 0 else { return false }
        let isOurs = status.owner == effectiveUser() || status.owner == 0
        // In a sticky folder nobody replaces what is another's.
        let isSafe = status.mode & 0o022 == 0 || (isFolder && status.mode & stickyBit != 0)
        guard isOurs, isSafe else { return false }
        guard PathText.isAbsolute(path), path != "/" else { return path == "/" }
        path = PathText.parent(of: path)
        isFolder = true
    }
}
