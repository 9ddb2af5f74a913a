import LinuxSystem
import TestSupport
import Testing
import Transport

/// Against a real sshd on the loopback.
@Suite(.enabled(if: SSHServer.isInstalled, "no sshd here: apt-get install openssh-server"))
struct SSHTests {
    private func options(_ server: SSHServer, command: String) -> SSHOptions {
        var options = SSHOptions()
        options.configurationFile = server.configurationFile
        options.command = command
        return options
    }

    private func open(_ server: SSHServer, _ command: String) throws -> any ByteStream {
        try SSHConnection.open(SSHTarget(parsing: server.address), options: options(server, command: command))
    }

    @Test func `bytes pass unchanged both ways at once, more than all buffers together`() throws {
        let server = try SSHServer()
        let stream = try open(server, "cat")
        var random = SeededRandom(seed: 7)
        let block = random.bytes(1_000_003)
        let rounds = 40
        let writer = try OwnThread(name: "writer") {
            for _ in 0..<rounds { try? stream.writeAll(block) }
        }
        for round in 0..<rounds { #expect(try stream.readExactly(block.count) == block, "round \(round)") }
        writer.join()
        stream.close()
    }

    @Test func `a host from the SSH configuration is reached by its name there`() throws {
        let server = try SSHServer()
        let stream = try SSHConnection.open(SSHTarget(parsing: "far"), options: options(server, command: "echo hello"))
        #expect(try stream.readExactly(6) == [UInt8]("hello\n".utf8))
        #expect(try stream.readExactly(1) == [])
        stream.close()
    }

    @Test func `keys are exchanged anew in the middle of a transfer`() throws {
        let server = try SSHServer(extra: ["RekeyLimit 1M"])
        let stream = try open(server, "cat")
        let block = [UInt8](repeating: 0x5a, count: 1 << 20)
        let writer = try OwnThread(name: "writer") {
            for _ in 0..<24 { try? stream.writeAll(block) }
        }
        for _ in 0..<24 { #expect(try stream.readExactly(block.count) == block) }
        writer.join()
        stream.close()
    }

    @Test func `an unknown host is refused with its fingerprint and what to do`() throws {
        let server = try SSHServer()
        try server.forgetHost()
        let error = #expect(throws: TransportError.self) { try open(server, "cat") }
        #expect(error?.code == .hostKeyUnknown)
        let fingerprint = try expectTool("ssh-keygen", "-lf", server.folder.file("host_key.pub")).split(separator: " ")[
            1]
        #expect(error?.message.contains(fingerprint) == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("ssh-keyscan -p \(server.port) 127.0.0.1 >> \(server.knownHostsFile)") == true)
        // The advice works.
        try expectTool("sh", "-c", "ssh-keyscan -p \(server.port) 127.0.0.1 >> \(server.knownHostsFile)")
        try open(server, "cat").close()
    }

    @Test func `a changed host key is refused, and named as such`() throws {
        let server = try SSHServer()
        try server.pretendOtherHostKey()
        let error = #expect(throws: TransportError.self) { try open(server, "cat") }
        #expect(error?.code == .hostKeyChanged)
        #expect(error?.message.contains("-R '[127.0.0.1]:\(server.port)'") == true, "\(error?.message ?? "")")
        #expect(error?.isRetryable == false)
    }

    @Test func `a refused login says who was refused`() throws {
        let server = try SSHServer()
        try server.refuseClient()
        let error = #expect(throws: TransportError.self) { try open(server, "cat") }
        #expect(error?.code == .authenticationFailed)
        #expect(error?.message.contains("\(server.user)@127.0.0.1") == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("publickey") == true)
    }

    @Test func `nobody listening is unreachable`() throws {
        let server = try SSHServer()
        server.stop()
        let error = #expect(throws: TransportError.self) { try open(server, "cat") }
        #expect(error?.code == .unreachable)
        #expect(error?.isRetryable == true)
        #expect(error?.message.contains("127.0.0.1 port \(server.port)") == true, "\(error?.message ?? "")")
    }

    @Test func `a missing configuration file is said so`() throws {
        let server = try SSHServer()
        var options = options(server, command: "cat")
        options.configurationFile = "/nowhere/config"
        let error = #expect(throws: TransportError.self) {
            try SSHConnection.open(SSHTarget(host: "x"), options: options)
        }
        #expect(error?.message.contains("/nowhere/config") == true, "\(error?.message ?? "")")
    }

    @Test func `a missing command shows with the far side's words`() throws {
        let server = try SSHServer()
        let stream = try open(server, "godwit-is-not-here agent --stdio")
        let channel = try MessageChannel(stream: stream, peerName: "127.0.0.1")
        let error = #expect(throws: TransportError.self) { try channel.greeting() }
        #expect(error?.code == .commandFailed)
        #expect(error?.message.contains("not found") == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("GODWIT_REMOTE_COMMAND") == true)
        channel.close()
    }

    @Test func `standard error arrives in lines without control characters`() throws {
        let server = try SSHServer()
        let lines = Monitor<[String]>([])
        var options = options(server, command: "printf 'one\\n\\033[31mtwo\\nthree' >&2; exit 3")
        options.onErrorLine = { line in lines.change { $0.append(line) } }
        let stream = try SSHConnection.open(SSHTarget(parsing: server.address), options: options)
        let error = #expect(throws: TransportError.self) { try stream.readExactly(1) }
        #expect(error?.code == .commandFailed)
        #expect(error?.message.contains("status 3: three") == true, "\(error?.message ?? "")")
        #expect(lines.withLock { $0 } == ["one", "[31mtwo", "three"])
        stream.close()
    }

    @Test func `a cut link ends reads and writes with a retryable error`() throws {
        let server = try SSHServer()
        let stream = try open(server, "cat > /dev/null")
        let channelEnd = try OwnThread(name: "cutter") { _ = try? server.cutConnections() }
        let error = #expect(throws: TransportError.self) {
            while true { try stream.writeAll([UInt8](repeating: 1, count: 1 << 20)) }
        }
        #expect(error?.code == .closed)
        #expect(error?.isRetryable == true)
        #expect(throws: TransportError.self) { try stream.readExactly(1) }
        channelEnd.join()
        stream.close()
    }

    @Test func `a far side that hangs is given up at the time limit`() throws {
        let server = try SSHServer()
        var options = options(server, command: "sleep 60")
        options.silenceMilliseconds = 300
        let stream = try SSHConnection.open(SSHTarget(parsing: server.address), options: options)
        let error = #expect(throws: TransportError.self) { try stream.readExactly(1) }
        #expect(error?.code == .timedOut)
        // Nobody takes what is written: first the buffers on the way fill up.
        let full = #expect(throws: TransportError.self) {
            while true { try stream.writeAll([UInt8](repeating: 1, count: 1 << 20)) }
        }
        #expect(full?.code == .timedOut)
        stream.close()
    }

    @Test func `a forced command is what runs`() throws {
        let server = try SSHServer(environment: ["GODWIT_TEST": "a b"], forcedCommand: "printf \"%s\" \"$GODWIT_TEST\"")
        let stream = try open(server, "cat /etc/shadow")
        #expect(try stream.readExactly(10) == [UInt8]("a b".utf8))
        stream.close()
    }

    @Test func `a host that takes the connection and says nothing is given up`() throws {
        let listener = try SilentListener()
        var options = SSHOptions()
        options.configurationFile = "/dev/null"
        options.connectMilliseconds = 1000
        let start = SystemTime().monotonic()
        let error = #expect(throws: TransportError.self) {
            try SSHConnection.open(SSHTarget(host: "127.0.0.1", port: listener.port), options: options)
        }
        #expect(error?.code == .unreachable)
        #expect(SystemTime().monotonic() - start < 10_000_000_000)
    }
}
