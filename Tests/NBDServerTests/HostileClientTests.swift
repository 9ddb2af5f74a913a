import BlockIO
import LinuxSystem
@testable import NBDServer
import TestSupport
import Testing

@Suite(.serialized) struct HostileClientTests {
    /// A client that is served while others do what they like.
    private func expectService(_ served: ServedExport) throws {
        let client = try served.client()
        try client.connect()
        try client.request(1, cookie: 1, offset: 0, count: 4096, payload: [UInt8](repeating: 3, count: 4096))
        #expect(try client.reply().error == 0)
        try client.request(0, cookie: 2, offset: 0, count: 4096)
        #expect(try client.reply(data: 4096).data == [UInt8](repeating: 3, count: 4096))
    }

    @Test func `random bytes at any place of the handshake do no harm`() throws {
        let served = try ServedExport()
        var random = SeededRandom("handshakes")
        for _ in 0..<200 {
            guard let client = try? served.client() else { continue }
            // Who is hung up on fails to send: that is as it should be.
            if !random.oneIn(4) { try? client.greet(flags: UInt32(random.below(4))) }
            for _ in 0..<random.below(6) {
                let payload = random.bytes(random.below(64))
                switch random.below(4) {
                case 0: try? client.send(payload)
                case 1: try? client.sendOption(UInt32(random.below(12)), payload)
                case 2:
                    let length = RawClient.number(UInt32(random.below(64)))
                    try? client.sendOption(UInt32(6 + random.below(5)), length + payload)
                default:
                    let header = Array("IHAVEOPT".utf8) + RawClient.number(UInt32(random.below(12)))
                    try? client.send(header + RawClient.number(UInt32(truncatingIfNeeded: random.next())) + payload)
                }
            }
            client.hangUp()
        }
        try expectService(served)
    }

    @Test func `random requests do no harm`() throws {
        let served = try ServedExport()
        var random = SeededRandom("requests")
        for _ in 0..<100 {
            let client = try served.client()
            try client.connect(structured: random.oneIn(2))
            for _ in 0..<random.below(20) {
                let count = random.oneIn(8) ? UInt32(truncatingIfNeeded: random.next()) : UInt32(random.below(70_000))
                let isPlausible = !random.oneIn(4)
                let offset = isPlausible ? random.below(ServedExport.byteCount + 4096) & ~511 : random.next()
                let type = random.oneIn(6) ? UInt16(truncatingIfNeeded: random.next()) : UInt16(random.below(9))
                let flags = random.oneIn(3) ? UInt16(truncatingIfNeeded: random.next()) : 0
                let payload = type == 1 ? random.bytes(min(Int(count), 70_000)) : []
                try? client.request(
                    type, cookie: random.next(), offset: offset, count: count, flags: flags, payload: payload)
            }
            if random.oneIn(3) { try? client.send(random.bytes(random.below(100))) }
            client.hangUp()
        }
        try expectService(served)
        let deadline = SystemTime().monotonic() + 20_000_000_000
        while try served.clientCount() > 0, SystemTime().monotonic() < deadline {}
        #expect(try served.clientCount() == 0)
    }

    @Test func `clients that stop in the middle of a request, or take no reply, hold nobody up`() throws {
        let served = try ServedExport()
        var random = SeededRandom("stalls")
        let stalled = try (0..<20).map { index in
            let client = try served.client()
            try client.connect()
            switch index % 3 {
            case 0: try client.send(random.bytes(0) + RawClient.number(UInt32(0x2560_9513)))
            case 1: try client.request(1, cookie: 1, offset: 0, count: 32 << 20, payload: [1, 2, 3])
            // Far more than the socket takes, as many as there are threads.
            default: for _ in 0..<32 { try client.request(0, cookie: 1, offset: 0, count: 4 << 20) }
            }
            return client
        }
        try expectService(served)
        let long = try served.client()
        try long.connect()
        try long.request(0, cookie: 1, offset: 0, count: 32 << 20)
        #expect(try long.reply(data: 32 << 20).error == 0)
        for client in stalled { client.hangUp() }
    }

    @Test func `a wrong magic number ends the connection, and it alone`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.connect()
        try client.send([UInt8](repeating: 0xaa, count: 28))
        #expect(try client.isHungUpOn())
        try expectService(served)
    }
}
