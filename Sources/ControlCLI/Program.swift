internal import ArgumentParser
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// The program `godwit`: everything but `main`.
public enum Program {
    public static let version = "0.1.0"
    /// What peers are told.
    static let product = "godwit \(version)"

    /// Runs the command that the arguments of this process name. - Returns: the exit status.
    public static func main() -> Int32 {
        // What is opened next would be written to as if it were one of them.
        openStandardStreams()
        ignoreFileSizeLimit()
        // Each index file of a store takes one; a repair that runs for hours keeps them from being merged.
        raiseOpenFileLimit(to: 1 << 16)
        guard let arguments = processArguments() else {
            let odd = "an argument is not UTF-8: rename the file, or whatever it names"
            return report(CommandFailure(.usage, odd), CommandLine.arguments)
        }
        // Of those, paths are taken.
        let paths = ["HOME", "XDG_RUNTIME_DIR"]
        if let name = variableThatIsNoText(where: { paths.contains($0) || $0.begins(with: "GODWIT") }) {
            return report(CommandFailure(.usage, "\(name) in the environment is not UTF-8: change it"), arguments)
        }
        // No option or argument takes it; mostly it is a variable of a script that nobody has set.
        let given = arguments.dropFirst()
        let options = given.prefix { !$0.isSame(as: "--") }
        if given.contains("") || options.contains(where: { $0.begins(with: "--") && $0.ends(with: "=") }) {
            let empty = "an argument is empty: a variable may not be set; leave it out, or give it a value"
            return report(CommandFailure(.usage, empty), arguments)
        }
        return run(Array(arguments.dropFirst()))
    }

    /// Runs the command that the arguments name. - Returns: the exit status.
    public static func run(_ arguments: [String]) -> Int32 {
        // The processes that it starts for itself take signals themselves: a freeze guard thaws, an owner closes its
        // disk.
        let own = [
            FreezeGuardCommand.configuration.commandName, KernelOwnerCommand.configuration.commandName,
            DiskServerCommand.configuration.commandName,
        ]
        if !own.contains(arguments.first) { Interruption.watch() }
        var parsed: (any ParsableCommand)?
        do {
            var command = try GodwitCommand.parseAsRoot(arguments)
            parsed = command
            try command.run()
            return ExitStatus.success.rawValue
        } catch let failure as CommandFailure {
            return report(failure, arguments)
        } catch let code as ExitCode {
            // It has told its failure to who has started it.
            return code.rawValue
        } catch {
            let code = GodwitCommand.exitCode(for: error)
            if code.isSuccess {
                return show(GodwitCommand.fullMessage(for: error) + "\n", arguments)
            }
            guard parsed == nil || code == .validationFailure else { return report(CommandFailure(error), arguments) }
            return report(usageFailure(error), arguments)
        }
    }

    /// Help and the like. - Returns: the exit status.
    private static func show(_ text: String, _ arguments: [String]) -> Int32 {
        do { _ = try FileDescriptor.standardOutput.writeAll(Array(text.utf8)) } catch {
            return report(CommandFailure(.inputOutput, "what was asked for can't be written: \(error)"), arguments)
        }
        return ExitStatus.success.rawValue
    }

    /// A usage error in one line, with the way to the help.
    private static func usageFailure(_ error: any Error) -> CommandFailure {
        let message = GodwitCommand.message(for: error)
        let lines = message.parts(between: "\n").map { $0.trimmed() }.filter { !$0.isEmpty }
        let sentence = lines.joined(separator: " ").trimmed(of: ".")
        let help = helpCommand(GodwitCommand.fullMessage(for: error))
        return CommandFailure(.usage, sentence.contains("--help") ? sentence : "\(sentence): see '\(help)'")
    }

    /// The parser's full message ends with the way to the help of the command it means; only the command is taken.
    private static func helpCommand(_ full: String) -> String {
        guard let start = full.range(ofText: "See '"), let end = full[start...].firstIndex(of: "'") else {
            return "godwit --help"
        }
        return String(full[start..<end])
    }

    private static func report(_ failure: CommandFailure, _ arguments: [String]) -> Int32 {
        let status = Interruption.status(for: failure.status)
        let message = PrintableText.of(
            failure.message.split(whereSeparator: \.isNewline).joined(separator: " "))
        if arguments.contains("--json"), let text = try? Report.json(ErrorObject(status: status, message: message)) {
            Report.write(text + "\n", to: .standardError)
        } else {
            Report.write("godwit: \(message)\n", to: .standardError)
        }
        return status.rawValue
    }

    private struct ErrorObject: Encodable {
        struct Detail: Encodable {
            var code: String
            var exitStatus: Int32
            var message: String
        }
        var error: Detail

        init(status: ExitStatus, message: String) {
            error = Detail(code: status.name, exitStatus: status.rawValue, message: message)
        }
    }
}

extension StringProtocol {
    fileprivate func trimmed() -> String {
        String(drop { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed())
    }

    fileprivate func trimmed(of last: Character) -> String {
        self.last == last ? String(dropLast()) : String(self)
    }

    /// Where the text behind the first occurrence of `prefix` starts.
    fileprivate func range(ofText prefix: String) -> Index? {
        var position = startIndex
        while position < endIndex {
            if self[position...].begins(with: prefix) { return index(position, offsetBy: prefix.count) }
            position = index(after: position)
        }
        return nil
    }
}
