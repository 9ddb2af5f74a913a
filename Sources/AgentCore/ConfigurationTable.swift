internal import Geometry

/// A table of the configuration file, read key by key with errors that say where.
struct ConfigurationTable {
    private let members: [(key: String, node: TomlNode)]
    private let line: UInt32
    private let column: UInt32
    /// What the table is, for errors: `[[disk]]`.
    private let name: String
    private let file: String

    init(_ node: TomlNode, in name: String, file: String) throws(ConfigurationError) {
        guard case .table(let members) = node.value else {
            throw ConfigurationError(
                file: file, line: node.line, column: node.column, message: "\(name) is not a table")
        }
        self.members = members
        (line, column) = (node.line, node.column)
        (self.name, self.file) = (name, file)
    }

    /// An error at the value of `key`, or at the table.
    func error(_ message: String, at key: String? = nil) -> ConfigurationError {
        let node = key.flatMap { key in members.first { $0.key == key } }?.node
        return ConfigurationError(
            file: file, line: node?.line ?? line, column: node?.column ?? column, message: message)
    }

    func allow(_ keys: [String]) throws(ConfigurationError) {
        for member in members where !keys.contains(member.key) {
            throw error("\(name) has no key \(member.key); known are \(keys.joined(separator: ", "))", at: member.key)
        }
    }

    private func node(_ key: String) -> TomlNode? { members.first { $0.key == key }?.node }

    func string(_ key: String) throws(ConfigurationError) -> String? {
        guard let node = node(key) else { return nil }
        guard case .string(let text) = node.value, !text.isEmpty else {
            throw error("\(key) has to be a text in quotes that is not empty", at: key)
        }
        return text
    }

    func required(_ key: String) throws(ConfigurationError) -> String {
        guard let text = try string(key) else { throw error("\(name) needs the key \(key)") }
        return text
    }

    /// Milliseconds.
    func duration(_ key: String, in range: ClosedRange<UInt64>) throws(ConfigurationError) -> UInt64? {
        guard let text = try string(key) else { return nil }
        guard let milliseconds = DurationText.parse(text) else {
            throw error("\(key) is no duration such as \"300ms\", \"10s\" or \"2m\": \(text)", at: key)
        }
        guard range.contains(milliseconds) else {
            throw error("\(key) is not between \(range.lowerBound) ms and \(range.upperBound) ms: \(text)", at: key)
        }
        return milliseconds
    }

    func table(_ key: String) throws(ConfigurationError) -> ConfigurationTable? {
        guard let node = node(key) else { return nil }
        return try ConfigurationTable(node, in: "[\(key)]", file: file)
    }

    /// The tables of a `[[key]]`; none when it is missing.
    func tables(_ key: String) throws(ConfigurationError) -> [ConfigurationTable] {
        guard let node = node(key) else { return [] }
        guard case .array(let entries) = node.value else {
            throw error("\(key) is written with two brackets: [[\(key)]]", at: key)
        }
        var tables: [ConfigurationTable] = []
        for entry in entries { tables.append(try ConfigurationTable(entry, in: "[[\(key)]]", file: file)) }
        return tables
    }
}
