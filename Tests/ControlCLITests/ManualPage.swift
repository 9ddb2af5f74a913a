/// A manual page as far as tests look at it: its sections, what they list, and the examples in it.
struct ManualPage {
    let name: String
    let lines: [Substring]

    init(_ name: String) throws {
        self.name = name
        lines = try SourceTree.text("man/\(name)").split(separator: "\n", omittingEmptySubsequences: false)
    }

    static func all() throws -> [ManualPage] {
        try SourceTree.names(in: "man").map { try ManualPage($0) }
    }

    /// An item of a list: an option with the lines that describe it, or what else stands behind `.It`.
    struct Item {
        var words: [Substring]
        var text: String

        /// Options that the item is about, long ones without their dashes: `t` and `type` for `.It Fl t , Fl -type`.
        var options: [String] { ManualPage.options(in: words) }
        /// What the option takes.
        var value: String? { words.firstIndex(of: "Ar").map { words[($0 + 1)...].joined(separator: " ") } }
    }

    /// The lines from `.Sh title` (and within it `.Ss part`) to the next of its kind; none when there is no such.
    func section(_ title: String, _ part: String? = nil) -> ArraySlice<Substring> {
        guard let start = lines.firstIndex(of: ".Sh \(title)") else { return [] }
        let whole = lines[(start + 1)...].prefix { !$0.hasPrefix(".Sh ") }
        guard let part else { return whole }
        guard let inner = whole.firstIndex(of: ".Ss \(part)") else { return [] }
        return whole[(inner + 1)...].prefix { !$0.hasPrefix(".Ss ") }
    }

    static func items(_ lines: ArraySlice<Substring>) -> [Item] {
        var items: [Item] = []
        for line in lines {
            if line.hasPrefix(".It ") {
                items.append(Item(words: line.split(separator: " ").dropFirst().map { $0 }, text: ""))
            } else if !items.isEmpty {
                items[items.count - 1].text += line + "\n"
            }
        }
        return items
    }

    /// A form of a command in the synopsis: the lines behind its `.Nm`.
    func forms(of command: String) -> [ArraySlice<Substring>] {
        let synopsis = section("SYNOPSIS")
        return synopsis.indices.filter { synopsis[$0] == ".Nm \(command)" }.map { index in
            synopsis[(index + 1)...].prefix { !$0.hasPrefix(".Nm ") }
        }
    }

    static func options(in words: [Substring]) -> [String] {
        words.indices.dropLast().filter { words[$0] == "Fl" || words[$0] == ".Fl" }
            .map { words[$0 + 1].hasPrefix("-") ? String(words[$0 + 1].dropFirst()) : String(words[$0 + 1]) }
    }

    /// Names behind a macro, wherever it stands: `names(after: "Ev")`.
    func names(after macro: String) -> Set<String> {
        var names: Set<String> = []
        for line in lines where line.hasPrefix(".") {
            let words = line.dropFirst().split(separator: " ")
            for index in words.indices.dropLast() where words[index] == macro { names.insert(String(words[index + 1])) }
        }
        return names
    }

    /// Lines of literal displays, continued ones in one.
    func literals() -> [String] {
        var found: [String] = []
        var isLiteral = false
        var open = ""
        for line in lines {
            if line.hasPrefix(".Bd -literal") {
                isLiteral = true
            } else if line == ".Ed" {
                isLiteral = false
            } else if isLiteral {
                open += line.hasSuffix("\\e") ? line.dropLast(2) : line
                if !line.hasSuffix("\\e") { (found, open) = (found + [open], "") }
            }
        }
        return found
    }
}
