internal import CDeviceABI
public import SystemPackage

/// Why the driver did not do what it was asked to.
public struct DriverError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// The driver is not loaded, or is one that this program does not know.
        case notLoaded
        case notPermitted
        /// No device of that number.
        case noDevice
        /// Something else is going on with the device, or somebody has it open. A retry can help.
        case busy
        /// What was asked makes no sense, or the images contradict it.
        case invalid
        case notFound
        case exists
        /// The host has not the space, or not the reserve that the device wants.
        case outOfSpace
        case tooLarge
        /// A freeze ended by itself before the work was done.
        case expired
        /// The driver can't do this with these images.
        case unsupported
        case readOnly
        /// An image contradicts itself.
        case damaged
        case cancelled
        case io
    }
    public var code: Code
    public var errno: Errno
    public var message: String

    init(errno: Errno, _ operation: String, _ subject: String) {
        code =
            switch errno {
            case .noSuchFileOrDirectory where operation == "open", .noSuchAddressOrDevice: .notLoaded
            case .notPermitted, .permissionDenied: .notPermitted
            case Self.noSuchDevice: .noDevice
            case .resourceBusy, .textFileBusy: .busy
            case .noSuchFileOrDirectory: .notFound
            case .fileExists: .exists
            case .noSpace, .diskQuotaExceeded: .outOfSpace
            case .fileTooLarge, .argListTooLong: .tooLarge
            case .timedOut: .expired
            case .notSupportedOnSocket, .noFunction, .inappropriateIOCTLForDevice: .unsupported
            case .readOnlyFileSystem, .badFileDescriptor: .readOnly
            case Self.structureNeedsCleaning: .damaged
            case .canceled: .cancelled
            case .invalidArgument, .fileNameTooLong: .invalid
            default: .io
            }
        self.errno = errno
        message = "the driver could not \(operation) \(subject): \(errno.description.lowercased())"
    }

    init(_ code: Code, _ errno: Errno, _ message: String) {
        self.code = code
        self.errno = errno
        self.message = message
    }

    public var description: String { message }

    private static let noSuchDevice = Errno(rawValue: 19)
    private static let structureNeedsCleaning = Errno(rawValue: 117)
}

/// The value of a call's result, or the error it stands for.
@discardableResult
func checked(
    _ result: Int32, _ operation: @autoclosure () -> String, _ subject: @autoclosure () -> String
) throws(DriverError) -> Int32 {
    guard result < 0 else { return result }
    throw DriverError(errno: Errno(rawValue: -result), operation(), subject())
}
