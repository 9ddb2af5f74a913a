internal import CSystemShims
internal import Geometry

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
        let parts = text.parts(between: "=", maxSplits: 1, keepsEmpty: true)
        if parts.count == 2 { variables[String(parts[0])] = String(parts[1]) }
        index += 1
    }
    return variables
}

/// The arguments of this process, its name first; `nil` when one of them is no UTF-8. Those of `CommandLine` have other
/// characters in place of such bytes, and so other files' names.
public func processArguments() -> [String]? {
    var arguments: [String] = []
    for index in 0..<Int(CommandLine.argc) {
        guard let pointer = unsafe CommandLine.unsafeArgv[index],
            let argument = unsafe String(validatingCString: pointer)
        else { return nil }
        arguments.append(argument)
    }
    return arguments
}

/// The first of these variables of the environment whose value is no UTF-8.
public func variableThatIsNoText(where isMeant: (String) -> Bool) -> String? {
    var index: UInt32 = 0
    while let entry = unsafe shim_environment_entry(index) {
        let name = String(unsafe String(cString: entry).parts(between: "=", maxSplits: 1, keepsEmpty: true)[0])
        if isMeant(name), unsafe String(validatingCString: entry) == nil { return name }
        index += 1
    }
    return nil
}

/// Whether the descriptor is a terminal.
public func isTerminal(_ descriptor: CInt) -> Bool { shim_isatty(descriptor) == 1 }

/// Ends the process at once: nothing is flushed, no exit handler runs.
public func endProcess(_ status: CInt) -> Never {
    shim_exit_now(status)
}
