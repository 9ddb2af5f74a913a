internal import CSSH
internal import Geometry
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
        let configuration = SSHConfiguration.of(target, file: options.configurationFile)
        let proxyLog = ProxyLog()
        var report = cssh_report()
        let connection = unsafe withCTarget(target, options, configuration, proxyLog) { ctarget in
            unsafe cssh_open(ctarget, &report)
        }
        guard let connection = unsafe connection else {
            let said = SSHReport(report, alias: configuration.hostKeyAlias, proxyWords: proxyLog?.text ?? "")
            throw said.error(target: target, options: options)
        }
        return try unsafe SSHStream(adopting: connection, target: target, options: options)
    }

    private static func withCTarget<R>(
        _ target: SSHTarget, _ options: SSHOptions, _ configuration: SSHConfiguration, _ proxyLog: ProxyLog?,
        _ body: (UnsafePointer<cssh_target>) -> R
    ) -> R {
        let texts: [String?] = [
            target.user, options.configurationFile, options.identityFile, target.host, options.command,
            configuration.knownHostsFiles.joined(separator: "\n"), configuration.hostKeyAlias,
            configuration.revokedKeysFile, proxyLog?.path,
        ]
        return unsafe withOptionalCStrings(texts) { texts in
            var ctarget = unsafe cssh_target(
                host: texts[3], user: texts[0], port: target.port ?? 0, config_file: texts[1],
                identity_file: texts[2], command: texts[4],
                timeout_ms: UInt32(clamping: options.connectMilliseconds), known_files: texts[5], alias: texts[6],
                revoked_file: texts[7], is_jump: configuration.proxyJump == nil ? 0 : 1, proxy_log: texts[8])
            return unsafe body(&ctarget)
        }
    }

    private static func withOptionalCStrings<R>(
        _ texts: [String?], _ body: ([UnsafePointer<CChar>?]) -> R
    ) -> R {
        unsafe lend(texts[...], lent: [], body)
    }

    private static func lend<R>(
        _ texts: ArraySlice<String?>, lent: [UnsafePointer<CChar>?], _ body: ([UnsafePointer<CChar>?]) -> R
    ) -> R {
        guard let text = texts.first else { return unsafe body(lent) }
        return unsafe withOptionalCString(text) { pointer in
            unsafe lend(texts.dropFirst(), lent: lent + [pointer], body)
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
    /// The command that was to make the connection; empty: it is made directly.
    var proxy: String
    /// What that said of its failure.
    var proxyWords: String
    /// The name by which the files know the host, where that is not its own.
    var alias: String?

    init(_ report: cssh_report, alias: String? = nil, proxyWords: String = "") {
        self.alias = alias
        self.proxyWords = proxyWords
        proxy = Self.text(of: report.proxy)
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
    private var entry: String { alias ?? ownEntry }
    private var ownEntry: String { port == 22 || port == 0 ? host : "[\(host)]:\(port)" }
    private var portOption: String { port == 22 || port == 0 ? "" : "-p \(port) " }

    func error(target: SSHTarget, options: SSHOptions) -> TransportError {
        let reason = detail.isEmpty ? "no reason given" : detail
        switch outcome {
        case Int32(CSSH_UNREACHABLE.rawValue):
            guard !proxy.isEmpty else {
                return TransportError(.unreachable, "cannot reach \(host) port \(port): \(reason)")
            }
            let said = proxyWords.isEmpty ? "it said nothing; \(reason)" : proxyWords
            return TransportError(
                .unreachable, "cannot reach \(host) port \(port) through '\(proxy)': \(said)")
        case Int32(CSSH_HOST_REVOKED.rawValue):
            return TransportError(
                .hostKeyChanged,
                "the key of host \(entry) was revoked: \(keyType) \(fingerprint), says a line with @revoked in "
                    + "\(knownHostsFile), or another file that the SSH configuration names. Whoever has this key is "
                    + "not to be trusted; give the host a new one")
        case Int32(CSSH_HOST_BY_AUTHORITY.rawValue):
            return TransportError(
                .hostKeyUnknown,
                "\(knownHostsFile) trusts host \(entry) by a certificate authority (@cert-authority), which Godwit "
                    + "can't check. Add the host's own key, which is \(keyType) \(fingerprint): compare that with "
                    + "'ssh-keygen -lf /etc/ssh/ssh_host_\(keyFileName)_key.pub' on that host, and then \(scan)")
        case Int32(CSSH_HOST_UNKNOWN.rawValue):
            return TransportError(
                .hostKeyUnknown,
                "the key of host \(entry) is not in \(knownHostsFile): it is \(keyType) \(fingerprint). "
                    + "Compare that with 'ssh-keygen -lf /etc/ssh/ssh_host_\(keyFileName)_key.pub' on that host; "
                    + "when it is the same, \(scan)")
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

    /// How to make the host's key known. An alias is not what a scan names the host.
    private var scan: String {
        let command = "ssh-keyscan \(portOption)\(host)"
        guard let alias else { return "run '\(command) >> \(knownHostsFile)'" }
        return "put what '\(command)' prints into \(knownHostsFile), with \(alias) in place of the host's name"
    }

    private var quotedEntry: String { entry.begins(with: "[") ? "'\(entry)'" : entry }

    private var keyFileName: String {
        if keyType.contains("ed25519") { return "ed25519" }
        return keyType.contains("ecdsa") ? "ecdsa" : "rsa"
    }
}

/// Where the command that makes a connection writes why it does not.
private final class ProxyLog {
    let path: String

    /// - Returns: `nil` where there is no place for it.
    init?() {
        let folder = environmentVariable("XDG_RUNTIME_DIR") ?? "/tmp"
        path = "\(folder)/godwit-ssh-\(ownProcess())-\(SystemTime().monotonic())"
        guard !path.has("'"), (try? createPrivateFile(path)) != nil else { return nil }
    }

    deinit { removeFile(path) }

    /// Its last lines.
    var text: String {
        let all = (try? kernelText(path)).flatMap { $0 } ?? ""
        return all.split(whereSeparator: \.isNewline).suffix(3).map(printable).joined(separator: "; ")
    }

    private func printable(_ line: Substring) -> String {
        String(line.map { $0.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7f } ? $0 : "?" })
    }
}
