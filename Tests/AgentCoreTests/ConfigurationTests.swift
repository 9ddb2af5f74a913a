import FoundationEssentials
import Testing

@testable import AgentCore

@Suite struct ConfigurationTests {
    private func parse(_ text: String) throws -> Configuration { try Configuration(parsing: text, file: "test.toml") }

    @Test func anEmptyFileIsTheDefaults() throws {
        #expect(try parse("") == Configuration())
    }

    @Test func disksAreNamedByBytes() throws {
        let disks = ["caf\u{e9}", "cafe\u{301}"].map { "[[disk]]\nname = \"\($0)\"\npath = \"/\($0)\"\n" }
        let configuration = try parse(disks.joined())
        #expect(configuration.disks.count == 2)
        #expect(configuration.disk("cafe\u{301}")?.path.utf8.count == 7)
        #expect(configuration.disk("/caf\u{e9}")?.path.utf8.count == 6)
    }

    @Test func theShippedFileIsValidWithAndWithoutItsComments() throws {
        let top = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let path = top.appendingPathComponent("conf/godwit.toml").path
        let text = String(decoding: try Data(contentsOf: URL(fileURLWithPath: path)), as: UTF8.self)
        #expect(try parse(text) == Configuration())
        // Examples are commented out without a space behind the sign, explanations with one.
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        let examples = lines.map { $0.hasPrefix("#") && !$0.hasPrefix("# ") ? $0.dropFirst() : $0 }
        let full = try parse(examples.joined(separator: "\n"))
        #expect(full.disks.map(\.name) == ["web", "db", "shop-root", "shop-data"])
        #expect(full.disk("web")?.store == "/var/backups/godwit")
        #expect(full.disk("/srv/disks/db")?.store == "ssh://backup@vault.example/srv/godwit")
        let shop = try #require(full.disk("shop-root"))
        #expect(shop.hooks[.preFreeze] == Hook(command: "/etc/godwit/hooks/shop-checkpoint", limitSeconds: 120))
        #expect(shop.hooks[.postThaw] == Hook(command: "/etc/godwit/hooks/log-thaw", limitSeconds: 120))
        #expect(full.disk("shop-data")?.hooks[.stop]?.limitSeconds == 60)
        #expect(full.disk("shop-root")?.group == "shop")
    }

    @Test(arguments: [
        ("x = 1", 1, "no key x"),
        ("\n[limits]\nfreez = \"1s\"", 3, "no key freez"),
        ("[limits]\nfreeze = \"1\"", 2, "no duration"),
        ("[limits]\nfreeze = 10", 2, "text in quotes"),
        ("[limits]\nfreeze = \"1h\"", 2, "not between"),
        ("[[store]]\nname = \"a\"", 1, "needs the key location"),
        ("[[store]]\nname = \"a\"\nlocation = \"b\"", 3, "absolute"),
        ("[[disk]]\nname = \"a\"\npath = \"b\"", 3, "not absolute"),
        ("[[disk]]\nname = \"a\"\npath = \"/b\"\nstore = \"c\"", 4, "no [[store]]"),
        ("default-store = \"c\"", 1, "no [[store]]"),
        ("[store]\nname = \"a\"", 1, "two brackets"),
        ("disk = 4", 1, "two brackets"),
        ("hooks = 1979-05-27", 1, "not a table"),
        ("[hooks]\nstop = \"\"", 2, "text in quotes"),
        ("[[disk]]\nname=\"a\"\npath=\"/a\"\n[[disk]]\nname=\"a\"\npath=\"/b\"", 4, "two disks"),
        ("[hooks\n", 1, "Error"),
        ("a = \"\u{0}\"", 1, "Error"),
    ])
    func aMistakeIsToldWithItsPlace(text: String, line: UInt32, part: String) {
        let error = #expect(throws: ConfigurationError.self) { try parse(text) }
        #expect(error?.line == line)
        #expect(error?.description.hasPrefix("test.toml:\(line):") == true)
        if part != "Error" { #expect(error?.message.contains(part) == true, "\(error?.message ?? "")") }
    }

    /// Whatever the bytes are, parsing ends with a value or an error.
    @Test func everyTruncationIsAnswered() {
        let text = "default-store = \"a\"\n[[store]]\nname = \"a\"\nlocation = \"/b\"\n[limits]\nfreeze = \"1s\"\n"
        for count in 0...text.count {
            _ = try? parse(String(text.prefix(count)))
        }
    }
}
