import LinuxSystem
@testable import NBDServer
import TestSupport
import Testing

@Suite struct HandshakeTests {
    @Test func `the name of the export is ignored, and its size told`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.greet()
        let name = Array("whatever".utf8)
        try client.sendOption(
            7, RawClient.number(UInt32(name.count)) + name + RawClient.number(UInt16(1)) + RawClient.number(UInt16(3)))
        let export = try client.optionReply(to: 7)
        #expect(export.type == 3)
        #expect(RawClient.value(export.payload[2..<10]) == ServedExport.byteCount)
        let sizes = try client.optionReply(to: 7)
        #expect(sizes.payload == [0, 3] + [512, 4096, 32 << 20].flatMap { RawClient.number(UInt32($0)) })
        #expect(try client.optionReply(to: 7).type == 1)
        #expect(try served.clientCount() == 1)
    }

    @Test(arguments: [UInt32(0), 1, 2, 3]) func `an old way to choose the export works`(flags: UInt32) throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.greet(flags: flags)
        try client.sendOption(1, Array("name".utf8))
        let answer = try client.receive(flags & 2 == 0 ? 134 : 10)
        #expect(RawClient.value(answer[0..<8]) == ServedExport.byteCount)
        // Without structured replies nothing can be asked to stay in one piece.
        #expect(RawClient.value(answer[8..<10]) == 0x16d & ~(1 << 7))
        try client.request(0, cookie: 9, offset: 0, count: 512)
        #expect(try client.reply(data: 512).error == 0)
    }

    @Test func `unknown options are refused, and the next one is understood`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.greet()
        for type in [UInt32(5), 11, 99, .max] {
            #expect(try client.option(type, [UInt8](repeating: 7, count: 1000)) == 1 << 31 | 1)
        }
        #expect(try client.option(3) == 1)
        #expect(try client.option(3, [1]) == 1 << 31 | 3)
        #expect(try client.option(8, [1]) == 1 << 31 | 3)
        // Contexts come with structured replies only.
        #expect(try client.option(10, [0, 0, 0, 0, 0, 0, 0, 0]) == 1 << 31 | 3)
        try client.go()
    }

    @Test func `options that say what can't be are refused`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.greet()
        try client.option(8)
        for payload in [[], [0], [0, 0, 0, 9, 1], [255, 255, 255, 255, 0, 0], [0, 0, 0, 0, 0, 2, 0, 3]] as [[UInt8]] {
            for type in [UInt32(6), 7, 9, 10] { #expect(try client.option(type, payload) == 1 << 31 | 3, "\(payload)") }
        }
        // Many queries that are not there.
        #expect(try client.option(10, [0, 0, 0, 0, 255, 255, 255, 255]) == 1 << 31 | 3)
        try client.go()
        #expect(try served.clientCount() == 1)
    }

    @Test func `whoever does not speak the protocol is hung up on`() throws {
        let served = try ServedExport()
        let texts: [[UInt8]] = [
            RawClient.number(UInt32(0xffff_ffff)), RawClient.number(UInt32(3)) + Array("GET / HTTP/1.1\r\n\r\n".utf8),
            RawClient.number(UInt32(3)) + Array("IHAVEOPT".utf8) + RawClient.number(UInt32(7))
                + RawClient.number(UInt32.max),
        ]
        for text in texts {
            let client = try served.client()
            try client.send(text)
            #expect(try client.isHungUpOn())
        }
        let endless = try served.client()
        try endless.greet()
        #expect(throws: (any Error).self) { for _ in 0..<1000 { try endless.option(3) } }
        let leaver = try served.client()
        try leaver.greet()
        #expect(try leaver.option(2) == 1)
        #expect(try leaver.isHungUpOn())
        #expect(try served.clientCount() == 0)
    }

    @Test func `who does not get on with the handshake is hung up on, and is no client`() throws {
        var limits = ExportListener.Limits()
        limits.handshakeNanoseconds = 200_000_000
        let served = try ServedExport(limits: limits)
        let silent = try served.client()
        let slow = try served.client()
        try slow.greet()
        try slow.send(Array("IHAVEOPT".utf8))
        #expect(try served.clientCount() == 0)
        #expect(try silent.isHungUpOn() && slow.isHungUpOn())
        // The time is for the handshake only.
        let client = try served.client()
        try client.connect()
        var none: [PollEntry] = []
        try pollDescriptors(&none, deadlineMilliseconds: 400)
        try client.request(3, cookie: 1, offset: 0, count: 0)
        #expect(try client.reply().error == 0)
    }

    @Test func `one connection too many is hung up on, and the others go on`() throws {
        var limits = ExportListener.Limits()
        limits.connections = 3
        let served = try ServedExport(limits: limits)
        let clients = try (0..<3).map { _ in try served.client() }
        for client in clients { try client.connect() }
        #expect(try served.client().isHungUpOn())
        clients[0].hangUp()
        // As soon as the server has noticed.
        while (try? served.client().connect()) == nil {}
        try clients[1].request(0, cookie: 1, offset: 0, count: 512)
        #expect(try clients[1].reply(data: 512).error == 0)
    }
}
