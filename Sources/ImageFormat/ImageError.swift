internal import Codecs

/// Why an image, a descriptor or an extension cannot be read or changed.
public struct ImageError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: String, Hashable, Sendable {
        /// Something else altogether.
        case notAnImage
        /// Valid as far as can be told, but of a kind that is not handled here.
        case unsupported
        /// It contradicts itself or its file.
        case corrupt
        /// It ends too early.
        case truncated
        /// The change asked for is not possible in this state.
        case invalid
    }
    public var code: Code
    public var message: String
    /// Byte offset of the offending field in what was parsed.
    public var offset: Int

    public init(_ code: Code, _ message: String, at offset: Int = 0) {
        self.code = code
        self.message = message
        self.offset = offset
    }

    init(_ error: FieldError) { self.init(.truncated, error.message, at: error.offset) }

    public var description: String { message }
}
