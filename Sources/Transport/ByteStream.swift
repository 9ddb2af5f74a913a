/// An ordered stream of bytes to a peer and back: an SSH channel, a pair of pipes, a socket.
///
/// One thread may read while another writes. Calls block, but never longer than the stream's own time limit.
public protocol ByteStream: AnyObject, Sendable {
    /// Reads at least one byte. - Returns: how many; 0 at the end of the stream.
    func read(into memory: UnsafeMutableRawBufferPointer) throws(TransportError) -> Int
    /// Writes all bytes (they may still be on their way when it returns).
    func write(_ memory: UnsafeRawBufferPointer) throws(TransportError)
    /// Ends both directions; a blocked call of another thread returns with an error. Closing twice is harmless.
    func close()
}

/// Why a peer cannot be reached or understood.
public struct TransportError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        case unreachable, hostKeyUnknown, hostKeyChanged, authenticationFailed, commandFailed
        case closed, timedOut, protocolViolation, versionMismatch, system
    }
    public var code: Code
    /// What is wrong, where, and what to do.
    public var message: String
    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }
    public var description: String { message }
    /// Whether the same call may succeed later without anybody changing anything.
    public var isRetryable: Bool { [.unreachable, .closed, .timedOut].contains(code) }
}
