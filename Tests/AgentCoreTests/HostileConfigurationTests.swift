import TestSupport
import Testing

@testable import AgentCore

/// Configuration files that were cut, altered or made to hurt: an error with a place, or a configuration.
@Suite struct HostileConfigurationTests {
    private static let sample = """
        [[store]]
        name = "vault"
        location = "ssh://backup@vault.example:22/srv/godwit"
        [limits]
        freeze = "10s"
        downtime = "300ms"
        [hooks]
        pre-freeze = { command = "/bin/a", limit = "5s" }
        [[disk]]
        name = "web"
        path = "/srv/disks/web"
        store = "vault"
        group = "shop"
        """

    /// - Returns: whether it was taken.
    private func parse(_ bytes: [UInt8]) -> Bool {
        do throws(ConfigurationError) {
            _ = try Configuration(parsing: String(decoding: bytes, as: UTF8.self), file: "x")
            return true
        } catch {
            #expect(!error.message.isEmpty)
            return false
        }
    }

    @Test("every cut is an error or a configuration") func truncations() {
        let bytes = Array(Self.sample.utf8)
        for count in 0...bytes.count { _ = parse(Array(bytes.prefix(count))) }
        #expect(!parse(Array(bytes.prefix(20))), "half a text is no value")
    }

    @Test("every flipped bit is an error or a configuration") func bitFlips() {
        var bytes = Array(Self.sample.utf8)
        var taken = 0
        for bit in 0..<bytes.count * 8 {
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            if parse(bytes) { taken += 1 }
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
        }
        // Most of the text is in names and paths, but no key or table may be another.
        #expect(taken < bytes.count * 8)
    }

    @Test("nests, floods and control characters are errors", arguments: 0..<8) func floods(number: Int) {
        let count = 100_000
        let text =
            switch number {
            case 0: "x = " + String(repeating: "[", count: count)
            case 1: "x = " + String(repeating: "[", count: count) + String(repeating: "]", count: count)
            case 2: "x = " + String(repeating: "{a=", count: count)
            case 3: String(repeating: "a.", count: count) + "a = 1"
            case 4: "[" + String(repeating: "a.", count: count) + "a]"
            case 5: "x = \"" + String(repeating: "a", count: count)
            case 6: "x = \"\u{0}\""
            default: String(repeating: "[[store]]\n", count: count)
            }
        #expect(!parse(Array(text.utf8)))
    }

    @Test("random lines of tokens never do harm") func tokens() {
        var random = SeededRandom("tokens of a configuration")
        let tokens = [
            "[", "]", "[[", "]]", "{", "}", "=", ".", ",", "\"", "'", "\"\"\"", "\n", " ", "#", "\\", "\\u0000",
            "\\uD800",
            "store", "disk", "limits", "hooks", "name", "path", "freeze", "1979-05-27T07:32:00Z", "0x", "1e999", "nan",
            "true", "-0", "9223372036854775808", "\u{feff}", "ä", "\u{7f}",
        ]
        for _ in 0..<4000 {
            let text = (0..<random.below(16)).map { _ in tokens[random.below(tokens.count)] }.joined()
            _ = parse(Array(text.utf8))
        }
    }
}
