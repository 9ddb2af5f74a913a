/// A queue that takes messages off its front in constant time.
struct MessageQueue {
    private var messages: [Message] = []
    private var head = 0
    /// What the waiting messages cost together.
    private(set) var cost = 0

    var first: Message? { head < messages.count ? messages[head] : nil }
    var isEmpty: Bool { head == messages.count }

    mutating func append(_ message: Message) {
        messages.append(message)
        cost += message.cost
    }

    mutating func popFirst() -> Message? {
        guard let first else { return nil }
        messages[head].payload = []
        head += 1
        cost -= first.cost
        if head == messages.count {
            messages.removeAll(keepingCapacity: true)
            head = 0
        } else if head >= 64 && head * 2 >= messages.count {
            messages.removeFirst(head)
            head = 0
        }
        return first
    }

    mutating func removeAll() { self = MessageQueue() }
}

extension Message {
    /// What the message takes of a window, in bytes.
    var cost: Int { FrameHeader.byteCount + payload.count }
}

/// What a channel knows and what it must do next; no I/O. Its owner guards it with a lock.
///
/// The receiver grants the sender a window, so what waits in the inbox is bounded and the reading thread never has to
/// stop reading: pings are answered however long the receiver thinks about a message.
struct ChannelState {
    /// Most that waits to be sent before `send` blocks; one message may go over it. It only has to keep the writing
    /// thread busy: more would be delay for the questions that come after data.
    static let outboxMax = 2 << 20
    /// Small messages are written together up to about this size.
    private static let batchMax = 64 << 10

    enum Step {
        /// Frames to write, in order.
        case write([Message])
        /// Nothing to do before something changes.
        case wait
        /// All is said.
        case end
    }

    let ownWindow: Int
    /// `nil` until the peer's hello.
    private(set) var peer: PeerInfo?
    private(set) var peerSilenceMilliseconds: UInt32 = .max
    /// Why the channel can't go on.
    private(set) var failure: TransportError?
    private(set) var hasPeerSaidBye = false
    private(set) var isClosing = false
    /// Our hello is written.
    var hasGreeted = false
    /// The writing thread is through.
    var hasWriterEnded = false
    private(set) var roundTripNanoseconds: UInt64?

    private var inbox = MessageQueue()
    /// What the peer may still send.
    private var granted: Int
    /// What was taken from the inbox and not granted again.
    private var consumed = 0

    private var outbox = MessageQueue()
    /// What we may still send.
    private var credit = 0
    private var pongDue: Message?
    private var pingDue: Message?
    private var farewell: Message?
    private var hasSaidBye = false

    init(ownWindow: Int) {
        self.ownWindow = ownWindow
        granted = ownWindow
    }

    var canQueue: Bool { outbox.isEmpty || outbox.cost < Self.outboxMax }

    mutating func queue(_ message: Message) { outbox.append(message) }

    /// Takes the next message for the application.
    mutating func takeReceived() -> Message? {
        guard let message = inbox.popFirst() else { return nil }
        consumed += message.cost
        return message
    }

    mutating func setPeer(_ info: PeerInfo, window: UInt32, silenceMilliseconds: UInt32) {
        peer = info
        credit = Int(window)
        peerSilenceMilliseconds = silenceMilliseconds
    }

    /// The first failure stays.
    mutating func fail(_ error: TransportError) {
        if failure == nil { failure = error }
    }

    mutating func close() { isClosing = true }

    /// Gives up: `message` is the last one that is sent.
    mutating func giveUp(_ message: Message) {
        outbox.removeAll()
        farewell = message
        isClosing = true
    }

    mutating func ping(at now: UInt64) {
        var writer = PayloadWriter()
        writer.put(now)
        pingDue = Message(kind: ChannelKind.ping, payload: writer.bytes)
    }

    /// What to write now. The caller writes it before it asks again.
    mutating func nextStep() -> Step {
        if failure != nil || hasSaidBye { return .end }
        guard peer != nil else { return isClosing && outbox.isEmpty && farewell == nil ? .end : .wait }
        var batch: [Message] = []
        var size = 0
        func add(_ message: Message) {
            batch.append(message)
            size += message.cost
        }
        if let pong = pongDue { add(pong) }
        pongDue = nil
        // In quarters of the window: few enough grants, and the sender does not run dry.
        if consumed >= ownWindow / 4 {
            var writer = PayloadWriter()
            writer.put(UInt32(consumed))
            granted += consumed
            consumed = 0
            add(Message(kind: ChannelKind.credit, payload: writer.bytes))
        }
        if let ping = pingDue { add(ping) }
        pingDue = nil
        while size < Self.batchMax, let message = outbox.first, message.cost <= credit {
            credit -= message.cost
            if let message = outbox.popFirst() { add(message) }
        }
        if isClosing && outbox.isEmpty {
            add(farewell ?? Message(kind: ChannelKind.bye))
            hasSaidBye = true
        }
        return batch.isEmpty ? .wait : .write(batch)
    }

    /// Takes in what the peer sent after its hello. - Returns: whether more may follow.
    mutating func receive(_ message: Message, peerName: String, now: UInt64) throws(TransportError) -> Bool {
        guard message.kind < ChannelKind.firstOfServices else {
            guard message.cost <= granted else {
                throw TransportError(.protocolViolation, "\(peerName) sent more than it was granted")
            }
            granted -= message.cost
            inbox.append(message)
            return true
        }
        var reader = PayloadReader(message.payload)
        switch message.kind {
        case ChannelKind.ping:
            guard message.payload.count == 8 else {
                throw TransportError(.protocolViolation, "\(peerName) sent a ping of \(message.payload.count) bytes")
            }
            pongDue = Message(kind: ChannelKind.pong, payload: message.payload)
        case ChannelKind.pong:
            let sent = try reader.next("time", as: UInt64.self)
            if sent <= now { roundTripNanoseconds = now - sent }
        case ChannelKind.credit:
            let more = Int(try reader.next("credit", as: UInt32.self))
            guard credit + more <= Int(UInt32.max) else {
                throw TransportError(.protocolViolation, "\(peerName) granted more than a window can be")
            }
            credit += more
        case ChannelKind.failure:
            let code = try reader.text("code")
            var error = TransportError(.peerFailed, "\(peerName): \(try reader.text("message"))")
            error.peerCode = code
            throw error
        case ChannelKind.bye:
            hasPeerSaidBye = true
            return false
        case ChannelKind.firstIgnorable...:
            break
        default:
            throw TransportError(.protocolViolation, "\(peerName) sent the unknown message kind \(message.kind)")
        }
        return true
    }
}
