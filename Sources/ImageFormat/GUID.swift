internal import Geometry

/// The name of a state of a disk: 38 characters with braces. Letters compare without case and are written in lower
/// case.
public struct GUID: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The 38 characters in lower case.
    public let description: String

    private init(valid text: String) { description = text }

    /// The well-known name of the writable state in every descriptor that ploop's tools write.
    public static let top = GUID(valid: "{5fbaabe3-6958-40ff-92a7-860e329aab41}")
    /// Parent of a base.
    public static let none = GUID(valid: "{00000000-0000-0000-0000-000000000000}")
    /// A name that other products give to the state of a backup; never the top.
    public static let backup = GUID(valid: "{704718e1-2314-44c8-9087-d78ed36b0f4e}")

    /// `nil` unless there are 38 characters: braces around letters, digits and dashes. Other software makes only
    /// hexadecimal ones, but does not insist, so neither do we.
    public init?(_ text: some StringProtocol) {
        var bytes = [UInt8](text.utf8)
        guard bytes.count == 38, bytes[0] == UInt8(ascii: "{"), bytes[37] == UInt8(ascii: "}") else { return nil }
        for index in 1..<37 {
            switch bytes[index] {
            case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "-"):
                continue
            case UInt8(ascii: "A")...UInt8(ascii: "Z"): bytes[index] += 32
            default: return nil
            }
        }
        description = String(decoding: bytes, as: UTF8.self)
    }

    /// As people type it: braces may be left out.
    public init?(typed text: String) {
        self.init(text.begins(with: "{") ? text : "{\(text)}")
    }

    /// A name made from 16 random bytes (version 4); `nil` when there are not 16.
    public init?(random: [UInt8]) {
        guard random.count == 16 else { return nil }
        var bytes = random
        bytes[6] = bytes[6] & 0x0F | 0x40
        bytes[8] = bytes[8] & 0x3F | 0x80
        let digits = [UInt8]("0123456789abcdef".utf8)
        var text = [UInt8(ascii: "{")]
        for (index, byte) in bytes.enumerated() {
            if [4, 6, 8, 10].contains(index) { text.append(UInt8(ascii: "-")) }
            text.append(digits[Int(byte >> 4)])
            text.append(digits[Int(byte & 15)])
        }
        text.append(UInt8(ascii: "}"))
        description = String(decoding: text, as: UTF8.self)
    }

    public static func < (a: GUID, b: GUID) -> Bool { a.description < b.description }
}
