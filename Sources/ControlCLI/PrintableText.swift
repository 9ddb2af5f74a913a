/// Text as it may be shown on a terminal: names of files, and what other programs and hosts say, may hold what moves
/// the cursor, hides text, or turns its direction.
enum PrintableText {
    /// With such characters written out, as `\u{1B}`. Of one line: line ends are written out, too.
    static func of(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: isControl) else { return text }
        var shown = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            if isControl(scalar) {
                shown += "\\u{\(String(scalar.value, radix: 16, uppercase: true))}".unicodeScalars
            } else {
                shown.append(scalar)
            }
        }
        return String(shown)
    }

    /// The same text of JSON, where such characters lie within strings only.
    static func of(json text: String) -> String {
        guard text.unicodeScalars.contains(where: isControl) else { return text }
        var shown = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            if isControl(scalar) {
                let digits = String(scalar.value, radix: 16)
                shown += "\\u\(String(repeating: "0", count: 4 - digits.count))\(digits)".unicodeScalars
            } else {
                shown.append(scalar)
            }
        }
        return String(shown)
    }

    private static func isControl(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        // C0, DEL and C1; line and paragraph separators; marks, embeddings and isolates of a direction.
        case 0..<0x20, 0x7F...0x9F, 0x2028...0x202E, 0x200E...0x200F, 0x061C, 0x2066...0x2069: true
        default: false
        }
    }
}
