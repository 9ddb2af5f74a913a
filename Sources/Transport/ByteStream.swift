/// An ordered stream of bytes to a peer and back: an SSH channel, a pair of pipes, a socket.
///
/// One thread may read while another writes. A call blocks until it gets on, but fails with `.timedOut` when not a byte
/// moved for the stream's time limit.
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
        /// The target's text can't be understood.
        case invalidTarget
        /// The peer said why it could not do what was asked: ``TransportError/peerCode`` has its word for it.
        case peerFailed
    }
    public var code: Code
    /// What is wrong, where, and what to do.
    public var message: String
    /// For `.peerFailed`: the peer's error code, one word, stable across versions (`notFound`, `outOfSpace`, …).
    public var peerCode: String?
    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }
    public var description: String { message }
    /// Whether the same call may succeed later without anybody changing anything.
    public var isRetryable: Bool { [.unreachable, .closed, .timedOut].contains(code) }
}
