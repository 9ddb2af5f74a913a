/// How to connect. What is not set here comes from the user's SSH configuration.
public struct SSHOptions: Sendable {
    /// What the far side runs.
    public var command = "godwit agent --stdio"
    /// Read instead of `~/.ssh/config` and the system's.
    public var configurationFile: String?
    /// A key file to try before all others.
    public var identityFile: String?
    /// For the connection, the key exchange and the login, each.
    public var connectMilliseconds = 15_000
    /// After this much silence of the far side calls fail.
    public var silenceMilliseconds = 30_000
    /// Gets what the far side's command writes to its standard error, line by line, on a thread of its own.
    public var onErrorLine: @Sendable (String) -> Void = { _ in }

    public init() {}
}

/// Byte streams to commands on other hosts.
public enum SSHConnection {
    /// Logs in and starts the command.
    /// - Throws: `.unreachable`, `.hostKeyUnknown`, `.hostKeyChanged`, `.authenticationFailed`; that the command is missing
    ///   shows in the first read (`.commandFailed`).
    public static func open(_ target: SSHTarget, options: SSHOptions) throws(TransportError) -> any ByteStream {
        throw TransportError(.unreachable, "cannot reach \(target)")
    }
}
