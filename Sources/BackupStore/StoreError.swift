internal import LinuxSystem

/// Why a store cannot be read or added to.
public struct StoreError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: String, Hashable, Sendable, CaseIterable {
        /// There is no store at this place.
        case notAStore
        /// A format or feature this version does not know.
        case unsupported
        /// Stored bytes are not what was written.
        case corrupt
        /// An object that another one names is not there.
        case missing
        /// Something of that name is there already.
        case exists
        case outOfSpace
        case io
        /// The store's file system takes nothing.
        case readOnly
        /// Another user may.
        case permission
        /// Somebody else does what excludes this; it can be tried again.
        case busy
        /// A request that makes no sense: an unknown point, a chunk size that does not fit.
        case invalid
        /// The peer that holds the store cannot be reached or broke off.
        case remote
        /// The peer that holds the store does not allow it.
        case refused
    }
    public var code: Code
    /// What is wrong, where, and what to do.
    public var message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    init(_ error: SystemError) {
        let code: Code =
            switch error.kind {
            case .outOfSpace: .outOfSpace
            case .readOnly: .readOnly
            case .permission: .permission
            default: .io
            }
        self.init(code, error.description)
    }

    public var description: String { message }
}

/// Runs file operations, with their errors as the store's.
func storing<R: ~Copyable>(_ body: () throws(SystemError) -> R) throws(StoreError) -> R {
    do throws(SystemError) { return try body() } catch { throw StoreError(error) }
}
