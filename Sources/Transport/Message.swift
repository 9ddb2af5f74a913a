/// One message between peers, godwit-peer(5). What `kind` and `payload` mean is the service's affair.
public struct Message: Hashable, Sendable {
    /// Kinds below 256 belong to the channel itself, those below 512 to the opening of services and to failures.
    public var kind: UInt16
    /// Ties a reply to its request; 0 for messages that are neither.
    public var id: UInt32
    public var payload: [UInt8]

    /// Largest payload, in bytes; a longer one is a protocol violation.
    public static let payloadMax = 4 << 20

    public init(kind: UInt16, id: UInt32 = 0, payload: [UInt8] = []) {
        self.kind = kind
        self.id = id
        self.payload = payload
    }
}

/// Messages over a byte stream: what services are written against. ``MessageChannel`` is the real one; over
/// ``MemoryStream/pair()`` it serves in tests.
///
/// One thread may receive while others send.
public protocol MessagePeer: AnyObject, Sendable {
    /// Queues the message. Blocks while the queue is full, which is when the peer doesn't take what was sent before.
    func send(_ message: Message) throws(TransportError)
    /// The next message that is not the channel's own. - Returns: `nil` after the peer said goodbye.
    /// - Throws: `.peerFailed` when the peer gave up and said why; `.timedOut` or `.closed` when it is out of reach.
    func receive() throws(TransportError) -> Message?
    /// Tells the peer why this side gives up, dropping what is still queued; then closes.
    func fail(code: String, message: String)
    /// Sends what is queued, says goodbye and ends the stream. Closing twice is harmless.
    func close()
}
