import AgentAPI
import BlockIO
import DeviceServer
import LinuxSystem
@testable import NBDServer
import TestSupport
import Testing

/// "Reads never wait for held writes."
@Suite(.serialized) struct HeldWriteTests {
    private static let writes = 120

    private func send(_ client: RawClient, from first: Int, _ count: Int, at base: UInt64 = 0) throws {
        for index in first..<first + count {
            try client.request(
                1, cookie: UInt64(index), offset: base + UInt64(index) << 16, count: 4096,
                payload: [UInt8](repeating: UInt8(index & 0x7f) + 1, count: 4096))
        }
    }

    /// Reads, block status and, where nothing is held by it, a flush: with other requests unanswered.
    private func expectAnswers(_ client: RawClient, _ round: Int) throws {
        try client.request(0, cookie: 1000, offset: UInt64(round) << 16, count: 4096)
        let data = try client.chunk()
        #expect(data.cookie == 1000 && data.type == 1)
        try client.request(7, cookie: 1001, offset: 0, count: 1 << 20)
        #expect(try client.chunk().cookie == 1001)
        try client.request(3, cookie: 1002, offset: 0, count: 0)
        #expect(try client.reply().cookie == 1002)
    }

    @Test func `with 120 writes held on a connection its reads are answered, and then the writes end well`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.connect(structured: true)
        for round in 0..<3 {
            let control = try served.controller()
            try control.perform(.pause(deadlineMilliseconds: 120_000))
            try send(client, from: 0, Self.writes)
            for read in 0..<20 { try expectAnswers(client, read) }
            // A second connection is not held up either.
            let other = try served.client()
            try other.connect(structured: true)
            try expectAnswers(other, round)
            try control.perform(.resume)
            var cookies: Set<UInt64> = []
            for _ in 0..<Self.writes {
                let reply = try client.reply()
                #expect(reply.error == 0)
                cookies.insert(reply.cookie)
            }
            #expect(cookies.count == Self.writes)
        }
        try client.request(0, cookie: 1, offset: 119 << 16, count: 4096)
        #expect(try client.chunk().payload[8...] == [UInt8](repeating: 120, count: 4096)[...])
    }

    @Test func `threads that held writes needed go again`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.connect(structured: true)
        let before = try threadCount()
        let control = try served.controller()
        try control.perform(.pause(deadlineMilliseconds: 120_000))
        try send(client, from: 0, Self.writes)
        // In order: this one is received when all of those are.
        try expectAnswers(client, 0)
        #expect(try threadCount() >= before + Self.writes / 2)
        try control.perform(.resume)
        for _ in 0..<Self.writes { #expect(try client.reply().error == 0) }
        let deadline = SystemTime().monotonic() + 20_000_000_000
        var none: [PollEntry] = []
        while try threadCount() > before + 24, SystemTime().monotonic() < deadline {
            try pollDescriptors(&none, deadlineMilliseconds: 50)
        }
        // Those of other suites come and go.
        #expect(try threadCount() <= before + 24)
    }

    @Test func `more writes than there may be threads are held all the same, and go on`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.connect(structured: true)
        let control = try served.controller()
        try control.perform(.pause(deadlineMilliseconds: 120_000))
        // The last ones get through once the first ones are done.
        let sender = try OwnThread(name: "sender") { try? send(client, from: 0, 400) }
        let other = try served.client()
        try other.connect(structured: true)
        for read in 0..<20 { try expectAnswers(other, read) }
        try control.perform(.resume)
        for _ in 0..<400 { #expect(try client.reply().error == 0) }
        sender.join()
        try expectAnswers(client, 0)
    }

    @Test func `at the disk's end held writes are answered`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.connect(structured: true)
        let control = try served.controller()
        try control.perform(.pause(deadlineMilliseconds: 120_000))
        try send(client, from: 0, Self.writes)
        try expectAnswers(client, 0)
        try served.device.stop()
        for _ in 0..<Self.writes { #expect([0, 5, 108].contains(try client.reply().error)) }
    }

    @Test func `long writes that are held leave the memory for reads`() throws {
        var limits = ExportListener.Limits()
        limits.memory = PayloadMemory.Bounds(reading: 8 << 20, writing: 8 << 20)
        let served = try ServedExport(limits: limits)
        let client = try served.client()
        try client.connect(structured: true)
        let other = try served.client()
        try other.connect(structured: true)
        let control = try served.controller()
        try control.perform(.pause(deadlineMilliseconds: 120_000))
        for index in 0..<6 {
            try client.request(
                1, cookie: UInt64(index), offset: UInt64(index) << 20, count: 1 << 20,
                payload: [UInt8](repeating: 1, count: 1 << 20))
        }
        try client.request(0, cookie: 50, offset: 0, count: 4 << 20)
        #expect(try client.chunk().payload.count == (4 << 20) + 8)
        // Beyond the bound each connection still has one.
        try other.request(
            1, cookie: 1, offset: 32 << 20, count: 4 << 20, payload: [UInt8](repeating: 1, count: 4 << 20))
        try other.request(0, cookie: 2, offset: 0, count: 16 << 20)
        #expect(try other.chunk().payload.count == (16 << 20) + 8)
        try control.perform(.resume)
        for _ in 0..<6 { #expect(try client.reply().error == 0) }
        #expect(try other.reply().error == 0)
    }

    @Test func `the held writes of a client that hung up are not done, and a new one does not meet them`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.connect()
        let control = try served.controller()
        try control.perform(.pause(deadlineMilliseconds: 120_000))
        try send(client, from: 0, Self.writes)
        let watcher = try served.client()
        try watcher.connect(structured: true)
        try expectAnswers(watcher, 0)
        client.hangUp()
        // Is let in when nothing of the other one is left, although writes are still held.
        let next = try served.client()
        try next.connect(structured: true)
        try control.perform(.resume)
        try expectZeros(next, at: 0, count: Self.writes)
    }

    @Test(.timeLimit(.minutes(5)))
    func `a write that its client has left behind in the engine lands on nothing that a later client wrote`() throws {
        let fs = HoldingFileSystem()
        let served = try ServedExport(fs: fs)
        let first = try served.client()
        try first.connect()
        @Sendable func write(_ client: RawClient, _ byte: UInt8) throws {
            try client.request(
                1, cookie: UInt64(byte), offset: 0, count: 4096, payload: [UInt8](repeating: byte, count: 4096))
        }
        try write(first, 1)
        #expect(try first.reply().error == 0)
        fs.state.change { ($0.isHolding, $0.holdsOne) = (true, true) }
        try write(first, 2)
        _ = fs.state.wait { $0.isHeld ? () : nil }
        first.hangUp()
        let outcome = Monitor<UInt32?>(nil)
        let thread = try OwnThread(name: "next") {
            let error = try? {
                let next = try served.client()
                try next.connect()
                try write(next, 3)
                return try next.reply().error
            }()
            outcome.change { $0 = error ?? .max }
        }
        // It is not let in while the other one's write may still come.
        let early: Bool? = outcome.wait(until: SystemTime().monotonic() + 500_000_000) { $0 == nil ? nil : true }
        #expect(early == nil)
        fs.state.change { $0.isHolding = false }
        thread.join()
        #expect(outcome.withLock { $0 } == 0)
        let reader = try served.client()
        try reader.connect(structured: true)
        try reader.request(0, cookie: 9, offset: 0, count: 4096)
        #expect(try reader.chunk().payload[8...].allSatisfy { $0 == 3 })
    }

    /// Of blocks as ``send(_:from:_:at:)`` writes them.
    private func expectZeros(_ client: RawClient, at base: UInt64, count: Int) throws {
        for index in 0..<count {
            try client.request(0, cookie: 7, offset: base + UInt64(index) << 16, count: 4096)
            #expect(try client.chunk().payload[8...].allSatisfy { $0 == 0 }, "block \(index)")
        }
    }

    private func threadCount() throws -> Int { try LinuxFileSystem().list("/proc/self/task").count }
}
