internal import CSystemShims
internal import Geometry
internal import Synchronization
internal import SystemPackage

/// A file system that is to be frozen: where it is mounted, and which it is. By the time that a path is opened it may
/// lead to another one, and below the root of a container it is that one's to choose.
public struct FreezeTarget: Hashable, Sendable, CustomStringConvertible {
    public var path: String
    /// `major:minor` of what has to be there; `nil` where files have other numbers than their mount (btrfs).
    public var device: String?

    public init(path: String, device: String? = nil) {
        self.path = path
        self.device = device
    }

    /// From an argument. - Parameter argument: a ``FreezeTarget/argument``, or an absolute path, whatever is there.
    public init?(argument: String) {
        guard !PathText.isAbsolute(argument) else {
            self.init(path: argument)
            return
        }
        guard let mark = argument.utf8.firstIndex(of: UInt8(ascii: "@")) else { return nil }
        let device = String(argument[..<mark])
        self.init(path: String(argument[argument.index(after: mark)...]), device: device.isEmpty ? nil : device)
    }

    /// For a process that freezes it.
    public var argument: String { "\(device ?? "")@\(path)" }
    public var description: String { path }

    fileprivate func open(_ operation: String) throws(SystemError) -> OwnedDescriptor {
        let fd = try check(unsafe shim_open_file(path, SHIM_OPEN_FOLDER, 0), "open", path)
        let descriptor = OwnedDescriptor(adopting: fd)
        guard let device else { return descriptor }
        var (major, minor): (UInt32, UInt32) = (0, 0)
        _ = try check(unsafe shim_device_of(descriptor.number, &major, &minor), "examine", path)
        guard device == "\(major):\(minor)" else {
            throw SystemError(
                errno: .staleNFSFileHandle, operation: operation,
                subject: "\(path), as another file system is there now")
        }
        return descriptor
    }
}

/// A file system that takes no writes as long as this lives: what its device holds is then consistent and durable.
///
/// The kernel does not thaw when the process dies. Who must survive that needs a second process with a deadline.
public final class FreezeHandle: Sendable {
    public let target: FreezeTarget
    private let descriptor: OwnedDescriptor
    private let isFrozen: Mutex<Bool>

    /// Writes out what is not on the device yet, so that a freeze that follows has little left to wait for.
    public static func synchronize(_ target: FreezeTarget) throws(SystemError) {
        let descriptor = try target.open("synchronize")
        _ = try check(shim_syncfs(descriptor.number), "synchronize", target.path)
    }

    /// Freezes the file system; waits until all that was written to it is on its device.
    /// - Throws: EBUSY when it is frozen already, EOPNOTSUPP when it can't be, EPERM without privilege.
    public init(freezing target: FreezeTarget) throws(SystemError) {
        self.target = target
        descriptor = try target.open("freeze")
        isFrozen = Mutex(false)
        _ = try check(shim_freeze(descriptor.number), "freeze", target.path)
        isFrozen.withLock { $0 = true }
    }

    /// Lets writes go on. Later calls do nothing.
    public func thaw() throws(SystemError) {
        let result: CInt = isFrozen.withLock { isFrozen in
            guard isFrozen else { return 0 }
            isFrozen = false
            return shim_thaw(descriptor.number)
        }
        _ = try check(result, "thaw", target.path)
    }

    /// Thaws the file system, whoever froze it. - Returns: `false` when it was not frozen.
    public static func thaw(_ target: FreezeTarget) throws(SystemError) -> Bool {
        let descriptor = try target.open("thaw")
        let result = shim_thaw(descriptor.number)
        if result == -Errno.invalidArgument.rawValue { return false }
        _ = try check(result, "thaw", target.path)
        return true
    }

    deinit {
        let isLeft = isFrozen.withLock { $0 }
        if isLeft { _ = shim_thaw(descriptor.number) }
    }
}
