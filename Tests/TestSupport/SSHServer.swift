import BlockIO
import Glibc
import LinuxSystem

/// Debian's sshd on a free port of the loopback, for one test: its own host key, one client key, known_hosts and client
/// configuration, all in a folder that goes with it. Logins are as the current user.
public final class SSHServer: Sendable {
    public let port: UInt16
    public let user: String
    public let folder: TemporaryFolder
    private let server: ChildProcess
    private let log: LogReader

    /// Where sshd is on Debian.
    public static let program = "/usr/sbin/sshd"
    public static let isInstalled = hasTool(program) && hasTool("ssh-keygen")

    /// - Parameters:
    ///   - environment: variables of the commands that it runs.
    ///   - forcedCommand: what it runs whatever the client asks for.
    ///   - extra: more lines for its configuration.
    public init(
        environment: [String: String] = [:], forcedCommand: String? = nil, extra: [String] = []
    ) throws {
        folder = try TemporaryFolder()
        user = try expectTool("id", "-un").filter { !$0.isNewline }
        // Without it sshd does not start; the system's own makes it at boot.
        if isRoot { try expectTool("mkdir", "-p", "-m", "0755", "/run/sshd") }
        for key in ["host_key", "client_key", "other_key"] {
            try expectTool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", folder.file(key))
        }
        let fileSystem = LinuxFileSystem()
        let folder = self.folder
        func write(_ name: String, _ lines: [String]) throws {
            try fileSystem.replaceContents(
                of: folder.file(name), with: [UInt8]((lines.joined(separator: "\n") + "\n").utf8))
        }
        try expectTool("cp", folder.file("client_key.pub"), folder.file("authorized_keys"))
        var started: (UInt16, ChildProcess, LogReader)?
        // Between the choice of a port and its use somebody else may take it.
        for _ in 0..<10 where started == nil {
            let chosen = try Self.freePort()
            var lines = [
                "Port \(chosen)", "ListenAddress 127.0.0.1", "HostKey \(folder.file("host_key"))", "PidFile none",
                "AuthorizedKeysFile \(folder.file("authorized_keys"))", "StrictModes no", "UsePAM no",
                "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password",
                "LogLevel VERBOSE", "MaxStartups 100", "MaxSessions 100",
            ]
            // A login that is killed in the user's own start-up files may leave a lock that all later ones wait for.
            let variables = ["HOME": folder.path].merging(environment) { $1 }
            let settings = variables.sorted { $0.key < $1.key }.map { "\"\($0.key)=\($0.value)\"" }
            lines.append("SetEnv \(settings.joined(separator: " "))")
            if let forcedCommand { lines.append("ForceCommand \(forcedCommand)") }
            try write("sshd_config", lines + extra)
            let pipe = try Pipe()
            let server = try ChildProcess(
                Self.program, ["-D", "-e", "-f", folder.file("sshd_config")], output: .null,
                errors: .descriptor(pipe.writing.number), newGroup: true)
            let log = try LogReader(pipe.keepReading())
            if log.waitForLine(containing: "Server listening") { started = (chosen, server, log) }
        }
        guard let started else { throw SSHServerFailure(description: "sshd did not start: see \(folder.path)") }
        let (chosenPort, process, reader) = started
        port = chosenPort
        server = process
        log = reader
        let name = "[127.0.0.1]:\(port)"
        let hostKey = try fileSystem.contents(of: folder.file("host_key.pub"), limit: 4096)
        try write("known_hosts", ["\(name) \(String(decoding: hostKey, as: UTF8.self).filter { !$0.isNewline })"])
        try write(
            "ssh_config",
            [
                "Host *", "  IdentityFile \(folder.file("client_key"))", "  IdentitiesOnly yes",
                "  UserKnownHostsFile \(folder.file("known_hosts"))", "  GlobalKnownHostsFile /dev/null",
                "Host far", "  HostName 127.0.0.1", "  Port \(port)", "  User \(user)",
            ])
    }

    deinit { stop() }

    /// For `GODWIT_SSH_CONFIG` and `ssh -F`. It also knows this server as the host `far`.
    public var configurationFile: String { folder.file("ssh_config") }
    public var knownHostsFile: String { folder.file("known_hosts") }
    /// `user@127.0.0.1:port`.
    public var address: String { "\(user)@127.0.0.1:\(port)" }
    /// What sshd said so far.
    public var logText: String { log.text }

    /// Makes known_hosts name another key for this server.
    public func pretendOtherHostKey() throws {
        let other = try expectTool("cat", folder.file("other_key.pub")).filter { !$0.isNewline }
        try LinuxFileSystem().replaceContents(of: knownHostsFile, with: [UInt8]("[127.0.0.1]:\(port) \(other)\n".utf8))
    }

    /// Empties known_hosts.
    public func forgetHost() throws { try LinuxFileSystem().replaceContents(of: knownHostsFile, with: []) }

    /// Makes the server know another client key than the client has.
    public func refuseClient() throws {
        try expectTool("cp", folder.file("other_key.pub"), folder.file("authorized_keys"))
    }

    /// Kills the sshd processes of all connections: to the clients the link is cut.
    /// - Returns: how many there were.
    @discardableResult
    public func cutConnections() throws -> Int {
        let children = try descendants(of: server.identifier)
        for child in children { _ = kill(child, SIGKILL) }
        return children.count
    }

    /// Ends the server and its connections.
    public func stop() {
        _ = try? cutConnections()
        _ = try? server.stop()
    }

    private static func freePort() throws -> UInt16 { try SilentListener(listening: false).port }
}

/// A port of the loopback that takes connections and never says a word.
public final class SilentListener: Sendable {
    public let port: UInt16
    private let descriptor: Int32

    /// - Parameter listening: otherwise it is only taken as long as this lives.
    public init(listening: Bool = true) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = in_addr_t(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = withUnsafeMutablePointer(to: &address) { [descriptor] pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                bind(descriptor, generic, length) == 0 ? getsockname(descriptor, generic, &length) : -1
            }
        }
        port = UInt16(bigEndian: address.sin_port)
        guard result == 0, !listening || listen(descriptor, 16) == 0 else {
            throw SSHServerFailure(description: "no free port on the loopback: errno \(errno)")
        }
    }

    deinit { close(descriptor) }
}

public struct SSHServerFailure: Error, CustomStringConvertible {
    public var description: String
}

/// The processes below `parent`, not itself.
func descendants(of parent: Int32) throws -> [Int32] {
    let table = try expectTool("ps", "-e", "-o", "pid=,ppid=").split(separator: "\n").compactMap {
        line -> (Int32, Int32)? in
        let fields = line.split(separator: " ").compactMap { Int32($0) }
        return fields.count == 2 ? (fields[0], fields[1]) : nil
    }
    var found: [Int32] = []
    var next = [parent]
    while let process = next.popLast() {
        let children = table.filter { $0.1 == process }.map { $0.0 }
        found += children
        next += children
    }
    return found
}

/// Takes in what a server logs, so that it never blocks on a full pipe.
final class LogReader: Sendable {
    private struct State {
        var text = ""
        var hasEnded = false
    }
    private let state = Monitor(State())
    private let thread: OwnThread

    init(_ source: consuming OwnedDescriptor) throws {
        let number = source.release()
        thread = try OwnThread(name: "log") { [state] in
            let descriptor = OwnedDescriptor(adopting: number)
            while let bytes = try? descriptor.readSome(upTo: 4096), !bytes.isEmpty {
                state.change { $0.text += String(decoding: bytes, as: UTF8.self) }
            }
            state.change { $0.hasEnded = true }
        }
    }

    var text: String { state.withLock { $0.text } }

    /// Waits until a line has `text`. - Returns: false when the log ended before, or after 20 seconds.
    func waitForLine(containing text: String) -> Bool {
        let deadline = SystemTime().monotonic() + 20_000_000_000
        return state.wait(until: deadline) { state in
            state.text.contains(text) ? true : state.hasEnded ? false : nil
        } ?? false
    }
}
