/// What the side that connected asks the other to do: the first message after the hello, godwit-peer(5).
public struct ServiceRequest: Hashable, Sendable {
    /// Kind of the message that asks.
    public static let kind: UInt16 = 256
    /// Kind of the answer that the service is ready.
    public static let openedKind: UInt16 = 257

    /// `store` or `migrate`.
    public var service: String
    /// The folder that it is about, as the peer names it; relative ones start where the peer's process did.
    public var path: String
    /// Whether anything may be changed there.
    public var isReadOnly: Bool

    public init(service: String, path: String, isReadOnly: Bool) {
        self.service = service
        self.path = path
        self.isReadOnly = isReadOnly
    }

    public init(parsing message: Message) throws(TransportError) {
        guard message.kind == Self.kind else {
            throw TransportError(
                .protocolViolation, "the peer began with message kind \(message.kind), not with a service")
        }
        var reader = PayloadReader(message.payload)
        service = try reader.text("service")
        path = try reader.text("path")
        isReadOnly = try reader.next("access", as: UInt8.self) == 0
        // What follows is for later versions.
    }

    public var message: Message {
        var writer = PayloadWriter()
        writer.put(text: service)
        writer.put(text: path)
        writer.put(UInt8(isReadOnly ? 0 : 1))
        return Message(kind: Self.kind, id: 0, payload: writer.bytes)
    }
}

/// The answer to a request that could not be done; the conversation goes on. One form for all services.
public struct ServiceFailure: Hashable, Sendable {
    public static let kind: UInt16 = 258

    /// One word, stable across versions: what the other side switches over.
    public var code: String
    /// For people.
    public var text: String

    public init(code: String, text: String) {
        self.code = code
        self.text = text
    }

    public init(parsing message: Message) throws(TransportError) {
        var reader = PayloadReader(message.payload)
        code = try reader.text("failure code")
        text = try reader.text("failure message")
    }

    /// The answer to request `id`.
    public func message(id: UInt32) -> Message {
        var writer = PayloadWriter()
        writer.put(text: code)
        writer.put(text: text)
        return Message(kind: Self.kind, id: id, payload: writer.bytes)
    }

    public var error: TransportError {
        var error = TransportError(.peerFailed, text)
        error.peerCode = code
        return error
    }
}

extension MessagePeer {
    /// Asks for a service and waits until it is ready.
    /// - Returns: what the service says first; each service has its own.
    /// - Throws: `.peerFailed` when it is refused.
    public func open(_ request: ServiceRequest) throws(TransportError) -> Message {
        try send(request.message)
        guard let answer = try receive() else {
            throw TransportError(.closed, "the peer ended the conversation instead of opening '\(request.service)'")
        }
        if answer.kind == ServiceFailure.kind { throw try ServiceFailure(parsing: answer).error }
        guard answer.kind == ServiceRequest.openedKind else {
            throw TransportError(
                .protocolViolation, "the peer answered a request for a service with kind \(answer.kind)")
        }
        return answer
    }
}
