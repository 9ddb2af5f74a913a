internal import CToml

/// A value of a TOML document and where it stands.
struct TomlNode {
    indirect enum Value {
        case table([(key: String, node: TomlNode)])
        case array([TomlNode])
        case string(String)
        case integer(Int64)
        case boolean(Bool)
        /// Floats, dates and times: the configuration has no use for them.
        case other
    }
    var value: Value
    var line: UInt32
    var column: UInt32

    /// Parses a whole document, whose top is a table.
    static func parse(_ text: String, file: String) throws(ConfigurationError) -> TomlNode {
        var problem = ctoml_problem()
        var bytes = Array(text.utf8)
        bytes.append(0)  // never empty, so that there is a base address
        let parsed = unsafe bytes.withUnsafeBytes { memory in
            unsafe ctoml_parse(
                memory.baseAddress?.assumingMemoryBound(to: CChar.self), UInt64(memory.count - 1), &problem)
        }
        guard let document = unsafe parsed else {
            let message = unsafe withUnsafeBytes(of: problem.message) { memory in
                unsafe String(decoding: memory.prefix { $0 != 0 }, as: UTF8.self)
            }
            throw ConfigurationError(file: file, line: problem.line, column: problem.column, message: message)
        }
        defer { unsafe ctoml_free(document) }
        var position: UInt64 = 0
        guard let top = unsafe next(document, &position)?.node else {
            throw ConfigurationError(file: file, line: 0, column: 0, message: "the document is empty")
        }
        return top
    }

    /// The item at `position` with its members; `nil` at the end of a table or array.
    private static func next(_ document: OpaquePointer, _ position: inout UInt64) -> (key: String, node: TomlNode)? {
        var item = unsafe ctoml_item()
        guard unsafe ctoml_item_at(document, position, &item) == 0 else { return nil }
        position += 1
        let value: Value
        switch unsafe item.kind {
        case CTOML_END: return nil
        case CTOML_TABLE:
            var members: [(key: String, node: TomlNode)] = []
            while let member = unsafe next(document, &position) { members.append(member) }
            value = .table(members)
        case CTOML_ARRAY:
            var members: [TomlNode] = []
            while let member = unsafe next(document, &position) { members.append(member.node) }
            value = .array(members)
        case CTOML_STRING: value = unsafe .string(String(cString: item.text))
        case CTOML_INTEGER: value = unsafe .integer(item.integer)
        case CTOML_BOOLEAN: value = unsafe .boolean(item.integer != 0)
        default: value = .other
        }
        let node = unsafe TomlNode(value: value, line: item.line, column: item.column)
        return unsafe (String(cString: item.key), node)
    }
}
