import Geometry
import LinuxSystem
import NBDBridge
import Synchronization
import TestSupport
import Testing

/// nbdkit with one of its own plugins, on a socket that listens before it starts, so that nobody has to wait for it.
private final class Server {
    let folder: TemporaryFolder
    private let process: ChildProcess
    var socket: String { folder.file("socket") }

    convenience init(_ plugin: String, _ parameter: String) throws { try self.init(plugin, [parameter]) }

    init(_ plugin: String, _ parameters: [String]) throws {
        folder = try TemporaryFolder()
        let listener = try UnixSocket.listen(at: folder.file("socket"))
        // Socket activation: descriptor 3 is the listener, and LISTEN_PID the process that is to take it.
        process = try ChildProcess(
            "sh",
            [
                "-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec nbdkit -f --log=null --filter=fua \"$@\"",
                "sh", plugin,
            ] + parameters,
            input: .descriptor(listener.number))
    }
}

@Suite(.enabled(if: hasTool("nbdkit"), "needs nbdkit")) struct NBDConnectionTests {
    @Test func `what is written to many places at once is read back, also by qemu-img`() throws {
        let server = try Server("memory", "8M")
        let connection = try NBDConnection(unixSocket: server.socket)
        #expect(connection.export.byteCount == 8 << 20)
        #expect(connection.export.canFlush && connection.export.canZero && !connection.export.isReadOnly)
        var random = SeededRandom("NBD transfers")
        // Longer than one request, odd places, an empty one among them.
        let ranges = [
            ByteRange(offset: 512, count: 700_000), ByteRange(offset: 1 << 20, count: 0),
            ByteRange(offset: 3 << 20, count: 2 << 20), ByteRange(offset: 6 << 20, count: 4096),
        ]
        let bytes = random.bytes(Int(ranges.reduce(0) { $0 + $1.count }))
        try bytes.withUnsafeBytes { try connection.write(ranges, from: $0) }
        try connection.flush()
        var back = [UInt8](repeating: 0, count: bytes.count)
        try back.withUnsafeMutableBytes { try connection.read(ranges, into: $0) }
        #expect(back == bytes)

        let copy = server.folder.file("copy")
        try expectTool("qemu-img", "convert", "-O", "raw", "nbd+unix:///?socket=\(server.socket)", copy)
        let part = try expectTool("sh", "-c", "tail -c +3145729 \"$1\" | head -c 2097152 | sha256sum", "sh", copy)
        let own = try ChildProcess.run("sha256sum", [], input: Array(bytes[700_000..<700_000 + (2 << 20)]))
        #expect(part == own.outputText)
    }

    @Test func `block status covers the range without gaps and finds the data`() throws {
        let server = try Server("memory", "4G")
        let connection = try NBDConnection(unixSocket: server.socket)
        let data = ByteRange(offset: 3 << 30, count: 64 << 10)
        let bytes = [UInt8](repeating: 7, count: Int(data.count))
        try bytes.withUnsafeBytes { try connection.write([data], from: $0) }
        var offset: UInt64 = 0
        var found: [ByteRange] = []
        while offset < connection.export.byteCount {
            let extents = try connection.extents(
                in: ByteRange(offset: offset, count: connection.export.byteCount - offset), limit: 4)
            for extent in extents {
                #expect(extent.range.offset == offset)
                offset = extent.range.end
                if !extent.isZero { found.append(extent.range) }
            }
        }
        #expect(offset == connection.export.byteCount)
        #expect(found == [data])
        try connection.trim(data)
        try connection.zero(ByteRange(offset: 0, count: 4096), mayTrim: true)
    }

    @Test func `a read error of the server is an error here`() throws {
        let server = try Server("full", "1M")
        let connection = try NBDConnection(unixSocket: server.socket)
        let bytes = [UInt8](repeating: 1, count: 4096)
        #expect(throws: NBDError.self) {
            try bytes.withUnsafeBytes { try connection.write([ByteRange(offset: 0, count: 4096)], from: $0) }
        }
        #expect(throws: NBDError.self) { try connection.extents(in: ByteRange(offset: 1 << 20, count: 1)) }
    }

    @Test(arguments: ["flush", "zero", "trim", "extents", "read"])
    func `nobody waits for a server longer than told, or wanted`(call: String) throws {
        // One that does one thing at a time, so each connection has its own.
        let isAble = ["write", "flush", "trim", "zero", "extents"].map { "can_\($0)=exit 0" }
        let hangs = ["flush", "trim", "zero", "extents", "pread", "pwrite"].map { "\($0)=exec sleep 10" }
        func server() throws -> Server { try Server("eval", ["get_size=echo 1048576"] + isAble + hangs) }
        func ask(_ connection: borrowing NBDConnection) throws(NBDError) {
            let range = ByteRange(offset: 0, count: 4096)
            switch call {
            case "flush": try connection.flush()
            case "zero": try connection.zero(range, mayTrim: true)
            case "trim": try connection.trim(range)
            case "extents": _ = try connection.extents(in: range)
            default:
                var memory = [UInt8](repeating: 0, count: 4096)
                var failure: NBDError?
                memory.withUnsafeMutableBytes { memory in
                    do throws(NBDError) { try connection.read([range], into: memory) } catch { failure = error }
                }
                if let failure { throw failure }
            }
        }
        let first = try server()
        let impatient = try NBDConnection(
            unixSocket: first.socket, silenceMaxMilliseconds: call == "flush" ? 60_000 : 1000,
            flushMaxMilliseconds: call == "flush" ? 1000 : 60_000)
        let late = #expect(throws: NBDError.self) { try ask(impatient) }
        #expect(late?.code == .timedOut && late?.message.hasSuffix("no answer for 1 s") == true)
        let isWanted = Mutex(false)
        let second = try server()
        let stopped = try NBDConnection(unixSocket: second.socket) { isWanted.withLock { $0 } }
        isWanted.withLock { $0 = true }
        let stop = #expect(throws: NBDError.self) { try ask(stopped) }
        #expect(stop?.code == .failed && stop?.message.hasSuffix("stopped") == true)
    }

    @Test func `a socket that nobody serves is a clear error`() throws {
        let folder = try TemporaryFolder()
        #expect {
            _ = try NBDConnection(unixSocket: folder.file("none"))
        } throws: { error in
            (error as? NBDError)?.code == .unreachable && "\(error)".contains("none")
        }
    }
}
