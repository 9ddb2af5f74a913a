public import LinuxSystem

/// What a lease of a file allows.
public enum LeaseKind: Hashable, Sendable {
    /// To read the file: nobody changes it meanwhile. Many at a time.
    case shared
    /// To change it: nobody reads it meanwhile who relies on it.
    case exclusive
}

/// Which file a name led to.
public struct FileIdentity: Hashable, Sendable {
    public var device: UInt64
    public var inode: UInt64
    public init(device: UInt64, inode: UInt64) {
        self.device = device
        self.inode = inode
    }
}

/// A lease that is held as long as this lives; the kernel ends it with the holder's process.
public protocol HeldLease: HeldLock {
    /// The file that it is on.
    var file: FileIdentity { get }
}

/// A folder that is claimed, wherever it is by now.
public protocol HeldClaim: HeldLease {
    /// Whether there is something of that name in it.
    func has(_ name: String) throws(SystemError) -> Bool
}

/// What became of the wish for a lease.
public enum LeaseAnswer: Sendable {
    case held(any HeldLease)
    /// Others have leases that exclude it: these, as far as they are known.
    case refused([NamedProcess])
}
