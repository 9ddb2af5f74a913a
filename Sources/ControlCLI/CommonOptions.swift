internal import AgentCore
internal import ArgumentParser
internal import BlockIO
internal import LinuxSystem
internal import SystemPackage

/// What every command understands.
struct CommonOptions: ParsableArguments {
    @Flag(help: "Report in JSON: one object on standard output, errors as an object on standard error.")
    var json = false

    @Flag(name: .shortAndLong, help: "Report errors only.")
    var quiet = false

    @Flag(name: .shortAndLong, help: "Tell more about what is done.")
    var verbose = false

    @Option(help: ArgumentHelp("The configuration file.", valueName: "file"), completion: .file())
    var config: String?

    func validate() throws {
        if quiet && verbose { throw ValidationError("--quiet and --verbose exclude each other: give one of them") }
    }

    /// The configuration: of `--config`, `$GODWIT_CONFIG`, or /etc/godwit/godwit.toml, which alone may be missing.
    func configuration() throws(CommandFailure) -> Configuration {
        let named = config ?? environmentVariable("GODWIT_CONFIG")
        let path = named ?? Configuration.defaultPath
        let bytes: [UInt8]
        let isAnybodys: Bool
        do throws(SystemError) {
            bytes = try LinuxFileSystem().contents(of: path, limit: Configuration.sizeMax)
            // Its hooks are run as whoever runs this.
            isAnybodys = try isWorldWritable(path)
        } catch {
            if named == nil, error.errno == .noSuchFileOrDirectory { return Configuration() }
            throw CommandFailure(.configuration, "\(error.description): name another file with --config")
        }
        guard !isAnybodys else {
            throw CommandFailure(
                .configuration, "anybody may write to \(path), which names commands: run 'chmod o-w' on it")
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw CommandFailure(.configuration, "\(path) is not UTF-8: save it as that")
        }
        return try translated { try Configuration(parsing: text, file: path) }
    }
}
