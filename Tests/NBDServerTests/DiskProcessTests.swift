import AgentAPI
import BlockIO
import DiskImage
import LinuxSystem
@testable import NBDServer
import TestSupport
import Testing

private let program = builtProgram("godwit")

/// The server as a process of its own.
private final class RunningServer {
    let folder: TemporaryFolder
    let process: ChildProcess
    let path: String
    var socket: String { folder.file("nbd.sock") }
    var control: String { folder.file("control.sock") }

    init(_ options: String..., before: (TemporaryFolder) throws -> Void = { _ in }) throws {
        folder = try TemporaryFolder()
        path = folder.file("disk")
        try createDisk(at: path, options: CreateOptions(byteCount: 16 << 20), in: LinuxFileSystem())
        try before(folder)
        let report = try Pipe()
        process = try ChildProcess(
            try #require(program),
            [
                "internal-nbd-server", path, "--socket", folder.file("nbd.sock"), "--control",
                folder.file("control.sock"),
            ] + options, output: .descriptor(report.writing.number))
        let channel = LineChannel(adopting: report.keepReading())
        let deadline = SystemTime().monotonic() + 60_000_000_000
        let reply = try channel.receive(ControlReply.self, until: deadline)
        guard case .done = reply else { throw ClientFailure(message: "\(String(describing: reply))") }
        // What reads the report finds its end.
        #expect(try channel.receive(ControlReply.self, until: deadline) == nil)
    }

    func connect() throws -> RawClient {
        let client = try RawClient(socket)
        try client.connect()
        return client
    }

    func expectClosed() throws {
        #expect(try !LinuxFileSystem().exists(socket))
        let disk = try Disk.open(path, in: LinuxFileSystem())
        #expect(!disk.repairedOnOpen)
        try disk.close()
    }
}

@Suite(.enabled(if: program != nil, "the program is not beside the tests")) struct DiskProcessTests {
    @Test(arguments: [Signal.terminate, Signal.interrupt, Signal.hangUp])
    func `a signal closes the disk, whoever is connected`(signal: CInt) throws {
        let server = try RunningServer()
        let client = try server.connect()
        try client.request(1, cookie: 1, offset: 0, count: 4096, payload: [UInt8](repeating: 1, count: 4096))
        #expect(try client.reply().error == 0)
        try server.process.send(signal)
        #expect(try server.process.wait(deadlineMilliseconds: 30_000) == 0)
        #expect(try client.isHungUpOn())
        try server.expectClosed()
    }

    @Test func `a request to shut down is refused while a client is connected, unless it is forced`() throws {
        let server = try RunningServer()
        let client = try server.connect()
        let error = #expect(throws: ControlError.self) {
            try ControlClient.connect(server.control).perform(.shutdown)
        }
        #expect(error?.code == ControlError.busy)
        let own = try #require(try ControlClient.connect(server.control).status().clients)
        #expect(own.map(\.pid) == [ownProcess()])
        try ControlClient.connect(server.control).perform(.shutdownForced)
        #expect(try server.process.wait(deadlineMilliseconds: 30_000) == 0)
        #expect(try client.isHungUpOn())
        try server.expectClosed()
    }

    @Test func `a dead socket is replaced, and is for its user only`() throws {
        let server = try RunningServer { folder in
            _ = try UnixSocket.listen(at: folder.file("nbd.sock"))
            _ = try UnixSocket.listen(at: folder.file("control.sock"))
        }
        let listed = try expectTool("stat", "-c", "%a %F", server.socket)
        #expect(listed == "600 socket\n")
        #expect(try expectTool("cat", "/proc/\(server.process.identifier)/comm") == "godwit-nbd\n")
        _ = try server.connect()
    }

    @Test func `a disk that is not there is told in the report`() throws {
        let folder = try TemporaryFolder()
        let result = try ChildProcess.run(
            try #require(program),
            ["internal-nbd-server", folder.file("none"), "--socket", folder.file("nbd.sock")],
            deadlineMilliseconds: 60_000)
        #expect(result.exitCode == 1)
        #expect(result.outputText.contains("\"failed\"") && result.outputText.contains("notFound"))
        #expect(result.errorText.contains("none"), "\(result.errorText)")
    }

    @Test func `a socket that somebody serves is left alone`() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disk")
        try createDisk(at: path, options: CreateOptions(byteCount: 16 << 20), in: LinuxFileSystem())
        let listener = try UnixSocket.listen(at: folder.file("nbd.sock"))
        let result = try ChildProcess.run(
            try #require(program), ["internal-nbd-server", path, "--socket", folder.file("nbd.sock")],
            deadlineMilliseconds: 60_000)
        #expect(result.exitCode == 1)
        #expect(try LinuxFileSystem().exists(folder.file("nbd.sock")))
        withExtendedLifetime(listener) {}
    }
}
