internal import Codecs
internal import Geometry

/// Small text files of a store: a first line with kind and version, lines of key and value, and a last one with the
/// SHA-256 of all before it. Made for people to read and for nothing to be taken on trust.
struct RecordText: Hashable, Sendable {
    /// For instance `godwit-point 1`.
    var heading: String
    private(set) var fields: [(key: String, value: String)] = []

    init(heading: String) { self.heading = heading }

    static func == (a: RecordText, b: RecordText) -> Bool { a.encoded() == b.encoded() }
    func hash(into hasher: inout Hasher) { hasher.combine(encoded()) }

    mutating func set(_ key: String, _ value: String) { fields.append((key, value)) }
    mutating func set(_ key: String, _ value: UInt64) { fields.append((key, String(value))) }

    /// The value of a key, which must be there once.
    func value(_ key: String) throws(StoreError) -> String {
        guard let value = optionalValue(key) else { throw StoreError(.corrupt, "\(heading): no \(key)") }
        return value
    }
    func optionalValue(_ key: String) -> String? { fields.first { $0.key == key }?.value }
    func number(_ key: String) throws(StoreError) -> UInt64 {
        guard let number = UInt64(try value(key)) else { throw StoreError(.corrupt, "\(heading): \(key) is no number") }
        return number
    }
    func digest(_ key: String) throws(StoreError) -> Digest {
        guard let digest = Digest(hex: try value(key)) else {
            throw StoreError(.corrupt, "\(heading): \(key) is no digest")
        }
        return digest
    }

    func encoded() -> [UInt8] {
        var text = heading + "\n"
        for (key, value) in fields { text += key + " " + Self.escape(value) + "\n" }
        let body = Array(text.utf8)
        return body + Array("sum \(Digest.hash(body))\n".utf8)
    }

    /// Parses what ``encoded()`` made; every other text is refused.
    init(parsing bytes: [UInt8], heading expected: String, in place: String) throws(StoreError) {
        func corrupt(_ what: String) -> StoreError { StoreError(.corrupt, "\(place) is damaged: \(what)") }
        let sumLine = 4 + 64 + 1
        guard bytes.count > sumLine, bytes.allSatisfy({ $0 == 10 || (32...126).contains($0) }) else {
            throw corrupt("it is not the text it should be")
        }
        let body = Array(bytes.dropLast(sumLine))
        guard Array(bytes.suffix(sumLine)) == Array("sum \(Digest.hash(body))\n".utf8) else {
            throw corrupt("its checksum does not match")
        }
        let lines = String(decoding: body, as: UTF8.self).parts(between: "\n", keepsEmpty: true)
        guard let first = lines.first, lines.last == "" else { throw corrupt("it has no lines") }
        guard first == expected else {
            if first.prefix(while: { $0 != " " }) == expected.prefix(while: { $0 != " " }) {
                throw StoreError(.unsupported, "\(place) has format \"\(first)\", this version knows \"\(expected)\"")
            }
            throw corrupt("it starts with \"\(first.prefix(40))\"")
        }
        self.init(heading: String(first))
        for line in lines.dropFirst().dropLast() {
            let parts = line.parts(between: " ", maxSplits: 1, keepsEmpty: true)
            guard parts.count == 2, !parts[0].isEmpty, optionalValue(String(parts[0])) == nil,
                let value = Self.unescape(parts[1])
            else { throw corrupt("the line \"\(line.prefix(40))\"") }
            set(String(parts[0]), value)
        }
        guard encoded() == bytes else { throw corrupt("it is not in the one form it may have") }
    }

    /// Bytes other than printable ASCII, and the percent sign, as `%XX`.
    private static func escape(_ text: String) -> String {
        var result = ""
        for byte in text.utf8 {
            if (32...126).contains(byte), byte != UInt8(ascii: "%") {
                result.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                let hex = String(byte, radix: 16, uppercase: true)
                result += "%" + (hex.count == 1 ? "0" : "") + hex
            }
        }
        return result
    }

    private static func unescape(_ text: Substring) -> String? {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard rest.count >= 2, let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) else {
                return nil
            }
            rest = rest.dropFirst(2)
            bytes.append(value)
        }
        return String(validating: bytes, as: UTF8.self)
    }
}
