public import LinuxSystem

/// How a channel behaves. Both sides tell the other what it must know of this in their hello.
public struct ChannelOptions: Hashable, Sendable {
    /// Of this side, for messages to people.
    public var product = "unknown"
    public var features: UInt64 = 0
    /// What may wait unread, in bytes: the channel's share of memory for received messages. At least twice the largest
    /// message, so that a sender can fill one half while the other is being read.
    public var windowBytes = 16 << 20
    /// After this much silence the peer is given up. Its stream should have the same limit.
    public var silenceMilliseconds = 30_000

    public init() {}
}

/// Messages over a byte stream, godwit-peer(5): checked frames, flow control, and signs of life while nothing is said.
///
/// A thread of its own reads and another one writes, so a long computation between two calls never looks like a dead
/// peer, and a slow receiver never stops the pings. Memory is bounded by the window and by ``ChannelState/outboxMax``.
public final class MessageChannel: MessagePeer {
    private let core: Core
    private let threads: [OwnThread]

    /// Starts to talk; ``greeting()`` waits for the answer, and the first `receive` does too.
    /// - Parameters:
    ///   - peerName: how messages to people name the other side.
    ///   - time: for round-trip times and pings.
    public init(
        stream: any ByteStream, peerName: String = "the peer", options: ChannelOptions = ChannelOptions(),
        time: any TimeSource = SystemTime()
    ) throws(TransportError) {
        precondition(options.windowBytes >= 2 * (Message.payloadMax + FrameHeader.byteCount), "room for two messages")
        let core = Core(stream: stream, peerName: peerName, options: options, time: time)
        self.core = core
        do throws(SystemError) {
            let writer = try OwnThread(name: "peer-write") { core.runWriter() }
            do throws(SystemError) {
                threads = [writer, try OwnThread(name: "peer-read") { core.runReader() }]
            } catch {
                core.abort(TransportError(.system, error.description))
                throw error
            }
        } catch {
            throw TransportError(.system, error.description)
        }
    }

    deinit { core.abort(TransportError(.closed, "the connection to \(core.peerName) was dropped")) }

    /// Waits for the peer's hello.
    public func greeting() throws(TransportError) -> PeerInfo {
        let info = try core.state.wait { state throws(TransportError) -> PeerInfo? in
            if let failure = state.failure { throw failure }
            return state.peer
        }
        guard let info else { preconditionFailure("a wait without a deadline ends with an answer") }
        return info
    }

    /// The last measured time from a ping to its pong.
    public var roundTripNanoseconds: UInt64? { core.state.withLock { $0.roundTripNanoseconds } }

    public func send(_ message: Message) throws(TransportError) {
        precondition(message.payload.count <= Message.payloadMax, "a message has at most \(Message.payloadMax) bytes")
        precondition(message.kind >= ChannelKind.firstOfServices, "lower kinds belong to the channel")
        let core = self.core
        _ = try core.state.wait { state throws(TransportError) -> Bool? in
            if state.hasPeerSaidBye { throw TransportError(.closed, "\(core.peerName) has ended the conversation") }
            if let failure = state.failure { throw failure }
            if state.isClosing { throw TransportError(.closed, "the connection to \(core.peerName) is closed") }
            guard state.canQueue else { return nil }
            state.queue(message)
            return true
        }
    }

    public func receive() throws(TransportError) -> Message? {
        let core = self.core
        let answer = try core.state.wait { state throws(TransportError) -> Received? in
            if let message = state.takeReceived() { return .message(message) }
            if state.hasPeerSaidBye { return .end }
            if let failure = state.failure { throw failure }
            if state.isClosing { throw TransportError(.closed, "the connection to \(core.peerName) is closed") }
            return nil
        }
        guard case .message(let message) = answer else { return nil }
        return message
    }

    private enum Received {
        case message(Message)
        case end
    }

    public func fail(code: String, message: String) {
        var writer = PayloadWriter()
        writer.put(text: code)
        writer.put(text: message)
        core.state.change { $0.giveUp(Message(kind: ChannelKind.failure, payload: writer.bytes)) }
        finish()
    }

    public func close() {
        core.state.change { $0.close() }
        finish()
    }

    /// Lets the writer end, but not for ever: a peer that takes nothing any more is cut off.
    private func finish() {
        let deadline = core.time.monotonic() + UInt64(core.options.silenceMilliseconds) * 1_000_000
        _ = core.state.wait(until: deadline) { $0.hasWriterEnded ? true : nil }
        core.stream.close()
        for thread in threads { thread.join() }
    }
}

extension MessageChannel {
    /// What the two threads and the channel share.
    fileprivate final class Core: Sendable {
        let stream: any ByteStream
        let peerName: String
        let options: ChannelOptions
        let time: any TimeSource
        let state: Monitor<ChannelState>

        init(stream: any ByteStream, peerName: String, options: ChannelOptions, time: any TimeSource) {
            self.stream = stream
            self.peerName = peerName
            self.options = options
            self.time = time
            state = Monitor(ChannelState(ownWindow: options.windowBytes))
        }

        var hello: Hello {
            Hello(
                window: UInt32(clamping: options.windowBytes),
                silenceMilliseconds: UInt32(clamping: options.silenceMilliseconds),
                features: options.features, product: options.product)
        }

        /// Ends both threads.
        func abort(_ error: TransportError) {
            state.change { $0.fail(error) }
            stream.close()
        }

        func runWriter() {
            defer { state.change { $0.hasWriterEnded = true } }
            do throws(TransportError) {
                try write([hello.message], after: Hello.preamble)
                state.change { $0.hasGreeted = true }
                while true {
                    switch nextStep() {
                    case .write(let messages): try write(messages, after: [])
                    case .wait: state.change { [time] state in state.ping(at: time.monotonic()) }
                    case .end: return
                    }
                }
            } catch {
                // When the peer said why before it went, the reader is about to learn it: that is the better reason.
                _ = state.wait(until: time.monotonic() + 2_000_000_000) {
                    $0.failure != nil || $0.hasPeerSaidBye ? true : nil
                }
                abort(error)
            }
        }

        /// In milliseconds: what a peer can demand at most.
        private static let pingIntervalMin: UInt32 = 20

        /// Waits for something to do; `.wait` when there was nothing for so long that the peer needs a sign of life.
        private func nextStep() -> ChannelState.Step {
            let silence = state.withLock {
                min($0.peerSilenceMilliseconds, UInt32(clamping: options.silenceMilliseconds))
            }
            let deadline = time.monotonic() + UInt64(max(silence / 3, Self.pingIntervalMin)) * 1_000_000
            let step = state.wait(until: deadline) { state -> ChannelState.Step? in
                let step = state.nextStep()
                if case .wait = step { return nil }
                return step
            }
            return step ?? .wait
        }

        private func write(_ messages: [Message], after preamble: [UInt8]) throws(TransportError) {
            var buffer = preamble
            for message in messages {
                FrameHeader(of: message).append(to: &buffer)
                if message.payload.count <= 32 << 10 {
                    buffer.append(contentsOf: message.payload)
                } else {
                    try stream.writeBytes(buffer)
                    try stream.writeBytes(message.payload)
                    buffer.removeAll(keepingCapacity: true)
                }
            }
            if !buffer.isEmpty { try stream.writeBytes(buffer) }
        }

        func runReader() {
            var reader = FrameReader(stream: stream, peerName: peerName)
            do throws(TransportError) {
                try greet(&reader)
                while let message = try reader.nextMessage() {
                    let goesOn = try state.change { [time, peerName] state throws(TransportError) in
                        try state.receive(message, peerName: peerName, now: time.monotonic())
                    }
                    guard goesOn else { return }
                }
                throw TransportError(.closed, "the connection to \(peerName) ended without a goodbye")
            } catch {
                state.change { $0.fail(error) }
                // The peer shall see our hello also when we can't talk to it: it has a reason to print, too.
                let deadline = time.monotonic() + 2_000_000_000
                _ = state.wait(until: deadline) { $0.hasGreeted || $0.hasWriterEnded ? true : nil }
                abort(error)
            }
        }

        private static let foreignBytesMax = 240

        /// What somebody says who is no agent, up to the end of a line: it may tell why.
        private func foreignWords(_ start: [UInt8], _ reader: inout FrameReader) -> String {
            var bytes = start
            let newline = UInt8(ascii: "\n")
            let deadline = time.monotonic() + 5_000_000_000
            // Blank lines in front of it tell nothing, and may come for ever.
            while time.monotonic() < deadline, bytes.count < Self.foreignBytesMax,
                bytes.last != newline || bytes.allSatisfy({ $0 <= 0x20 })
            {
                guard let next = try? reader.take(1, mayEnd: true) else { break }
                bytes += next
            }
            let words = String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline).joined(separator: " ")
            return bytes.count < Self.foreignBytesMax ? words : words + "…"
        }

        private func greet(_ reader: inout FrameReader) throws(TransportError) {
            guard let start = try reader.take(Hello.preamble.count, mayEnd: true) else {
                throw TransportError(
                    .closed, "\(peerName) ended the connection without a word: is godwit installed there?")
            }
            guard start == Hello.preamble else {
                throw TransportError(
                    .protocolViolation,
                    "\(peerName) answered \"\(foreignWords(start, &reader))\" instead of godwit's greeting: "
                        + "the far side's command must be "
                        + "'godwit agent --stdio', and its shell's start-up files must print nothing")
            }
            guard let first = try reader.nextMessage() else {
                throw TransportError(.closed, "the connection to \(peerName) ended in the middle of its greeting")
            }
            let theirs = try Hello(parsing: first)
            let info = try hello.agree(with: theirs, peerName: peerName)
            state.change { $0.setPeer(info, window: theirs.window, silenceMilliseconds: theirs.silenceMilliseconds) }
        }
    }
}

extension ByteStream {
    func writeBytes(_ bytes: [UInt8]) throws(TransportError) {
        var failure: TransportError?
        unsafe bytes.withUnsafeBytes { memory in
            do throws(TransportError) { try unsafe write(memory) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}
