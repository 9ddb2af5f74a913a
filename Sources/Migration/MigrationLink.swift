internal import LinuxSystem
internal import Transport

/// The source's end of the conversation: requests one at a time, and the delta stream with its window. For one thread.
final class MigrationLink {
    private let peer: any MessagePeer
    /// How messages to people name the target.
    let name: String
    private var nextID: UInt32 = 1
    /// Bytes of the stream that were sent, and that the target has applied.
    private(set) var sent: UInt64 = 0
    private(set) var applied: UInt64 = 0
    /// How long sending, and waiting for what was sent to be applied, took.
    private(set) var busyNanoseconds: UInt64 = 0
    private var pending: [UInt8] = []
    /// Why the target takes no more of the stream. Then it confirms nothing either, so nobody may wait for that.
    private var streamFailure: MigrationError?
    private let time: any TimeSource
    /// A message is sent when this much of the stream is together.
    private static let messageBytes = 1 << 20
    /// What belongs to the stream, and to no request.
    private static let streamID: UInt32 = 0

    init(peer: any MessagePeer, name: String, time: any TimeSource = SystemTime()) {
        self.peer = peer
        self.name = name
        self.time = time
    }

    /// Asks for the service at the target's `folder`.
    func open(folder: String) throws(MigrationError) {
        do throws(TransportError) {
            _ = try peer.open(ServiceRequest(service: "migrate", path: folder, isReadOnly: false))
        } catch {
            throw MigrationError(error.code == .peerFailed ? .refused : .link, "\(name): \(error.message)")
        }
    }

    func close() { peer.close() }

    /// Ends the conversation from another thread: whoever waits for the peer here fails.
    var hangUp: @Sendable () -> Void {
        { [peer] in peer.fail(code: "cancelled", message: "the source has given up") }
    }

    /// - Parameter onLeaves: gets what the target tells of its copy before it replies.
    func call(
        _ request: MigrationRequest, onLeaves: (([UInt8]) throws(MigrationError) -> Void)? = nil
    ) throws(MigrationError) -> MigrationReply {
        if case .abort = request {
            // What was not sent is not wanted any more.
            pending.removeAll()
        } else {
            try flush()
        }
        let id = nextID
        nextID &+= 1
        try overLink { () throws(TransportError) in
            try peer.send(Message(kind: MigrationMessage.request, id: id, payload: encodeJSON(request)))
        }
        while true {
            let message = try receive()
            switch message.kind {
            case MigrationMessage.applied: try note(message)
            case MigrationMessage.leaves:
                guard let onLeaves else { throw violation("told of its copy unasked") }
                try onLeaves(message.payload)
            case MigrationMessage.reply where message.id == id:
                guard let reply = decodeJSON(MigrationReply.self, message.payload) else {
                    throw violation("sent an unknown reply")
                }
                return reply
            case ServiceFailure.kind where message.id == id: throw try failure(message)
            case ServiceFailure.kind where message.id == Self.streamID:
                let failure = try failure(message)
                streamFailure = failure
                // The answer to this is still to come.
                if case .abort = request { continue }
                throw failure
            // Of a request that was left when the stream failed.
            case MigrationMessage.reply, ServiceFailure.kind:
                guard streamFailure != nil, message.id < id else { throw violation("answered what was not asked") }
            default: throw violation("sent message kind \(message.kind) in the middle of a migration")
            }
        }
    }

    /// As ``call(_:onLeaves:)``, for requests whose reply says nothing.
    func perform(_ request: MigrationRequest) throws(MigrationError) {
        guard case .done = try call(request) else { throw violation("gave the wrong reply") }
    }

    /// Adds bytes to the stream; blocks while the target is too far behind.
    func append(_ bytes: [UInt8]) throws(MigrationError) {
        pending += bytes
        if pending.count >= Self.messageBytes { try flush() }
    }

    /// Sends what is together, and waits until the target has applied all.
    func drain() throws(MigrationError) {
        try flush()
        let start = time.monotonic()
        defer { busyNanoseconds += time.elapsed(since: start) }
        while applied < sent { try awaitApplied() }
    }

    private func flush() throws(MigrationError) {
        if let streamFailure { throw streamFailure }
        guard !pending.isEmpty else { return }
        let start = time.monotonic()
        defer { busyNanoseconds += time.elapsed(since: start) }
        var position = 0
        while position < pending.count {
            let count = min(pending.count - position, Message.payloadMax)
            while sent + UInt64(count) > applied + MigrationMessage.windowBytes { try awaitApplied() }
            let payload = Array(pending[position..<position + count])
            try overLink { () throws(TransportError) in
                try peer.send(Message(kind: MigrationMessage.stream, id: Self.streamID, payload: payload))
            }
            sent += UInt64(count)
            position += count
        }
        pending.removeAll(keepingCapacity: true)
    }

    private func awaitApplied() throws(MigrationError) {
        if let streamFailure { throw streamFailure }
        let message = try receive()
        // A target that can't go on says so instead of what it has applied.
        if message.kind == ServiceFailure.kind {
            let failure = try failure(message)
            streamFailure = failure
            throw failure
        }
        guard message.kind == MigrationMessage.applied else { throw violation("sent kind \(message.kind) unasked") }
        try note(message)
    }

    private func note(_ message: Message) throws(MigrationError) {
        guard let count = decodeApplied(message.payload), count >= applied, count <= sent else {
            throw violation("confirmed what was not sent")
        }
        applied = count
    }

    private func receive() throws(MigrationError) -> Message {
        let message: Message?
        do throws(TransportError) { message = try peer.receive() } catch {
            throw MigrationError(
                error.code == .protocolViolation ? .protocolViolation : .link, "\(name): \(error.message)")
        }
        guard let message else { throw MigrationError(.link, "\(name) ended the conversation") }
        return message
    }

    private func failure(_ message: Message) throws(MigrationError) -> MigrationError {
        let failure = try overLink { () throws(TransportError) in try ServiceFailure(parsing: message) }
        // What only this side can know is not the target's to say: whose the disk is, or what its guest does here.
        let codes: [MigrationError.Code] = [.refused, .busy, .digestMismatch, .protocolViolation]
        let code = codes.first { $0.rawValue == failure.code } ?? .target
        return MigrationError(code, "\(name): \(failure.text)")
    }

    private func violation(_ what: String) -> MigrationError { MigrationError(.protocolViolation, "\(name) \(what)") }
}
