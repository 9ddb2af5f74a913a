internal import BlockIO
internal import LinuxSystem

/// Where this installation's parts are.
enum Installation {
    /// The nbdkit plugin: `$GODWIT_PLUGIN`, beside the program (a build folder), or in the `lib` beside its `bin`.
    static func plugin() throws(AgentError) -> String {
        if let path = environmentVariable("GODWIT_PLUGIN"), !path.isEmpty { return path }
        let files = LinuxFileSystem()
        let folder = try withAgentError { () throws(SystemError) in
            LinuxFileSystem.folder(of: try files.resolve("/proc/self/exe"))
        }
        let candidates = [
            "\(folder)/libnbdkit-godwit-plugin.so",
            "\(LinuxFileSystem.folder(of: folder))/lib/godwit/nbdkit-godwit-plugin.so",
        ]
        for path in candidates where (try? files.exists(path)) == true { return path }
        throw AgentError(
            .unsupported,
            "the nbdkit plugin is neither \(candidates.joined(separator: " nor ")): install it, or set GODWIT_PLUGIN")
    }

    /// This program, to be started again by this process: `$GODWIT_EXECUTABLE` where that is not the running one.
    static func executable() -> String {
        if let path = environmentVariable("GODWIT_EXECUTABLE"), !path.isEmpty { return path }
        // Also where another version has replaced it meanwhile.
        return "/proc/\(ownProcess())/exe"
    }
}
