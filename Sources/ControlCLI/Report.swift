internal import FoundationEssentials
internal import SystemPackage

/// Where a command's results go: text for people, or one JSON object.
struct Report {
    let common: CommonOptions

    init(_ common: CommonOptions) { self.common = common }

    /// A result: `lines` for people (none with `--quiet`), `value` with `--json`.
    /// - Throws: when it could not be written in whole: who reads it must not take a part for it.
    func result(_ value: some Encodable, _ lines: [String]) throws(CommandFailure) {
        let text: String
        if common.json {
            text = try Self.json(value) + "\n"
        } else if !common.quiet {
            text = lines.map { PrintableText.of($0) + "\n" }.joined()
        } else {
            return
        }
        do { _ = try FileDescriptor.standardOutput.writeAll(Array(text.utf8)) } catch {
            throw CommandFailure(.inputOutput, "what was asked for is done, but its report can't be written: \(error)")
        }
    }

    /// A remark for those who asked for more; on standard error, so that results stay clean.
    func detail(_ line: @autoclosure () -> String) {
        guard common.verbose else { return }
        Self.write(PrintableText.of(line()) + "\n", to: .standardError)
    }

    /// A remark for people, on standard error.
    func note(_ line: String) {
        guard !common.quiet, !common.json else { return }
        Self.write(PrintableText.of(line) + "\n", to: .standardError)
    }

    static func json(_ value: some Encodable) throws(CommandFailure) -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return try translated { PrintableText.of(json: String(decoding: try encoder.encode(value), as: UTF8.self)) }
    }

    /// For remarks: when nobody reads them there is nobody left to tell.
    static func write(_ text: String, to descriptor: FileDescriptor) {
        _ = try? descriptor.writeAll(Array(text.utf8))
    }

    /// Columns of text, each as wide as its widest cell; the last one is not padded.
    static func columns(_ rows: [[String]]) -> [String] {
        var widths: [Int] = []
        for row in rows {
            for (index, cell) in row.enumerated() {
                if index == widths.count { widths.append(0) }
                widths[index] = max(widths[index], cell.count)
            }
        }
        return rows.map { row in
            row.enumerated().map { index, cell in
                index == row.count - 1 ? cell : cell + String(repeating: " ", count: widths[index] - cell.count)
            }.joined(separator: "  ")
        }
    }
}
