public import DiskImage
internal import LinuxSystem
public import Transport

/// Why a migration did not happen, or is not finished.
public struct MigrationError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: String, Hashable, Sendable, Codable {
        /// Something is in the way on one side; nothing was changed. The message lists all of it.
        case refused
        /// The guest writes faster than the link carries. It runs on at the source.
        case notConverging
        /// Another migration of the disk, or to the same place, is under way.
        case busy
        /// The connection failed. What has arrived stays, a rerun goes on from there.
        case link
        /// The source's disk cannot be read, or its folder not be written.
        case source
        /// The target cannot write.
        case target
        /// The two copies differ.
        case digestMismatch
        /// A command that stops or starts the guest failed.
        case guest
        /// The final phase took longer than the guest may be held.
        case expired
        /// It failed, and the guest, which had been stopped, could not be started again here: it runs nowhere.
        case guestDown
        /// Stopped by the user.
        case cancelled
        /// The source has given the disk up and the target has not confirmed it: recover.
        case unconfirmed
        /// The disk belongs to another host already.
        case migrated
        /// The peer sent what it must not.
        case protocolViolation
    }
    /// What the layer below says it was, where that tells more than ``code``.
    public enum Cause: Hashable, Sendable {
        case disk(DiskError.Code)
        case link(TransportError.Code)
        /// Who serves the disk here gave no sign in time.
        case silence
    }
    public var code: Code
    public var cause: Cause?
    /// What is wrong, where, and what to do.
    public var message: String

    public init(_ code: Code, _ message: String, cause: Cause? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public init(_ code: Code, _ error: DiskError) { self.init(code, error.message, cause: .disk(error.code)) }

    public var description: String { message }

    init(_ error: TransportError) {
        self.init(
            error.code == .protocolViolation ? .protocolViolation : .link, error.message, cause: .link(error.code))
    }
}

/// Runs `body` and says on whose side it failed.
func at<R: ~Copyable>(
    _ side: MigrationError.Code, _ body: () throws(SystemError) -> R
) throws(MigrationError) -> R {
    do throws(SystemError) { return try body() } catch { throw MigrationError(side, error.description) }
}

/// Runs `body` and says on whose side it failed.
func disk<R: ~Copyable>(
    _ side: MigrationError.Code, _ body: () throws(DiskError) -> R
) throws(MigrationError) -> R {
    do throws(DiskError) { return try body() } catch { throw MigrationError(side, error) }
}

func overLink<R>(_ body: () throws(TransportError) -> R) throws(MigrationError) -> R {
    do throws(TransportError) { return try body() } catch { throw MigrationError(error) }
}
