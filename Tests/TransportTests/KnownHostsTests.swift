import BlockIO
import LinuxSystem
import TestSupport
import Testing
import Transport

/// What known_hosts and the SSH configuration say of a host's key holds as it does for ssh(1).
@Suite(
    .enabled(if: SSHServer.isInstalled, "no sshd here: apt-get install openssh-server"),
    .enabled(if: hasTool("ssh"), "needs ssh(1)"))
struct KnownHostsTests {
    private let server: SSHServer
    private let key: String

    init() throws {
        server = try SSHServer()
        let words = try expectTool("cat", server.folder.file("host_key.pub")).split(separator: " ")
        key = "\(words[0]) \(words[1])"
    }

    private func write(_ name: String, _ lines: String...) throws {
        try LinuxFileSystem().replaceContents(
            of: server.folder.file(name), with: [UInt8]((lines.joined(separator: "\n") + "\n").utf8))
    }

    private func open(_ lines: String..., host: String? = nil) throws {
        let known = try LinuxFileSystem().contents(of: server.configurationFile, limit: 1 << 20)
        let config = lines.map { $0 + "\n" }.joined() + String(decoding: known, as: UTF8.self)
        try LinuxFileSystem().replaceContents(of: server.folder.file("config"), with: [UInt8](config.utf8))
        var options = SSHOptions()
        options.configurationFile = server.folder.file("config")
        options.command = "echo hello"
        let stream = try SSHConnection.open(SSHTarget(parsing: host ?? server.address), options: options)
        #expect(try stream.readExactly(6) == [UInt8]("hello\n".utf8))
        stream.close()
    }

    private func expectRefused(_ code: TransportError.Code, _ word: String, _ body: () throws -> Void) {
        let error = #expect(throws: TransportError.self) { try body() }
        #expect(error?.code == code, "\(String(describing: error))")
        #expect(error?.message.contains(word) == true, "\(String(describing: error))")
    }

    @Test func aRevokedKeyIsNeverTrusted() throws {
        let name = "[127.0.0.1]:\(server.port)"
        for line in ["@revoked * \(key)", "@revoked \(name) \(key)", "  @revoked\t\(name)\t\(key)"] {
            try write("known_hosts", "\(name) \(key)", line)
            expectRefused(.hostKeyChanged, "revoked") { try open() }
        }
        // Another key, or another host's.
        let other = try expectTool("cat", server.folder.file("other_key.pub")).filter { !$0.isNewline }
        try write("known_hosts", "@revoked * \(other)", "\(name) \(key)", "@revoked elsewhere \(key)")
        try open()
        // And by a list of keys.
        try write("revoked", "# stolen", key)
        expectRefused(.hostKeyChanged, "revoked") { try open("RevokedHostKeys \(server.folder.file("revoked"))") }
        expectRefused(.hostKeyChanged, "revoked") { try open("RevokedHostKeys /nowhere") }
    }

    @Test func anAuthorityIsNotTakenForAKey() throws {
        try write("known_hosts", "@cert-authority * \(key)")
        expectRefused(.hostKeyUnknown, "@cert-authority") { try open() }
    }

    @Test func settingsThatAreNotStrictAcceptNoKey() throws {
        try write("known_hosts", "# nothing")
        expectRefused(.hostKeyUnknown, "ssh-keyscan") { try open("StrictHostKeyChecking no") }
        let other = try expectTool("cat", server.folder.file("other_key.pub")).filter { !$0.isNewline }
        try write("known_hosts", "[127.0.0.1]:\(server.port) \(other)")
        expectRefused(.hostKeyChanged, "changed") { try open("StrictHostKeyChecking no") }
    }

    @Test func theHostIsKnownByItsAlias() throws {
        try write("known_hosts", "nickname \(key)")
        expectRefused(.hostKeyUnknown, "ssh-keyscan") { try open() }
        try open("HostKeyAlias nickname")
        // Its own name says nothing then.
        try write("known_hosts", "[127.0.0.1]:\(server.port) \(key)")
        expectRefused(.hostKeyUnknown, "nickname") { try open("HostKeyAlias nickname") }
    }

    @Test func furtherFilesAreLookedInto() throws {
        try write("known_hosts", "# nothing")
        try write("second", "[127.0.0.1]:\(server.port) \(key)")
        try open("UserKnownHostsFile \(server.folder.file("known_hosts")) \(server.folder.file("second"))")
        try write("second", "@revoked * \(key)")
        try write("known_hosts", "[127.0.0.1]:\(server.port) \(key)")
        expectRefused(.hostKeyChanged, "revoked") {
            try open("UserKnownHostsFile \(server.folder.file("known_hosts")) \(server.folder.file("second"))")
        }
    }

    @Test func aJumpThatFailsIsNamedWithItsReason() throws {
        expectRefused(.unreachable, "no-such-host.invalid") {
            try open("Host inner", "HostName 127.0.0.1", "ProxyJump no-such-host.invalid", host: "inner")
        }
        // The words of the command on the way.
        expectRefused(.unreachable, "the way is closed") {
            try open("Host inner", "ProxyCommand echo the way is closed >&2", host: "inner")
        }
    }
}
