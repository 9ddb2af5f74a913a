@testable import ControlCLI
import Foundation
import Testing

@Suite struct PrintableTextTests {
    @Test(arguments: [
        ("plain Zürich 日本 🚀", "plain Zürich 日本 🚀"),
        ("red \u{1B}[31m", "red \\u{1B}[31m"),
        ("one\ntwo\r\n", "one\\u{A}two\\u{D}\\u{A}"),
        ("\u{9B}31m \u{7F}", "\\u{9B}31m \\u{7F}"),
        ("gpj.\u{202E}exe", "gpj.\\u{202E}exe"),
        ("e\u{301}", "e\u{301}"),
    ]) func whatMovesTheCursorIsWrittenOut(_ text: String, _ shown: String) {
        #expect(PrintableText.of(text) == shown)
    }

    @Test func jsonShowsNoneAndSaysTheSame() throws {
        let texts = ["\u{9B}31m \u{7F}", "gpj.\u{202E}exe", "one\ntwo", "plain Zürich 日本 🚀"]
        let json = try Report.json(texts)
        #expect(json == #"["\u009b31m \u007f","gpj.\u202eexe","one\ntwo","plain Zürich 日本 🚀"]"#)
        #expect(try JSONDecoder().decode([String].self, from: Data(json.utf8)) == texts)
    }
}
