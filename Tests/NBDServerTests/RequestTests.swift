import DeviceServer
import LinuxSystem
@testable import NBDServer
import TestSupport
import Testing

/// A request that can't be, and what is said to it.
private struct Refused: CustomTestStringConvertible, Sendable {
    var type: UInt16
    var offset: UInt64 = 0
    var count: UInt32
    var flags: UInt16 = 0
    var error: UInt32
    var testDescription: String { "type \(type), \(count) at \(offset), flags \(flags)" }
}

private let end = ServedExport.byteCount
private let refused = [
    Refused(type: 0, offset: end, count: 512, error: 22), Refused(type: 0, offset: .max, count: 512, error: 22),
    Refused(type: 0, offset: end - 512, count: 1024, error: 22), Refused(type: 0, count: 0, error: 22),
    Refused(type: 0, count: 100, error: 22), Refused(type: 0, offset: 1, count: 512, error: 22),
    Refused(type: 0, count: .max, error: 22), Refused(type: 0, count: (32 << 20) + 512, error: 22),
    Refused(type: 0, count: 512, flags: 1 << 1, error: 22), Refused(type: 0, count: 512, flags: 1 << 15, error: 22),
    Refused(type: 3, offset: 512, count: 0, error: 22), Refused(type: 3, count: 512, error: 22),
    Refused(type: 4, offset: end, count: 512, error: 22), Refused(type: 5, count: 512, error: 22),
    Refused(type: 6, offset: end, count: 512, error: 28), Refused(type: 6, count: 100, error: 22),
    Refused(type: 6, count: 512, flags: 1 << 4, error: 95), Refused(type: 7, count: 512, flags: 1 << 1, error: 22),
    Refused(type: 8, count: 512, error: 22), Refused(type: .max, count: 512, error: 22),
]

@Suite struct RequestTests {
    @Test(arguments: refused) fileprivate func `what can't be done is refused, and the connection goes on`(
        _ one: Refused
    ) throws {
        let served = try ServedExport()
        for isStructured in [false, true] {
            let client = try served.client()
            try client.connect(structured: isStructured)
            try client.request(one.type, cookie: 77, offset: one.offset, count: one.count, flags: one.flags)
            if isStructured, one.type == 0 || one.type == 7 {
                let chunk = try client.chunk()
                #expect(chunk.cookie == 77 && chunk.flags == 1 && chunk.type == 1 << 15 | 1)
                #expect(chunk.payload == RawClient.number(one.error) + [0, 0])
            } else {
                let reply = try client.reply()
                // Without contexts no block status may be asked for.
                #expect(reply.cookie == 77 && reply.error == one.error)
            }
            try client.request(3, cookie: 78, offset: 0, count: 0)
            #expect(try client.reply().cookie == 78)
        }
    }

    /// A loop device on nbdfuse's file asks for zeros by it.
    @Test("a TRIM of a part of a cluster leaves zeros for whoever means zeros by it, however it chose the export")
    func trimsToZero() throws {
        let served = try ServedExport()
        let part = (offset: UInt64(4096), count: UInt32(8192))
        for (number, export) in ["", "trim-zeroes", "trim-zeroes!", "trim-zeroes"].enumerated() {
            let client = try served.client()
            try client.greet()
            if number == 3 {
                // NBD_OPT_EXPORT_NAME, which has no reply but the export's size and flags.
                try client.sendOption(1, Array(export.utf8))
                _ = try client.receive(10)
            } else {
                try client.go(export)
            }
            let data = [UInt8](repeating: UInt8(number + 1), count: 65536)
            try client.request(1, cookie: 1, offset: 0, count: 65536, payload: data)
            #expect(try client.reply().error == 0)
            try client.request(4, cookie: 2, offset: part.offset, count: part.count)
            #expect(try client.reply().error == 0)
            try client.request(0, cookie: 3, offset: 0, count: 65536)
            let read = try client.reply(data: 65536).data
            let (start, end) = (Int(part.offset), Int(part.offset) + Int(part.count))
            #expect(read[start..<end].allSatisfy { $0 == 0 } == (export == Session.trimsToZeroName), "\(export)")
            #expect((read[..<start] + read[end...]).allSatisfy { $0 == UInt8(number + 1) })
        }
    }

    @Test func `a refused write's data is skipped`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.connect()
        let writes: [(offset: UInt64, count: Int, error: UInt32)] = [
            (end, 4096, 28), (end - 512, 70_000, 28), (0, (32 << 20) + 4096, 22), (1, 512, 22), (0, 0, 22),
        ]
        for write in writes {
            try client.request(
                1, cookie: 5, offset: write.offset, count: UInt32(write.count),
                payload: [UInt8](repeating: 9, count: write.count))
            #expect(try client.reply().error == write.error, "\(write)")
        }
        try client.request(0, cookie: 6, offset: 0, count: 4096)
        #expect(try client.reply(data: 4096).data == [UInt8](repeating: 0, count: 4096))
    }

    @Test(arguments: [512, 4096, 65_536, 66_048, 1 << 20, 5 << 20, 32 << 20])
    func `what is written is read back, in either form of reply`(count: Int) throws {
        let served = try ServedExport()
        var random = SeededRandom(seed: UInt64(count))
        let data = random.bytes(count)
        let simple = try served.client()
        try simple.connect()
        let structured = try served.client()
        try structured.connect(structured: true)
        try simple.request(1, cookie: 1, offset: 1 << 20, count: UInt32(count), flags: 1, payload: data)
        #expect(try simple.reply().error == 0)
        try simple.request(0, cookie: 2, offset: 1 << 20, count: UInt32(count))
        #expect(try simple.reply(data: count).data == data)
        // In one piece in any case.
        for flags in [UInt16(0), 1 << 2] {
            try structured.request(0, cookie: 3, offset: 1 << 20, count: UInt32(count), flags: flags)
            let chunk = try structured.chunk()
            #expect(chunk.type == 1 && chunk.flags == 1 && chunk.cookie == 3)
            #expect(chunk.payload[..<8] == RawClient.number(UInt64(1 << 20))[...])
            #expect(chunk.payload[8...] == data[...])
        }
    }

    @Test func `block status has the runs, or the first of them`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.connect(structured: true)
        try client.request(
            1, cookie: 1, offset: 64 << 10, count: 64 << 10, payload: [UInt8](repeating: 1, count: 64 << 10))
        #expect(try client.reply().error == 0)
        let hole = RawClient.number(UInt32(64 << 10)) + RawClient.number(UInt32(3))
        let data = RawClient.number(UInt32(64 << 10)) + RawClient.number(UInt32(0))
        try client.request(7, cookie: 2, offset: 0, count: 192 << 10)
        let all = try client.chunk()
        #expect(all.type == 5 && all.flags == 1 && all.payload == RawClient.number(UInt32(1)) + hole + data + hole)
        try client.request(7, cookie: 3, offset: 0, count: 192 << 10, flags: 1 << 3)
        #expect(try client.chunk().payload == RawClient.number(UInt32(1)) + hole)
        try client.request(6, cookie: 4, offset: 64 << 10, count: 64 << 10)
        #expect(try client.reply().error == 0)
        try client.request(4, cookie: 4, offset: 0, count: 64 << 10, flags: 1)
        #expect(try client.reply().error == 0)
        try client.request(7, cookie: 5, offset: 0, count: 192 << 10)
        #expect(try client.chunk().payload.count == 12)
    }

    @Test func `a disk that is only read is not written`() throws {
        let served = try ServedExport(readOnly: true)
        let client = try served.client()
        try client.connect()
        try client.request(1, cookie: 1, offset: 0, count: 512, payload: [UInt8](repeating: 1, count: 512))
        #expect(try client.reply().error == 1)
        for type in [UInt16(4), 6] {
            try client.request(type, cookie: 2, offset: 0, count: 512)
            #expect(try client.reply().error == 1)
        }
        try client.request(3, cookie: 3, offset: 0, count: 0)
        #expect(try client.reply().error == 0)
    }

    @Test func `what was asked before the end of a connection is done`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.connect()
        for index in 0..<32 {
            try client.request(
                1, cookie: UInt64(index), offset: UInt64(index) << 16, count: 4096,
                payload: [UInt8](repeating: UInt8(index + 1), count: 4096))
        }
        try client.request(2, cookie: 99, offset: 0, count: 0)
        var cookies: Set<UInt64> = []
        for _ in 0..<32 { cookies.insert(try client.reply().cookie) }
        #expect(cookies == Set(0..<32))
        #expect(try client.isHungUpOn())
    }

    @Test func `once the disk is closed requests fail, and nobody gets on`() throws {
        let served = try ServedExport()
        let client = try served.client()
        try client.connect()
        try served.device.stop()
        try client.request(0, cookie: 1, offset: 0, count: 512)
        #expect(try client.reply().error == 108)
        let late = try served.client()
        try late.greet()
        #expect(try late.option(7, [0, 0, 0, 0, 0, 0]) == 1 << 31 | 7)
    }
}
