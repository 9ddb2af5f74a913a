import LinuxSystem
import Synchronization
import Testing
import Transport

/// Two channels over one stream inside the process.
func channelPair(_ change: (inout ChannelOptions) -> Void = { _ in }) throws -> (MessageChannel, MessageChannel) {
    var options = ChannelOptions()
    change(&options)
    let (a, b) = MemoryStream.pair(silenceMilliseconds: options.silenceMilliseconds)
    return (
        try MessageChannel(stream: a, peerName: "left", options: options),
        try MessageChannel(stream: b, peerName: "right", options: options)
    )
}

@Suite struct MessageChannelTests {
    @Test func `messages arrive whole, in order and both ways`() throws {
        let (a, b) = try channelPair()
        let messages = (0..<50).map { index in
            Message(
                kind: 512 + UInt16(index), id: UInt32(index),
                payload: [UInt8](repeating: UInt8(index), count: index * 5000))
        }
        let sender = try OwnThread(name: "sender") {
            for message in messages { try? a.send(message) }
        }
        for message in messages { #expect(try b.receive() == message) }
        sender.join()
        try b.send(messages[7])
        #expect(try a.receive() == messages[7])
        a.close()
        #expect(try b.receive() == nil)
        b.close()
    }

    @Test func `the largest message passes`() throws {
        let (a, b) = try channelPair()
        let message = Message(kind: 600, id: 9, payload: [UInt8](repeating: 0xA5, count: Message.payloadMax))
        for _ in 0..<8 {
            try a.send(message)
            #expect(try b.receive() == message)
        }
        a.close()
        b.close()
    }

    @Test func `both sides know each other's version and common features`() throws {
        let (left, right) = MemoryStream.pair()
        var options = ChannelOptions()
        options.product = "0.1"
        options.features = 0b011
        let a = try MessageChannel(stream: left, options: options)
        options.product = "0.2"
        options.features = 0b110
        let b = try MessageChannel(stream: right, options: options)
        #expect(try a.greeting() == PeerInfo(version: 1, product: "0.2", features: 0b010))
        #expect(try b.greeting() == PeerInfo(version: 1, product: "0.1", features: 0b010))
        a.close()
        b.close()
    }

    @Test func `a failure carries its code and text`() throws {
        let (a, b) = try channelPair()
        _ = try a.greeting()
        a.fail(code: "outOfSpace", message: "the disk is full")
        let error = #expect(throws: TransportError.self) { try b.receive() }
        #expect(error?.code == .peerFailed)
        #expect(error?.peerCode == "outOfSpace")
        #expect(error?.message == "right: the disk is full")
        b.close()
    }

    @Test func `what was sent before the goodbye is still received`() throws {
        let (a, b) = try channelPair()
        for id in 0..<100 { try a.send(Message(kind: 600, id: UInt32(id), payload: [1, 2, 3])) }
        a.close()
        for id in 0..<100 { #expect(try b.receive()?.id == UInt32(id)) }
        #expect(try b.receive() == nil)
        #expect(throws: TransportError.self) { try b.send(Message(kind: 600)) }
        b.close()
    }

    @Test func `a slow receiver holds the sender back, and is not taken for dead`() throws {
        let (a, b) = try channelPair { $0.silenceMilliseconds = 200 }
        let sent = Atomic(0)
        let sender = try OwnThread(name: "sender") {
            for id in 0..<200 {
                guard
                    (try? a.send(Message(kind: 600, id: UInt32(id), payload: [UInt8](repeating: 1, count: 1 << 20))))
                        != nil
                else { return }
                sent.add(1, ordering: .relaxed)
            }
        }
        // Longer than the limit on silence, with nothing received by the application.
        #expect(throws: Never.self) { try waitForNothing(milliseconds: 700) }
        let held = sent.load(ordering: .relaxed)
        #expect(held >= 16 && held < 64, "\(held) MiB were taken in")
        for id in 0..<200 { #expect(try b.receive()?.id == UInt32(id)) }
        sender.join()
        a.close()
        b.close()
    }

    @Test func `a peer that falls silent is given up`() throws {
        let (left, right) = MemoryStream.pair(silenceMilliseconds: 150)
        let a = try MessageChannel(stream: left, peerName: "far")
        // The other side says hello, then nothing.
        try right.sayHello()
        _ = try a.greeting()
        let error = #expect(throws: TransportError.self) { try a.receive() }
        #expect(error?.code == .timedOut)
        a.close()
    }

    @Test func `a stream that ends without goodbye is an error`() throws {
        let (left, right) = MemoryStream.pair()
        let a = try MessageChannel(stream: left, peerName: "far")
        try right.sayHello()
        right.close()
        let error = #expect(throws: TransportError.self) { try a.receive() }
        #expect(error?.code == .closed)
        #expect(error?.isRetryable == true)
        a.close()
    }

    @Test func `another protocol version is refused with both versions named`() throws {
        let (left, right) = MemoryStream.pair()
        let a = try MessageChannel(stream: left, peerName: "far")
        try right.sayHello(versions: 7...9, product: "9.0")
        let error = #expect(throws: TransportError.self) { try a.greeting() }
        #expect(error?.code == .versionMismatch)
        #expect(error?.message.contains("9.0 at far speaks peer protocol 7 to 9") == true)
        #expect(error?.message.contains("upgrade this godwit") == true)
        a.close()
    }

    @Test func `chatter of a login shell is shown`() throws {
        let (left, right) = MemoryStream.pair()
        let a = try MessageChannel(stream: left, peerName: "far")
        try right.writeAll([UInt8]("Welcome to far!\n".utf8))
        let error = #expect(throws: TransportError.self) { try a.greeting() }
        #expect(error?.code == .protocolViolation)
        #expect(error?.message.contains("Welcome") == true)
        a.close()
    }
}
