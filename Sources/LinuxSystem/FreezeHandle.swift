internal import CSystemShims
internal import Synchronization
internal import SystemPackage

/// A file system that takes no writes as long as this lives: what its device holds is then consistent and durable.
///
/// The kernel does not thaw when the process dies. Who must survive that needs a second process with a deadline.
public final class FreezeHandle: Sendable {
    public let mountPoint: String
    private let descriptor: OwnedDescriptor
    private let isFrozen: Mutex<Bool>

    /// Writes out what is not on the device yet, so that a freeze that follows has little left to wait for.
    public static func synchronize(_ mountPoint: String) throws(SystemError) {
        let fd = try check(unsafe shim_open_file(mountPoint, SHIM_OPEN_FOLDER, 0), "open", mountPoint)
        let descriptor = OwnedDescriptor(adopting: fd)
        _ = try check(shim_syncfs(descriptor.number), "synchronize", mountPoint)
    }

    /// Freezes the file system at `mountPoint`; waits until all that was written to it is on its device.
    /// - Throws: EBUSY when it is frozen already, EOPNOTSUPP when it can't be, EPERM without privilege.
    public init(freezing mountPoint: String) throws(SystemError) {
        self.mountPoint = mountPoint
        let fd = try check(unsafe shim_open_file(mountPoint, SHIM_OPEN_FOLDER, 0), "open", mountPoint)
        descriptor = OwnedDescriptor(adopting: fd)
        isFrozen = Mutex(false)
        _ = try check(shim_freeze(descriptor.number), "freeze", mountPoint)
        isFrozen.withLock { $0 = true }
    }

    /// Lets writes go on. Later calls do nothing.
    public func thaw() throws(SystemError) {
        let result: CInt = isFrozen.withLock { isFrozen in
            guard isFrozen else { return 0 }
            isFrozen = false
            return shim_thaw(descriptor.number)
        }
        _ = try check(result, "thaw", mountPoint)
    }

    /// Thaws the file system at `mountPoint`, whoever froze it. - Returns: `false` when it was not frozen.
    public static func thaw(_ mountPoint: String) throws(SystemError) -> Bool {
        let fd = try check(unsafe shim_open_file(mountPoint, SHIM_OPEN_FOLDER, 0), "open", mountPoint)
        let descriptor = OwnedDescriptor(adopting: fd)
        let result = shim_thaw(descriptor.number)
        if result == -Errno.invalidArgument.rawValue { return false }
        _ = try check(result, "thaw", mountPoint)
        return true
    }

    deinit {
        let isLeft = isFrozen.withLock { $0 }
        if isLeft { _ = shim_thaw(descriptor.number) }
    }
}
