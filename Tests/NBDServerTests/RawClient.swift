import LinuxSystem
import TestSupport

struct ClientFailure: Error { var message: String }

/// The client's side of the protocol by hand, which also says what no client would. One thread sends, one receives.
final class RawClient: Sendable {
    private let socket: OwnedDescriptor
    private static let patienceMilliseconds = 30_000

    init(_ path: String) throws {
        // The server may hang up first.
        ignoreBrokenPipes()
        socket = try UnixSocket.connect(to: path)
    }

    func send(_ bytes: [UInt8]) throws { try socket.writeAll(bytes) }
    func hangUp() { UnixSocket.end(socket.number) }

    /// - Throws: at the connection's end, and when nothing comes.
    func receive(_ count: Int) throws -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            var entries = [PollEntry(socket.number, .readable)]
            guard try pollDescriptors(&entries, deadlineMilliseconds: Self.patienceMilliseconds) > 0 else {
                throw ClientFailure(message: "no answer")
            }
            let part = try socket.readSome(upTo: count - bytes.count)
            guard !part.isEmpty else { throw ClientFailure(message: "the connection has ended") }
            bytes += part
        }
        return bytes
    }

    /// Whether the server hangs up, whatever it sends before.
    func isHungUpOn() throws -> Bool {
        while true {
            var entries = [PollEntry(socket.number, .readable)]
            guard try pollDescriptors(&entries, deadlineMilliseconds: Self.patienceMilliseconds) > 0 else {
                return false
            }
            guard let part = try? socket.readSome(upTo: 4096), !part.isEmpty else { return true }
        }
    }

    // MARK: handshake

    static func number<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
        (0..<MemoryLayout<T>.size).reversed().map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }
    static func value(_ bytes: some Collection<UInt8>) -> UInt64 { bytes.reduce(0) { $0 << 8 | UInt64($1) } }

    func greet(flags: UInt32 = 3) throws {
        let greeting = try receive(18)
        guard greeting.starts(with: Array("NBDMAGICIHAVEOPT".utf8)), greeting[17] == 3 else {
            throw ClientFailure(message: "no greeting")
        }
        try send(Self.number(flags))
    }

    func sendOption(_ type: UInt32, _ payload: [UInt8] = []) throws {
        try send(Array("IHAVEOPT".utf8) + Self.number(type) + Self.number(UInt32(payload.count)) + payload)
    }

    /// - Returns: the type and the payload of one reply.
    func optionReply(to option: UInt32) throws -> (type: UInt32, payload: [UInt8]) {
        let header = try receive(20)
        guard Self.value(header[0..<8]) == 0x0003_e889_0455_65a9, Self.value(header[8..<12]) == UInt64(option) else {
            throw ClientFailure(message: "no reply to option \(option): \(header)")
        }
        return (UInt32(Self.value(header[12..<16])), try receive(Int(Self.value(header[16..<20]))))
    }

    /// - Returns: the last reply, which is no information.
    @discardableResult
    func option(_ type: UInt32, _ payload: [UInt8] = []) throws -> UInt32 {
        try sendOption(type, payload)
        while true {
            let reply = try optionReply(to: type)
            if reply.type != 2, reply.type != 3, reply.type != 4 { return reply.type }
        }
    }

    /// NBD_OPT_GO.
    func go(_ export: String = "") throws {
        let name = Array(export.utf8)
        guard try option(7, Self.number(UInt32(name.count)) + name + Self.number(UInt16(0))) == 1 else {
            throw ClientFailure(message: "the export was refused")
        }
    }

    func connect(structured: Bool = false) throws {
        try greet()
        if structured {
            try option(8)
            let name = Array("base:allocation".utf8)
            let query = Self.number(UInt32(1)) + Self.number(UInt32(name.count)) + name
            try option(10, Self.number(UInt32(0)) + query)
        }
        try go()
    }

    // MARK: requests

    func request(
        _ type: UInt16, cookie: UInt64, offset: UInt64, count: UInt32, flags: UInt16 = 0, payload: [UInt8] = []
    ) throws {
        let header = Self.number(UInt32(0x2560_9513)) + Self.number(flags) + Self.number(type)
        try send(header + Self.number(cookie) + Self.number(offset) + Self.number(count) + payload)
    }

    /// A simple reply. - Parameter data: how much of it a success carries.
    func reply(data: Int = 0) throws -> (error: UInt32, cookie: UInt64, data: [UInt8]) {
        let header = try receive(16)
        guard Self.value(header[0..<4]) == 0x6744_6698 else { throw ClientFailure(message: "no reply: \(header)") }
        let error = UInt32(Self.value(header[4..<8]))
        return (error, Self.value(header[8..<16]), error == 0 ? try receive(data) : [])
    }

    /// A chunk of a structured reply.
    func chunk() throws -> (type: UInt16, flags: UInt16, cookie: UInt64, payload: [UInt8]) {
        let header = try receive(20)
        guard Self.value(header[0..<4]) == 0x668e_33ef else { throw ClientFailure(message: "no chunk: \(header)") }
        let payload = try receive(Int(Self.value(header[16..<20])))
        return (
            UInt16(Self.value(header[6..<8])), UInt16(Self.value(header[4..<6])), Self.value(header[8..<16]), payload
        )
    }
}
