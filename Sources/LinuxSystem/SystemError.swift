public import SystemPackage

/// A system call that failed: which one, on what, and why.
public struct SystemError: Error, Hashable, Sendable, CustomStringConvertible {
    public var errno: Errno
    /// What was being done, as a verb: `open`, `write`, `rename`.
    public var operation: String
    /// The file, device or process it was done to.
    public var subject: String

    public init(errno: Errno, operation: String, subject: String) {
        self.errno = errno
        self.operation = operation
        self.subject = subject
    }

    public var description: String { "cannot \(operation) \(subject): \(reason)" }

    /// In words that say what to do, where the kernel's do not.
    private var reason: String {
        switch (errno, operation) {
        case (.illegalSeek, "open"): "it is a pipe, a socket or a terminal, not a file"
        case (.illegalByteSequence, "resolve"): "it leads to a name that is not UTF-8"
        case (.fileTooLarge, "read"): "the file is larger than it may be"
        case (.fileTooLarge, _): "the limit on the size of a file is reached, of this process (ulimit -f) or its host"
        default: errno.description.lowercased()
        }
    }
    public var isOutOfSpace: Bool { kind == .outOfSpace }
    /// It may be gone the next time: space, memory, a server of the host's that does not answer.
    public var mayPass: Bool { isOutOfSpace || errno == .noMemory || errno == .timedOut }

    /// What a user can do about it: the one place that sorts error numbers.
    public enum Kind: Hashable, Sendable {
        /// Free some space, or raise the quota.
        case outOfSpace
        case notFound
        case exists
        /// The file system is mounted read-only.
        case readOnly
        /// Another user may.
        case permission
        /// Somebody else uses it.
        case busy
        /// The path or the value can't be right.
        case misuse
        /// The host's medium or kernel failed.
        case io
    }

    public var kind: Kind {
        switch errno {
        case .noSpace, .diskQuotaExceeded: .outOfSpace
        case .noSuchFileOrDirectory, .notDirectory: .notFound
        case .fileExists: .exists
        case .readOnlyFileSystem: .readOnly
        case .permissionDenied, .notPermitted: .permission
        case .resourceBusy, .textFileBusy: .busy
        case .isDirectory, .tooManySymbolicLinkLevels, .fileNameTooLong, .illegalSeek, .illegalByteSequence: .misuse
        default: .io
        }
    }
}

/// The value of a shim's result, or the error it stands for.
public func check<T: SignedInteger>(
    _ result: T, _ operation: @autoclosure () -> String, _ subject: @autoclosure () -> String
) throws(SystemError) -> T {
    guard result < 0 else { return result }
    throw SystemError(errno: Errno(rawValue: CInt(-result)), operation: operation(), subject: subject())
}
