internal import CSSH
internal import LinuxSystem

/// How to connect. What is not set here comes from the user's SSH configuration.
public struct SSHOptions: Sendable {
    /// What the far side runs.
    public var command = "godwit agent --stdio"
    /// Read instead of `~/.ssh/config` and the system's.
    public var configurationFile: String?
    /// A key file to try before all others.
    public var identityFile: String?
    /// For the connection and for each step of the login.
    public var connectMilliseconds = 15_000
    /// After this much silence of the far side calls fail.
    public var silenceMilliseconds = 30_000
    /// Gets what the far side's command writes to its standard error, a line at a time without control characters, on
    /// the connection's own thread.
    public var onErrorLine: @Sendable (String) -> Void = { _ in }

    public init() {}

    /// With what the environment says: `GODWIT_REMOTE_COMMAND` and `GODWIT_SSH_CONFIG`.
    public static func fromEnvironment() -> SSHOptions {
        var options = SSHOptions()
        if let command = environmentVariable("GODWIT_REMOTE_COMMAND"), !command.isEmpty { options.command = command }
        if let file = environmentVariable("GODWIT_SSH_CONFIG"), !file.isEmpty { options.configurationFile = file }
        return options
    }
}

/// Byte streams to commands on other hosts.
public enum SSHConnection {
    /// Logs in and starts the command.
    /// - Throws: `.unreachable`, `.hostKeyUnknown`, `.hostKeyChanged`, `.authenticationFailed`; that the command is
    /// missing
    ///   shows in the first read (`.commandFailed`).
    public static func open(_ target: SSHTarget, options: SSHOptions) throws(TransportError) -> any ByteStream {
        // libssh writes to sockets without asking for EPIPE.
        ignoreBrokenPipes()
        var report = cssh_report()
        let connection = unsafe withCTarget(target, options) { ctarget in
            unsafe cssh_open(ctarget, &report)
        }
        guard let connection = unsafe connection else {
            throw SSHReport(report).error(target: target, options: options)
        }
        return try unsafe SSHStream(adopting: connection, target: target, options: options)
    }

    private static func withCTarget<R>(
        _ target: SSHTarget, _ options: SSHOptions, _ body: (UnsafePointer<cssh_target>) -> R
    ) -> R {
        unsafe withOptionalCString(target.user) { user in
            unsafe withOptionalCString(options.configurationFile) { configuration in
                unsafe withOptionalCString(options.identityFile) { identity in
                    unsafe target.host.withCString { host in
                        unsafe options.command.withCString { command in
                            var ctarget = unsafe cssh_target(
                                host: host, user: user, port: target.port ?? 0, config_file: configuration,
                                identity_file: identity, command: command,
                                timeout_ms: UInt32(clamping: options.connectMilliseconds))
                            return unsafe body(&ctarget)
                        }
                    }
                }
            }
        }
    }

    private static func withOptionalCString<R>(_ text: String?, _ body: (UnsafePointer<CChar>?) -> R) -> R {
        guard let text else { return body(nil) }
        return unsafe text.withCString { unsafe body($0) }
    }
}

/// What libssh found out, and what to tell people about it.
struct SSHReport {
    var outcome: Int32
    var host: String
    var user: String
    var port: UInt16
    var detail: String
    var keyType: String
    var fingerprint: String
    var methods: String
    var knownHostsFile: String

    init(_ report: cssh_report) {
        outcome = report.outcome
        port = report.port
        host = Self.text(of: report.host)
        user = Self.text(of: report.user)
        detail = Self.text(of: report.detail)
        keyType = Self.text(of: report.key_type)
        fingerprint = Self.text(of: report.fingerprint)
        methods = Self.text(of: report.methods)
        knownHostsFile = Self.text(of: report.known_hosts)
    }

    /// The characters of a C array up to its zero.
    private static func text<T>(of array: T) -> String {
        unsafe withUnsafeBytes(of: array) { bytes in
            unsafe String(decoding: bytes.prefix(while: { $0 != 0 }), as: UTF8.self)
        }
    }

    /// As known_hosts names it.
    private var entry: String { port == 22 || port == 0 ? host : "[\(host)]:\(port)" }
    private var portOption: String { port == 22 || port == 0 ? "" : "-p \(port) " }

    func error(target: SSHTarget, options: SSHOptions) -> TransportError {
        let reason = detail.isEmpty ? "no reason given" : detail
        switch outcome {
        case Int32(CSSH_UNREACHABLE.rawValue):
            return TransportError(.unreachable, "cannot reach \(host) port \(port): \(reason)")
        case Int32(CSSH_HOST_UNKNOWN.rawValue):
            return TransportError(
                .hostKeyUnknown,
                "the key of host \(entry) is not in \(knownHostsFile): it is \(keyType) \(fingerprint). "
                    + "Compare that with 'ssh-keygen -lf /etc/ssh/ssh_host_\(keyFileName)_key.pub' on that host; "
                    + "when it is the same, run 'ssh-keyscan \(portOption)\(host) >> \(knownHostsFile)'")
        case Int32(CSSH_HOST_CHANGED.rawValue):
            return TransportError(
                .hostKeyChanged,
                "the key of host \(entry) is not the one in \(knownHostsFile): it is now \(keyType) "
                    + "\(fingerprint). Somebody may be listening in. When you know why it changed, run "
                    + "'ssh-keygen -f \(knownHostsFile) -R \(quotedEntry)' and add the new key")
        case Int32(CSSH_NOT_ALLOWED.rawValue):
            let offers = methods.isEmpty ? "" : " (it offers:\(methods))"
            return TransportError(
                .authenticationFailed,
                "\(user)@\(host) refused the login\(offers): none of this user's keys is accepted there. Try 'ssh "
                    + "\(portOption)\(user)@\(host) true'; 'ssh-copy-id' puts a key there, "
                    + "'ssh-add' loads one that has a passphrase"
            )
        case Int32(CSSH_NO_COMMAND.rawValue):
            return TransportError(
                .commandFailed, "\(host) let us in but not run '\(options.command)': \(reason)")
        case Int32(CSSH_BAD_CONFIG.rawValue):
            return TransportError(.system, "cannot connect to \(target): \(reason)")
        default:
            return TransportError(.system, "cannot connect to \(target): \(reason)")
        }
    }

    private var quotedEntry: String { entry.hasPrefix("[") ? "'\(entry)'" : entry }

    private var keyFileName: String {
        if keyType.contains("ed25519") { return "ed25519" }
        return keyType.contains("ecdsa") ? "ecdsa" : "rsa"
    }
}
