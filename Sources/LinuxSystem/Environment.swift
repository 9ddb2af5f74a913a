internal import CSystemShims

/// A variable of this process's environment.
public func environmentVariable(_ name: String) -> String? {
    guard let value = unsafe shim_getenv(name) else { return nil }
    return unsafe String(cString: value)
}

/// All variables of this process's environment.
public func processEnvironment() -> [String: String] {
    var variables: [String: String] = [:]
    var index: UInt32 = 0
    while let entry = unsafe shim_environment_entry(index) {
        let text = unsafe String(cString: entry)
        if let separator = text.firstIndex(of: "=") {
            variables[String(text[..<separator])] = String(text[text.index(after: separator)...])
        }
        index += 1
    }
    return variables
}

/// Whether the descriptor is a terminal.
public func isTerminal(_ descriptor: CInt) -> Bool { shim_isatty(descriptor) == 1 }

/// Ends the process at once: nothing is flushed, no exit handler runs.
public func endProcess(_ status: CInt) -> Never {
    shim_exit_now(status)
}
