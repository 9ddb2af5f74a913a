internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// What the user's SSH configuration says of a host and libssh does not take from it, in ssh(1)'s own words: `ssh -G`.
/// Where there is no ssh(1), libssh's reading of the configuration has to do.
struct SSHConfiguration: Hashable, Sendable {
    /// The files of known hosts, the user's and the system's.
    var knownHostsFiles: [String] = []
    /// The name by which these know the host.
    var hostKeyAlias: String?
    /// Keys that are never to be trusted.
    var revokedKeysFile: String?
    /// The hosts on the way, as ProxyJump names them.
    var proxyJump: String?

    init() {}

    /// - Parameter text: lines of a keyword in small letters and its value.
    init(parsing text: String) {
        for line in text.parts(between: "\n") {
            let words = line.parts(between: " ", maxSplits: 1).map(String.init)
            guard words.count == 2, words[1] != "none" else { continue }
            switch words[0] {
            case "userknownhostsfile", "globalknownhostsfile":
                knownHostsFiles += words[1].parts(between: " ").map(String.init)
            case "hostkeyalias": hostKeyAlias = words[1]
            case "revokedhostkeys": revokedKeysFile = words[1]
            case "proxyjump": proxyJump = words[1]
            default: break
            }
        }
    }

    private static let limitMilliseconds = 10_000

    /// Of the host that `target` names.
    static func of(_ target: SSHTarget, file: String?) -> SSHConfiguration {
        var arguments = ["-G"]
        if let file { arguments += ["-F", file] }
        if let port = target.port { arguments += ["-p", "\(port)"] }
        if let user = target.user { arguments += ["-l", user] }
        let result = try? ChildProcess.run(
            "ssh", arguments + ["--", target.host], limit: 1 << 20, deadlineMilliseconds: limitMilliseconds)
        guard let result, result.exitCode == 0 else { return SSHConfiguration() }
        return SSHConfiguration(parsing: result.outputText)
    }
}
