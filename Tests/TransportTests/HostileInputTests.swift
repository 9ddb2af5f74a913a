import Testing
import Transport

/// A peer's bytes are hostile: whatever is wrong with them is a `TransportError`, soon.
@Suite struct HostileInputTests {
    static let conversation = RawPeer.hello() + RawPeer.frame(kind: 600, id: 7, payload: [1, 2, 3, 4, 5])

    /// All that a channel makes of `bytes`, which end the stream.
    private func outcome(of bytes: [UInt8]) throws -> Result<[Message], TransportError> {
        let (left, right) = MemoryStream.pair(silenceMilliseconds: 2000)
        let channel = try MessageChannel(stream: left, peerName: "far")
        try right.writeAll(bytes)
        right.close()
        defer { channel.close() }
        var messages: [Message] = []
        do throws(TransportError) {
            while let message = try channel.receive() { messages.append(message) }
            return .success(messages)
        } catch {
            return .failure(error)
        }
    }

    @Test func `the undamaged conversation is understood`() throws {
        let bytes = Self.conversation + RawPeer.frame(kind: 6)
        #expect(try outcome(of: bytes) == .success([Message(kind: 600, id: 7, payload: [1, 2, 3, 4, 5])]))
    }

    @Test func `a text that is no UTF-8 is an error, not another text`() {
        var reader = PayloadReader([2, 0, 0x61, 0xff])
        #expect(throws: TransportError.self) { try reader.text("a name") }
    }

    @Test func `every truncation is an error`() throws {
        for count in 0...Self.conversation.count {
            let result = try outcome(of: [UInt8](Self.conversation.prefix(count)))
            guard case .failure(let error) = result else {
                Issue.record("cut to \(count) bytes: \(result)")
                continue
            }
            #expect([.closed, .protocolViolation].contains(error.code))
        }
    }

    @Test func `every flipped bit is an error`() throws {
        let end = RawPeer.frame(kind: 6)
        for bit in 0..<Self.conversation.count * 8 {
            var bytes = Self.conversation
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            let result = try outcome(of: bytes + end)
            guard case .failure(let error) = result else {
                Issue.record("bit \(bit): \(result)")
                continue
            }
            #expect(error.code == .protocolViolation, "bit \(bit): \(error)")
        }
    }

    @Test(arguments: [
        RawPeer.frame(kind: 1),  // a second hello
        RawPeer.frame(kind: 2, payload: [1]),  // a short ping
        RawPeer.frame(kind: 3, payload: [1]),  // a short pong
        RawPeer.frame(kind: 4, payload: [1, 2]),  // a cut grant
        RawPeer.frame(kind: 4, payload: [255, 255, 255, 255]),  // more than a window
        RawPeer.frame(kind: 5, payload: [9, 0, 1]),  // a cut failure
        RawPeer.frame(kind: 99),  // unknown, and not to be ignored
    ]) func `well-formed frames that make no sense are refused`(frame: [UInt8]) throws {
        let result = try outcome(of: RawPeer.hello() + frame)
        guard case .failure(let error) = result else {
            Issue.record("\(result)")
            return
        }
        #expect(error.code == .protocolViolation)
    }

    @Test func `unknown kinds from 128 on are ignored`() throws {
        let bytes = RawPeer.hello() + RawPeer.frame(kind: 200, payload: [1]) + RawPeer.frame(kind: 6)
        #expect(try outcome(of: bytes) == .success([]))
    }

    @Test func `a sender that ignores the window is cut off`() throws {
        let (left, right) = MemoryStream.pair(capacity: 64 << 20, silenceMilliseconds: 2000)
        let channel = try MessageChannel(stream: left, peerName: "far")
        let frame = RawPeer.frame(kind: 600, payload: [UInt8](repeating: 0, count: 4 << 20))
        try right.writeAll(RawPeer.hello())
        for _ in 0..<5 { try right.writeAll(frame) }
        var count = 0
        let error = #expect(throws: TransportError.self) {
            // Not one is taken before all are there, or the window would move on: the channel closes its stream.
            try right.readToEnd()
            while try channel.receive() != nil { count += 1 }
        }
        #expect(error?.code == .protocolViolation)
        #expect(count < 5)
        channel.close()
    }
}
