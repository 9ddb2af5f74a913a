import Testing

/// The rules of the code base that can be read off its text.
@Suite struct SourceTreeTests {
    private let shipped = ["Sources"]
    private let all = ["Sources", "Tests"]

    private func swiftFiles(_ folders: [String]) throws -> [SourceTree.File] {
        try folders.flatMap { try SourceTree.files(below: $0, suffix: ".swift") }
    }

    @Test func everyTargetHasARow() throws {
        let rows = try SourceTree.rows()
        for name in try SourceTree.names(in: "Sources") {
            #expect(rows[name] != nil, "\(name) has no row in ARCHITECTURE.md")
        }
    }

    @Test func aTargetImportsLowerRowsOnly() throws {
        let rows = try SourceTree.rows()
        for file in try swiftFiles(shipped) {
            let target = String(file.path.split(separator: "/")[1])
            let own = try #require(rows[target])
            for line in file.lines {
                guard let module = line.importedModule, let other = rows[module] else { continue }
                #expect(other < own, "\(file.path): \(target) (row \(own)) imports \(module) (row \(other))")
            }
        }
    }

    @Test func aTargetDependsOnLowerRowsOnly() throws {
        let rows = try SourceTree.rows()
        // From one target's name to the next one's, what is in quotes are dependencies.
        var current: (name: String, row: Int)?
        let declarations = try SourceTree.text("Package.swift").split(separator: "\n")
            .drop { !$0.contains("targets: [") || $0.contains(".executable(") }
        for line in declarations {
            if line.contains("TestSupport") { break }
            for (index, word) in line.split(separator: "\"", omittingEmptySubsequences: false).enumerated()
            where index % 2 == 1 {
                guard let row = rows[String(word)] else { continue }
                if line.contains("name: \"\(word)\"") || line.contains("cTarget(\"\(word)\"") {
                    current = (String(word), row)
                } else if let current {
                    #expect(row < current.row, "\(current.name) (row \(current.row)) depends on \(word) (row \(row))")
                }
            }
        }
    }

    @Test func rowsZeroToTwoDoWithoutFoundation() throws {
        let rows = try SourceTree.rows()
        for file in try swiftFiles(shipped) {
            let row = rows[String(file.path.split(separator: "/")[1])] ?? 0
            for line in file.lines {
                guard let module = line.importedModule, module.hasPrefix("Foundation") else { continue }
                #expect(row > 2, "\(file.path) imports \(module)")
                #expect(module == "FoundationEssentials", "\(file.path) imports \(module), which brings ICU")
            }
        }
    }

    @Test func filesAreNotLong() throws {
        for file in try swiftFiles(all) {
            #expect(file.lines.count <= 501, "\(file.path) has \(file.lines.count - 1) lines: split it")
        }
    }

    @Test func linesAreNotLong() throws {
        for file in try swiftFiles(all) {
            for (index, line) in file.lines.enumerated() where line.count > 120 {
                Issue.record("\(file.path):\(index + 1) has \(line.count) columns")
            }
        }
    }

    @Test func nothingIsForcedOrLeftOpen() throws {
        // Written in two parts, so that this file does not find itself.
        let forbidden = ["try" + "!", "as" + "!", "TO" + "DO", "FIX" + "ME", "XX" + "X", "fatal" + "Error("]
        for file in try swiftFiles(shipped) {
            for (index, line) in file.lines.enumerated() {
                for word in forbidden where line.contains(word) {
                    Issue.record("\(file.path):\(index + 1) contains \(word)")
                }
            }
        }
    }

    /// To Swift's strings a slash with a mark behind it is no slash, and two ways to write a letter are one.
    @Test func pathsAreTakenApartByBytes() throws {
        let forbidden =
            ["hasPrefix(", "hasSuffix(", "components(separatedBy"]
            + ["/", "\\n"].flatMap { text in
                ["split(separator: ", "lastIndex(of: ", "firstIndex(of: ", ".contains(", ".last == ", ".first == "]
                    .map { "\($0)\"\(text)\"" }
            }
        for file in try swiftFiles(shipped) {
            for (index, line) in file.lines.enumerated() {
                for word in forbidden where line.contains(word) {
                    Issue.record("\(file.path):\(index + 1) contains \(word): use PathText and what is beside it")
                }
            }
        }
    }

    /// Two names that only look the same are two files.
    @Test func pathsAreComparedByBytes() throws {
        let forbidden = ["file", "path", "files", "files.first", "files.last", "files.first?", "files.last?"].flatMap {
            [".\($0) == ", ".\($0) != "]
        }
        for file in try swiftFiles(shipped) {
            let target = file.path.split(separator: "/")[1]
            let hasNames = ["ImageFormat", "DiskImage", "DeviceServer", "DeviceControl", "Migration"].contains(target)
            for (index, line) in file.lines.enumerated() {
                for word in forbidden + (hasNames ? ["Set<String>"] : []) where line.contains(word) {
                    Issue.record("\(file.path):\(index + 1) contains \(word): use isSame, hasSame or PathKey")
                }
            }
        }
    }

    /// A time that another thread has stored may be later than one that was read before the lock: the difference traps.
    @Test func timesAreNotSubtracted() throws {
        for file in try swiftFiles(shipped) where file.path != "Sources/LinuxSystem/Clock.swift" {
            for (index, line) in file.lines.enumerated() where line.contains("monotonic() -") {
                Issue.record("\(file.path):\(index + 1) subtracts from the clock: use elapsed(since:)")
            }
        }
    }

    @Test func testsDoNotSleep() throws {
        for file in try swiftFiles(["Tests"]) {
            for (index, line) in file.lines.enumerated() where line.contains("sle" + "ep(") {
                Issue.record("\(file.path):\(index + 1) sleeps: await an event")
            }
        }
    }

    @Test func functionsAreNotLong() throws {
        for file in try swiftFiles(all) {
            for function in FunctionScan.functions(in: file.lines) where function.lineCount > 70 {
                Issue.record("\(file.path):\(function.line) \(function.name) has \(function.lineCount) lines")
            }
        }
    }
}

extension Substring {
    /// The module of an `import` line.
    fileprivate var importedModule: String? {
        let words = split(separator: " ")
        guard let position = words.firstIndex(of: "import"), position <= 2, position + 1 < words.count else {
            return nil
        }
        guard words[..<position].allSatisfy({ ["internal", "public", "private", "package", "@testable"].contains($0) })
        else {
            return nil
        }
        return String(words[position + 1])
    }
}

/// Finds functions by their braces. Good enough for code that the formatter lays out.
enum FunctionScan {
    struct Function {
        var name: String
        var line: Int
        var lineCount: Int
    }

    static func functions(in lines: [Substring]) -> [Function] {
        var found: [Function] = []
        for (index, line) in lines.enumerated() {
            let code = line.drop { $0 == " " }
            guard !code.hasPrefix("//"), code.contains("func ") || code.hasPrefix("init(") || code.contains(" init(")
            else { continue }
            var depth = 0
            var hasBody = false
            scan: for (end, other) in lines[index...].enumerated() {
                for character in other {
                    if character == "{" {
                        depth += 1
                        hasBody = true
                    } else if character == "}" {
                        depth -= 1
                    }
                    if hasBody && depth == 0 {
                        let name = code.split(separator: "(").first.map(String.init) ?? String(code)
                        found.append(Function(name: name, line: index + 1, lineCount: end + 1))
                        break scan
                    }
                    if depth < 0 { break scan }
                }
            }
        }
        return found
    }
}
