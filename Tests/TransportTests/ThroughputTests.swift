import LinuxSystem
import TestSupport
import Testing
import Transport

/// Bytes a second over the loopback beside ssh(1)'s, in one run. With `GODWIT_BENCH` set; prints one JSON line a case.
@Suite(
    .serialized,
    .enabled(if: environmentVariable("GODWIT_BENCH") != nil && SSHServer.isInstalled, "set GODWIT_BENCH to measure"))
struct ThroughputTests {
    static let byteCount = 2 << 30

    private func seconds(_ body: () throws -> Void) rethrows -> Double {
        let time = SystemTime()
        let start = time.monotonic()
        try body()
        return Double(time.monotonic() - start) / 1e9
    }

    private func report(_ name: String, ours: Double, theirs: Double) {
        let mega = Double(Self.byteCount) / 1e6
        let ratio = theirs / ours
        print(
            "{\"bench\":\"\(name)\",\"godwitMBps\":\(Int(mega / ours)),\"sshMBps\":\(Int(mega / theirs)),"
                + "\"ratio\":\(Double(Int(ratio * 100)) / 100)}")
    }

    private func open(_ server: SSHServer, _ command: String) throws -> any ByteStream {
        var options = SSHOptions()
        options.configurationFile = server.configurationFile
        options.command = command
        return try SSHConnection.open(SSHTarget(parsing: "far"), options: options)
    }

    @Test func `sending`() throws {
        let server = try SSHServer()
        let ours = try seconds {
            let stream = try open(server, "head -c \(Self.byteCount) > /dev/null; echo done")
            let block = [UInt8](repeating: 0x5a, count: 1 << 20)
            for _ in 0..<Self.byteCount / block.count { try stream.writeAll(block) }
            #expect(try stream.readExactly(4) == [UInt8]("done".utf8))
            stream.close()
        }
        let theirs = try seconds {
            try expectTool(
                "sh", "-c",
                "head -c \(Self.byteCount) /dev/zero | ssh -F \(server.configurationFile) far 'cat > /dev/null'")
        }
        report("ssh-send", ours: ours, theirs: theirs)
    }

    @Test func `receiving`() throws {
        let server = try SSHServer()
        let ours = try seconds {
            let stream = try open(server, "head -c \(Self.byteCount) /dev/zero")
            var left = Self.byteCount
            try withUnsafeTemporaryAllocation(byteCount: 1 << 20, alignment: 16) { memory in
                while left > 0 {
                    let got = try stream.read(into: memory)
                    guard got > 0 else { break }
                    left -= got
                }
            }
            #expect(left == 0)
            stream.close()
        }
        let theirs = try seconds {
            try expectTool(
                "sh", "-c", "ssh -F \(server.configurationFile) far 'head -c \(Self.byteCount) /dev/zero' > /dev/null")
        }
        report("ssh-receive", ours: ours, theirs: theirs)
    }

    @Test func `messages through two channels`() throws {
        let (near, far) = MemoryStream.pair(capacity: 4 << 20)
        let a = try MessageChannel(stream: near)
        let b = try MessageChannel(stream: far)
        let payload = [UInt8](repeating: 1, count: 1 << 20)
        let elapsed = try seconds {
            let sender = try OwnThread(name: "sender") {
                for _ in 0..<Self.byteCount >> 20 { try? a.send(Message(kind: 600, payload: payload)) }
            }
            for _ in 0..<Self.byteCount >> 20 { _ = try b.receive() }
            sender.join()
        }
        print("{\"bench\":\"message-channel\",\"godwitMBps\":\(Int(Double(Self.byteCount) / 1e6 / elapsed))}")
        a.close()
        b.close()
    }
}
