public import ImageFormat
public import LinuxSystem
internal import SystemPackage

/// Why something could not be done with a disk.
public struct DiskError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: String, Hashable, Sendable, CaseIterable {
        /// Something else altogether lies at the path.
        case notADisk
        /// A valid disk of a kind that is not handled here.
        case unsupported
        /// It contradicts itself: repair it, or restore it.
        case corrupt
        /// Another process owns it.
        case inUse
        /// The name is taken.
        case exists
        case notFound
        /// The host's file system is full. The request had no effect beyond its own range; a retry can help.
        case outOfSpace
        /// The host failed to read or write.
        case io
        /// The range ends beyond the device.
        case outOfBounds
        /// It was opened for reading only, or was released to another host.
        case readOnly
        /// The host's permissions forbid it: another user may.
        case permission
        /// Something else runs on this disk that excludes it. A retry can help.
        case busy
        /// The request makes no sense in this state.
        case invalid
    }
    public var code: Code
    /// One sentence: what is wrong and what to do about it.
    public var message: String
    /// The folder or file it is about.
    public var path: String
    /// The host lost what was written to `path` before and would not say so a second time: doing the same again proves
    /// nothing.
    public var isFinal = false
    /// The same request may succeed later, with nothing changed here: the host has no space or no memory, or a server
    /// of it does not answer.
    public var mayPass = false

    public init(_ code: Code, _ message: String, path: String) {
        self.code = code
        self.message = message
        self.path = path
    }

    public init(_ error: SystemError, path: String) {
        let code: Code =
            switch error.kind {
            case .outOfSpace: .outOfSpace
            case .notFound: .notFound
            case .exists: .exists
            case .readOnly: .readOnly
            case .permission: .permission
            case .busy: .inUse
            case .misuse: .invalid
            case .io: .io
            }
        self.init(code, error.description, path: path)
        mayPass = error.mayPass
    }

    public init(_ error: ImageError, path: String) {
        let code: Code =
            switch error.code {
            case .notAnImage: .notADisk
            case .unsupported: .unsupported
            case .corrupt, .truncated: .corrupt
            case .invalid: .invalid
            }
        self.init(code, "\(path): \(error.message)", path: path)
    }

    public var description: String { message }

    /// This happened first, and that as well.
    func and(_ other: DiskError) -> DiskError {
        guard other.message != message else { return self }
        var both = self
        both.message += "; " + other.message
        return both
    }
}

/// Runs `body` and gives its failure the path it is about.
func withPath<R: ~Copyable>(_ path: String, _ body: () throws(SystemError) -> R) throws(DiskError) -> R {
    do throws(SystemError) { return try body() } catch { throw DiskError(error, path: path) }
}

/// Runs `body` and gives its failure the path it is about.
func parsing<R>(_ path: String, _ body: () throws(ImageError) -> R) throws(DiskError) -> R {
    do throws(ImageError) { return try body() } catch { throw DiskError(error, path: path) }
}
