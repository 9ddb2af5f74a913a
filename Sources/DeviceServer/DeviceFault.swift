public import DiskImage

/// What an NBD client is told about a failed request, and what the operator reads in the log.
public struct DeviceFault: Error, Hashable, Sendable {
    /// Positive, as in errno(3).
    public var number: CInt
    public var message: String

    public init(number: CInt, message: String) {
        self.number = number
        self.message = message
    }

    public init(_ error: DiskError) {
        let number: CInt =
            switch error.code {
            case .outOfSpace: Self.noSpace
            case .outOfBounds, .invalid: Self.invalidArgument
            case .readOnly: Self.readOnlyFileSystem
            default: Self.ioError
            }
        self.init(number: number, message: "\(error)")
    }

    /// The disk is closed here, or belongs to another host: reconnecting does not help.
    static func shutDown(_ reason: String) -> DeviceFault { DeviceFault(number: shutdownNumber, message: reason) }

    static let ioError: CInt = 5  // EIO
    static let invalidArgument: CInt = 22  // EINVAL
    static let noSpace: CInt = 28  // ENOSPC
    static let readOnlyFileSystem: CInt = 30  // EROFS
    static let shutdownNumber: CInt = 108  // ESHUTDOWN
}
