import FoundationEssentials

/// The repository that these tests were built from.
struct SourceTree {
    struct File {
        /// From the top of the repository.
        var path: String
        var text: String
        var lines: [Substring]
    }

    static let top: String = {
        var url = URL(fileURLWithPath: #filePath)
        for _ in 0..<3 { url.deleteLastPathComponent() }
        return url.path
    }()

    static func text(_ path: String) throws -> String {
        String(decoding: try Data(contentsOf: URL(fileURLWithPath: top + "/" + path)), as: UTF8.self)
    }

    static func names(in folder: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: top + "/" + folder).sorted()
    }

    /// All files below `folder` whose name ends with `suffix`.
    static func files(below folder: String, suffix: String) throws -> [File] {
        var found: [File] = []
        for name in try names(in: folder) {
            let path = folder + "/" + name
            var isFolder = false
            guard FileManager.default.fileExists(atPath: top + "/" + path, isDirectory: &isFolder) else { continue }
            if isFolder {
                found += try files(below: path, suffix: suffix)
            } else if name.hasSuffix(suffix) {
                let text = try text(path)
                found.append(
                    File(path: path, text: text, lines: text.split(separator: "\n", omittingEmptySubsequences: false)))
            }
        }
        return found
    }

    /// The target's name and its row, from the table in ARCHITECTURE.md; C targets are row 0.
    static func rows() throws -> [String: Int] {
        var rows: [String: Int] = [:]
        var row: Int?
        for name in try names(in: "Sources") where name.isCTarget { rows[name] = 0 }
        for line in try text("ARCHITECTURE.md").split(separator: "\n") where line.hasPrefix("|") {
            let cells = line.split(separator: "|", omittingEmptySubsequences: false).map { $0.filter { $0 != " " } }
            guard cells.count > 3 else { continue }
            if let number = Int(cells[1]) { row = number }
            guard let row else { continue }
            // Names stand between backticks.
            for (index, name) in cells[2].split(separator: "`", omittingEmptySubsequences: false).enumerated()
            where index % 2 == 1 && !name.contains("…") {
                rows[String(name)] = row
            }
        }
        return rows
    }
}

extension String {
    /// C targets start with a C before another capital: `CZstd`, but not `Codecs`.
    var isCTarget: Bool {
        guard first == "C", let second = dropFirst().first else { return false }
        return second.isUppercase && self != "ControlCLI"
    }
}
