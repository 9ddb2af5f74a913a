/// One message between peers, godwit-peer(5). What `kind` and `payload` mean is the service's affair.
public struct Message: Hashable, Sendable {
    /// Kinds below 256 belong to the channel itself (hello, ping, error, bye).
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

/// Messages over a byte stream: what services are written against. `MessageChannel` is the real one; a pair of queues
/// serves in tests.
///
/// One thread may receive while others send.
public protocol MessagePeer: AnyObject, Sendable {
    func send(_ message: Message) throws(TransportError)
    /// The next message that is not the channel's own. - Returns: `nil` after the peer said goodbye.
    func receive() throws(TransportError) -> Message?
    func close()
}
