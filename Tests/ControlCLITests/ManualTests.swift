import ArgumentParser
import FoundationEssentials
import Testing

@testable import ControlCLI

/// The manual pages say what the program does.
@Suite struct ManualTests {
    /// A command as `--experimental-dump-help` tells of it; only what is compared here.
    private struct Dump: Decodable {
        struct Argument: Decodable {
            struct Name: Decodable {
                var kind: String
                var name: String
            }
            var kind: String
            var shouldDisplay: Bool
            var names: [Name]?
        }
        struct Command: Decodable {
            var commandName: String
            var shouldDisplay: Bool
            var arguments: [Argument]?
            var subcommands: [Command]?
        }
        var command: Command
    }

    /// Options of every command, which godwit(1) has.
    private let common: Set<String> = ["json", "quiet", "verbose", "config", "help", "version"]

    private func root() throws -> Dump.Command {
        let text = GodwitCommand._dumpHelp()
        return try JSONDecoder().decode(Dump.self, from: Data(text.utf8)).command
    }

    private func longOptions(_ command: Dump.Command) -> Set<String> {
        var names: Set<String> = []
        for argument in command.arguments ?? [] where argument.kind != "positional" && argument.shouldDisplay {
            for name in argument.names ?? [] where name.kind == "long" { names.insert(name.name) }
        }
        for child in command.subcommands ?? [] where child.shouldDisplay { names.formUnion(longOptions(child)) }
        return names
    }

    /// Words after `.Fl -` in the page.
    private func documented(_ page: String) throws -> Set<String> {
        var names: Set<String> = []
        for line in try SourceTree.text("man/\(page)").split(separator: "\n") where line.hasPrefix(".") {
            let words = line.split(separator: " ")
            for (index, word) in words.enumerated() where word == "Fl" || word == ".Fl" {
                guard index + 1 < words.count, words[index + 1].hasPrefix("-") else { continue }
                names.insert(String(words[index + 1].dropFirst()))
            }
        }
        return names
    }

    @Test func everyOptionIsDocumentedAndEveryDocumentedOneExists() throws {
        for command in try root().subcommands ?? [] where command.shouldDisplay && command.commandName != "help" {
            let page = "godwit-\(command.commandName).1"
            let has = longOptions(command).subtracting(common)
            let tells = try documented(page).subtracting(common)
            #expect(has == tells, "\(page)")
        }
        #expect(try documented("godwit.1").isSuperset(of: common))
    }

    @Test func everyVerbHasItsSectionInThePage() throws {
        for command in try root().subcommands ?? [] where command.shouldDisplay {
            for verb in command.subcommands ?? [] where verb.commandName != "help" && verb.shouldDisplay {
                let text = try SourceTree.text("man/godwit-\(command.commandName).1")
                #expect(text.contains("\n.Ss \(verb.commandName)\n"), "\(command.commandName) \(verb.commandName)")
                #expect(text.contains("\n.Nm godwit \(command.commandName) \(verb.commandName)\n"))
            }
        }
    }

    @Test func theExitStatusesAreThoseOfTheManual() throws {
        let text = try SourceTree.text("man/godwit.1")
        let start = try #require(text.firstRange(of: ".Sh EXIT STATUS")).upperBound
        let end = try #require(text[start...].firstRange(of: ".Sh EXAMPLES")).lowerBound
        var found: [Int32: String] = [:]
        var number: Int32?
        for line in text[start..<end].split(separator: "\n") {
            let words = line.split(separator: " ")
            if words.first == ".It", words.count == 2 { number = Int32(words[1]) }
            if let number, found[number] == nil { found[number] = "" }
            if words.first == ".Pq", words.count > 2, let number { found[number] = String(words[2]) }
        }
        #expect(Set(found.keys) == Set(ExitStatus.allCases.map(\.rawValue)))
        for status in ExitStatus.allCases where status != .success { #expect(found[status.rawValue] == status.name) }
    }

    @Test func statusesAreDistinct() {
        #expect(Set(ExitStatus.allCases.map(\.rawValue)).count == ExitStatus.allCases.count)
    }
}
