import ArgumentParser
import Testing

@testable import ControlCLI

/// What README and manual pages tell people to type is understood.
@Suite struct ExampleTests {
    @Test func everyExampleOfTheManualParses() throws {
        var count = 0
        for page in try ManualPage.all() {
            for line in page.literals() { count += try check(line, in: page.name) }
        }
        #expect(count > 40)
    }

    @Test func theSessionsOfTheReadmeParse() throws {
        var count = 0
        for line in try SourceTree.text("README.md").split(separator: "\n") where line.hasPrefix("    ") {
            count += try check(String(line.drop { $0 == " " }), in: "README.md")
        }
        #expect(count > 10)
    }

    @Test(arguments: [
        ("a=$(godwit points --store 's 1' --json | jq .)", [["points", "--store", "s 1", "--json"]]),
        ("godwit status && godwit status \"$x\"  # godwit", [["status"], ["status", "$x"]]),
        ("mount godwit /x", []), ("/usr/bin/godwit agent --stdio > log", [["agent", "--stdio"]]),
    ])
    func commandsAreFoundInLines(line: String, commands: [[String]]) {
        #expect(ShellLine(line).commands(of: "godwit") == commands)
    }

    /// - Returns: how many commands there were.
    private func check(_ line: String, in place: String) throws -> Int {
        var commands = ShellLine(line).commands(of: "godwit")
        // A forced command, in quotes.
        for part in line.split(separator: "\"") where part.hasPrefix("godwit ") && line.contains("command=\"") {
            commands += ShellLine(String(part)).commands(of: "godwit")
        }
        for arguments in commands {
            #expect(throws: Never.self, "\(place): \(line)") { try GodwitCommand.parseAsRoot(arguments) }
        }
        return commands.count
    }
}

/// A line for a shell, as far as examples go: words, quotes, and what separates commands.
private struct ShellLine {
    private enum Token: Equatable {
        case word(String)
        case separator
    }
    private var tokens: [Token] = []

    init(_ line: String) {
        var word: String?
        var quote: Character?
        var rest = Substring(line)
        func end(_ tokens: inout [Token]) {
            if let done = word { tokens.append(.word(done)) }
            word = nil
        }
        while let character = rest.popFirst() {
            if let open = quote {
                if character == open { quote = nil } else { word?.append(character) }
            } else if character == "'" || character == "\"" {
                (quote, word) = (character, word ?? "")
            } else if character == "#", word == nil {
                break
            } else if character == " " {
                end(&tokens)
            } else if "|&;()<>".contains(character) {
                end(&tokens)
                tokens.append(.separator)
            } else {
                word = (word ?? "") + String(character)
            }
        }
        end(&tokens)
    }

    /// The arguments of each call of the program, which begins a command or stands in a command of its own.
    func commands(of program: String) -> [[String]] {
        tokens.split(separator: .separator).compactMap { part in
            let words = part.compactMap { token in
                if case .word(let word) = token { word } else { nil }
            }
            guard let first = words.first, first == program || first.hasPrefix("/") && first.hasSuffix("/" + program)
            else { return nil }
            return Array(words.dropFirst())
        }
    }
}
