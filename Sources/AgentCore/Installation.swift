internal import LinuxSystem

/// Where this installation's parts are.
enum Installation {
    /// This program, to be started again by this process: `$GODWIT_EXECUTABLE` where that is not the running one.
    static func executable() -> String {
        if let path = environmentVariable("GODWIT_EXECUTABLE"), !path.isEmpty { return path }
        // Also where another version has replaced it meanwhile.
        return "/proc/\(ownProcess())/exe"
    }
}
