public import BackupStore
public import DiskImage
internal import LinuxSystem

/// Why a backup, a restore or a verification did not end well.
public struct BackupError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// The store's side failed.
        case store(StoreError.Code)
        /// The disk's side failed.
        case disk(DiskError.Code)
        /// It was asked to stop. What was done so far helps the next run.
        case cancelled
        /// The request makes no sense.
        case invalid
        /// Another backup of the same disk is running.
        case busy
        case io
        case outOfSpace
        case exists
    }
    public var code: Code
    /// What is wrong, where, and what to do.
    public var message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public init(_ error: StoreError) {
        code = .store(error.code)
        message = error.message
    }

    public init(_ error: DiskError) {
        code = .disk(error.code)
        message = error.message
    }

    init(_ error: SystemError) {
        switch error.kind {
        case .outOfSpace: code = .outOfSpace
        case .readOnly: code = .disk(.readOnly)
        case .permission: code = .disk(.permission)
        default: code = .io
        }
        message = error.description
    }

    public var description: String { message }
}

/// Runs a store's operation, with its errors as the job's.
func onStore<R: ~Copyable>(_ body: () throws(StoreError) -> R) throws(BackupError) -> R {
    do throws(StoreError) { return try body() } catch { throw BackupError(error) }
}

/// Runs a disk's operation, with its errors as the job's.
func onDisk<R: ~Copyable>(_ body: () throws(DiskError) -> R) throws(BackupError) -> R {
    do throws(DiskError) { return try body() } catch { throw BackupError(error) }
}

/// Runs a file operation, with its errors as the job's.
func onHost<R: ~Copyable>(_ body: () throws(SystemError) -> R) throws(BackupError) -> R {
    do throws(SystemError) { return try body() } catch {
        throw BackupError(error)
    }
}
