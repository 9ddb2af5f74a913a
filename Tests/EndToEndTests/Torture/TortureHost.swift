import BlockIO
import FoundationEssentials
import LinuxSystem
import TestSupport

/// A host of its own: a small file system, a run folder, and an sshd that leads to both.
final class TortureHost: Sendable {
    let folder: TemporaryFolder
    let server: SSHServer
    private let environment: [String: String]

    static let fileSystemBytes = 640 << 20

    var path: String { folder.file("fs") }

    init(name: String) throws {
        folder = try TemporaryFolder()
        let files = LinuxFileSystem()
        let fs = folder.file("fs")
        try files.createFolder(fs)
        try expectTool("mount", "-t", "tmpfs", "-o", "size=\(Self.fileSystemBytes)", "godwit-\(name)", fs)
        let own = ["GODWIT_RUN_DIR": folder.file("run")]
        server = try SSHServer(environment: own)
        environment = processEnvironment().merging(own) { $1 }
    }

    private struct Status: Decodable {
        struct One: Decodable {
            struct Attachment: Decodable { var pid: Int32 }
            var attachment: Attachment
        }
        var disks: [One]
    }

    deinit {
        // Whatever a failed test left attached here.
        let status = try? ChildProcess.run(
            Product.program, ["status", "--json"], environment: environment, deadlineMilliseconds: 60_000)
        let disks = status.flatMap { try? JSONDecoder().decode(Status.self, from: Data($0.output)) }?.disks ?? []
        for disk in disks { try? ProcessHandle(disk.attachment.pid)?.send(Signal.kill) }
        try? detachFileSystem(at: path)
    }

    /// - Parameter far: the other host, which commands reach as `far`.
    func start(_ arguments: [String], far: TortureHost) throws -> TortureCommand {
        let remote = "'\(Product.program)' agent --stdio"
        return try TortureCommand(
            arguments,
            environment: environment.merging([
                "GODWIT_SSH_CONFIG": far.server.configurationFile, "GODWIT_REMOTE_COMMAND": remote,
            ]) { $1 })
    }

    func run(_ arguments: [String], far: TortureHost) throws -> TortureCommand.Result {
        try start(arguments, far: far).end(within: 120_000)
    }

    // MARK: A full file system

    /// Leaves about so much space: others take and give back some meanwhile.
    func fill(leaving bytes: UInt64) throws {
        for _ in 0..<10 {
            let free = try LinuxFileSystem().space(at: path).freeBytes
            guard free > bytes else { return }
            if try runTool("fallocate", "-l", "\(free - bytes)", "\(path)/filler").exitCode == 0 { return }
        }
    }

    func empty() { try? LinuxFileSystem().remove("\(path)/filler") }

    /// Bytes that a folder takes up.
    func allocated(_ name: String) throws -> UInt64 {
        let result = try ChildProcess.run("du", ["-s", "-B1", "\(path)/\(name)"])
        return UInt64(result.outputText.prefix { $0.isNumber }) ?? 0
    }
}

/// One run of the program, with JSON output.
final class TortureCommand: Sendable {
    struct Result: Sendable {
        var arguments: [String]
        var status: Int32
        var output: [UInt8]
        var errors: String

        var text: String {
            "godwit \(arguments.joined(separator: " ")): status \(status) \(errors)"
                + String(decoding: output, as: UTF8.self)
        }

        func decode<T: Decodable>(_ type: T.Type) throws -> T {
            do { return try JSONDecoder().decode(type, from: Data(output)) } catch {
                throw TortureFailure("\(text): \(error)")
            }
        }

        func expectSuccess() throws -> Result {
            guard status == 0 else { throw TortureFailure(text) }
            return self
        }
    }

    private let arguments: [String]
    private let child: ChildProcess
    private let folder: TemporaryFolder

    fileprivate init(_ arguments: [String], environment: [String: String]) throws {
        self.arguments = arguments
        let folder = try TemporaryFolder()
        let files = ["out", "err"].map { folder.file($0) }
        self.folder = folder
        // A shell, so that no pipe of ours can hold the program up.
        child = try ChildProcess(
            "sh",
            ["-c", "out=$1 err=$2; shift 2; exec \"$@\" --json >\"$out\" 2>\"$err\"", "sh"] + files
                + [Product.program] + arguments, environment: environment, newGroup: true)
    }

    /// Sends a signal after a time, unless the command has ended by then. - Returns: whether it was still running.
    func interrupt(after milliseconds: Int, _ signal: Int32) throws -> Bool {
        guard try child.wait(deadlineMilliseconds: milliseconds) == nil else { return false }
        try child.send(signal)
        return true
    }

    /// Waits for a time. - Returns: whether it still runs then.
    func isRunning(after milliseconds: Int) throws -> Bool { try child.wait(deadlineMilliseconds: milliseconds) == nil }

    /// - Throws: when it has not ended by then: every command ends.
    func end(within milliseconds: Int) throws -> Result {
        guard let status = try child.wait(deadlineMilliseconds: milliseconds) else {
            try child.send(Signal.kill)
            throw TortureFailure("godwit \(arguments.joined(separator: " ")) has not ended after \(milliseconds) ms")
        }
        let files = LinuxFileSystem()
        return Result(
            arguments: arguments, status: status,
            output: (try? files.contents(of: folder.file("out"), limit: 16 << 20)) ?? [],
            errors: String(
                decoding: (try? files.contents(of: folder.file("err"), limit: 1 << 20)) ?? [], as: UTF8.self))
    }
}
