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

    public var description: String { "cannot \(operation) \(subject): \(errno.description.lowercased())" }
    public var isOutOfSpace: Bool { errno == .noSpace || errno == .diskQuotaExceeded }
}

/// The value of a shim's result, or the error it stands for.
public func check<T: SignedInteger>(
    _ result: T, _ operation: @autoclosure () -> String, _ subject: @autoclosure () -> String
) throws(SystemError) -> T {
    guard result < 0 else { return result }
    throw SystemError(errno: Errno(rawValue: CInt(-result)), operation: operation(), subject: subject())
}
