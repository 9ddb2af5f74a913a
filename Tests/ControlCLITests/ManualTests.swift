import AgentCore
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
            var isOptional: Bool
            var isRepeating: Bool
            var valueName: String?
            var defaultValue: String?
            var names: [Name]?

            /// Without dashes, the long ones last.
            var allNames: [String] {
                (names ?? []).sorted { $0.kind > $1.kind }.map(\.name)
            }
            var long: String { names?.first { $0.kind == "long" }?.name ?? "" }
            /// As the synopsis has it.
            var shownValue: String { (isRepeating ? valueName?.dropLast().description : valueName) ?? "" }
        }
        struct Command: Decodable {
            var commandName: String
            var shouldDisplay: Bool
            var arguments: [Argument]?
            var subcommands: [Command]?

            var shown: [Argument] { (arguments ?? []).filter(\.shouldDisplay) }
            var children: [Command] {
                (subcommands ?? []).filter { $0.shouldDisplay && $0.commandName != "help" }
            }
        }
        var command: Command
    }

    /// A command that does something, and where it is described.
    private struct Entry {
        var command: Dump.Command
        var path: String
        var page: ManualPage
        var description: ArraySlice<Substring>
        /// What other commands do not have.
        var options: [Dump.Argument] {
            command.shown.filter { $0.kind != "positional" && !ManualTests.common.contains($0.long) }
        }
    }

    /// Options of every command, which godwit(1) has.
    private static let common: Set<String> = ["json", "quiet", "verbose", "config", "help", "version"]
    /// Arguments whose form is spelt out in the synopsis, and a part of that.
    private let spelt = ["target": "host"]

    private func root() throws -> Dump.Command {
        let text = GodwitCommand._dumpHelp()
        return try JSONDecoder().decode(Dump.self, from: Data(text.utf8)).command
    }

    private func entries() throws -> [Entry] {
        var entries: [Entry] = []
        for noun in try root().children {
            let page = try ManualPage("godwit-\(noun.commandName).1")
            if noun.children.isEmpty {
                entries.append(
                    Entry(
                        command: noun, path: "godwit \(noun.commandName)", page: page,
                        description: page.section("DESCRIPTION")))
            }
            for verb in noun.children {
                entries.append(
                    Entry(
                        command: verb, path: "godwit \(noun.commandName) \(verb.commandName)", page: page,
                        description: page.section("DESCRIPTION", verb.commandName)))
            }
        }
        return entries
    }

    @Test func everyCommandIsDescribed() throws {
        let entries = try entries()
        #expect(entries.count > 20)
        for entry in entries {
            #expect(!entry.description.isEmpty, "\(entry.path)")
            #expect(!entry.page.forms(of: entry.path).isEmpty, "\(entry.path)")
        }
        let nouns = try ManualPage("godwit.1").names(after: "Cm")
        for noun in try root().children { #expect(nouns.contains(noun.commandName), "godwit(1): \(noun.commandName)") }
    }

    @Test func everyOptionIsDescribedWhereItBelongsAndNoOtherIs() throws {
        for entry in try entries() {
            let items = ManualPage.items(entry.description)
            let described = Set(items.flatMap(\.options))
            #expect(described == Set(entry.options.flatMap(\.allNames)), "\(entry.path)")
            for option in entry.options {
                let item = items.first { $0.options.contains(option.long) }
                let value = option.kind == "flag" ? nil : option.valueName
                #expect(item?.value == value, "\(entry.path) --\(option.long)")
                #expect(item?.text.isEmpty == false)
                guard let standard = option.defaultValue else { continue }
                #expect(item?.text.contains("\(standard) if not given") == true, "\(entry.path) --\(option.long)")
            }
        }
    }

    @Test func theSynopsisHasEveryOptionAndArgument() throws {
        for entry in try entries() {
            let lines = entry.page.forms(of: entry.path).joined().map { $0.split(separator: " ") }
            let shown = Set(lines.flatMap { ManualPage.options(in: $0) })
            // Of an option with two names one is enough.
            let known = Set(entry.options.flatMap(\.allNames))
            #expect(shown.isSubset(of: known), "\(entry.path): \(shown.subtracting(known))")
            for option in entry.options {
                let line = lines.first { !Set(ManualPage.options(in: $0)).isDisjoint(with: option.allNames) }
                #expect(line != nil, "\(entry.path) --\(option.long)")
                #expect(option.isOptional || line?.first == ".Fl", "\(entry.path) --\(option.long)")
                #expect(line?.contains("Ar") == (option.kind != "flag"), "\(entry.path) --\(option.long)")
            }
            for argument in entry.command.shown where argument.kind == "positional" {
                let name = spelt[argument.shownValue] ?? argument.shownValue
                let isThere = lines.contains { words in
                    words.indices.dropLast().contains {
                        (words[$0] == "Ar" || words[$0] == ".Ar") && words[$0 + 1] == name
                    }
                }
                #expect(isThere, "\(entry.path): \(name)")
            }
        }
    }

    @Test func theCommonOptionsAreDescribed() throws {
        let page = try ManualPage("godwit.1")
        let items = ManualPage.items(page.section("DESCRIPTION", "Common options"))
        let described = Set(items.flatMap(\.options))
        for entry in try entries() {
            for option in entry.command.shown where Self.common.contains(option.long) && option.long != "version" {
                #expect(described.isSuperset(of: option.allNames), "\(entry.path) --\(option.long)")
            }
        }
        let synopsis = page.section("SYNOPSIS").flatMap { $0.split(separator: " ") }
        #expect(ManualPage.options(in: synopsis).contains("version"))
    }

    @Test func theExitStatusesAreThoseOfTheManual() throws {
        var found: [Int32: String] = [:]
        for item in ManualPage.items(try ManualPage("godwit.1").section("EXIT STATUS")) {
            let number = try #require(item.words.first.flatMap { Int32($0) })
            let named = item.text.split(separator: "\n").first { $0.hasPrefix(".Pq Li ") }
            found[number] = named.map { String($0.split(separator: " ")[2]) } ?? ""
        }
        #expect(Set(found.keys) == Set(ExitStatus.allCases.map(\.rawValue)))
        for status in ExitStatus.allCases where status != .success { #expect(found[status.rawValue] == status.name) }
        for page in try ManualPage.all() {
            for word in ManualPage.items(page.section("EXIT STATUS")).flatMap(\.words) where word != "," {
                #expect(Int32(word).flatMap { ExitStatus(rawValue: $0) } != nil, "\(page.name): \(word)")
            }
        }
    }

    @Test func statusesAreDistinct() {
        #expect(Set(ExitStatus.allCases.map(\.rawValue)).count == ExitStatus.allCases.count)
    }

    @Test func everyEnvironmentVariableIsDocumented() throws {
        var used: Set<String> = []
        for file in try SourceTree.files(below: "Sources", suffix: ".swift") {
            for word in file.text.split(separator: "\"") where word.hasPrefix("GODWIT_") && word.isEnvironmentName {
                used.insert(String(word))
            }
        }
        #expect(used.count > 8)
        // What hooks find in theirs stands with the hooks.
        let hooks = try ManualPage("godwit.toml.5").names(after: "Ev")
        let program = Set(
            ManualPage.items(try ManualPage("godwit.1").section("ENVIRONMENT")).map { String($0.words[1]) })
        #expect(used.subtracting(hooks.union(program)).isEmpty)
        #expect(program.subtracting(used).isEmpty)
    }

    @Test func everyConfigurationKeyIsDocumented() throws {
        var known = Set(HookMoment.allCases.map(\.rawValue))
        let source = try SourceTree.text("Sources/AgentCore/Configuration.swift")
        for call in source.split(separator: ".allow(").dropFirst() {
            let words = call.prefix { $0 != "\n" }.split(separator: "\"", omittingEmptySubsequences: false)
            for index in words.indices where index % 2 == 1 { known.insert(String(words[index])) }
        }
        #expect(known.count > 12)
        let page = try ManualPage("godwit.toml.5")
        var documented: Set<String> = []
        for item in page.lines where item.hasPrefix(".It Li ") {
            documented.insert(String(item.split(separator: " ")[2]))
        }
        for part in page.lines where part.hasPrefix(".Ss [") { documented.insert(part.dropFirst(4).filter(\.isLetter)) }
        documented.remove("[disk.hooks]")
        #expect(documented == known)
        let example = try SourceTree.text("conf/godwit.toml")
        for key in known {
            #expect(example.contains("\(key) = ") || example.contains("[\(key)]"), "conf/godwit.toml: \(key)")
        }
    }
}

extension Substring {
    fileprivate var isEnvironmentName: Bool { allSatisfy { $0.isUppercase || $0 == "_" } }
}
