/// Paths and names as the kernel has them: bytes. Strings of Swift are taken apart and compared by characters: there a
/// slash with a combining mark behind it is no slash, and é is equal to e with a mark. To the kernel these are other
/// names. So paths, and what programs and the kernel write, are taken apart and compared here only.
public enum PathText {
    private static let slash = UInt8(ascii: "/")

    public static func isAbsolute(_ path: some StringProtocol) -> Bool { path.utf8.first == slash }

    /// Whether it names something in some folder, rather than a plain name.
    public static func hasSlash(_ path: some StringProtocol) -> Bool { path.utf8.contains(slash) }

    /// What stands between the slashes; nothing empty.
    public static func parts(of path: String) -> [Substring] { path.parts(between: "/") }

    /// The folder part of a path: `.` when it has none, `/` for what lies there.
    public static func parent(of path: String) -> String {
        guard let last = path.utf8.lastIndex(of: slash) else { return "." }
        return last == path.startIndex ? "/" : String(path[..<last])
    }

    /// What comes behind the last slash: the whole path where there is none, nothing where it ends with one.
    public static func name(of path: String) -> String {
        guard let last = path.utf8.lastIndex(of: slash) else { return path }
        return String(path[path.utf8.index(after: last)...])
    }

    /// The last part, whatever slashes stand behind it; the path itself when it has no part.
    public static func lastPart(of path: String) -> String { parts(of: path).last.map(String.init) ?? path }

    /// Without slashes at the end, but for the one that is all of the path.
    public static func withoutEndSlashes(_ path: String) -> String {
        var rest = path[...]
        while rest.utf8.count > 1, rest.utf8.last == slash { rest = rest[..<rest.utf8.index(before: rest.endIndex)] }
        return String(rest)
    }

    /// What is called `name` in the folder.
    public static func join(_ folder: String, _ name: some StringProtocol) -> String {
        folder.utf8.last == slash ? "\(folder)\(name)" : "\(folder)/\(name)"
    }

    /// Whether the path lies below the folder; both are resolved. The folder does not lie in itself.
    public static func isInside(_ path: String, _ folder: String) -> Bool {
        path.begins(with: folder.utf8.last == slash ? folder : folder + "/") && path.utf8.count > folder.utf8.count
    }
}

extension StringProtocol {
    /// Whether both are the same bytes.
    public func isSame(as other: some StringProtocol) -> Bool { utf8.elementsEqual(other.utf8) }

    /// Whether its bytes begin with those of `prefix`.
    public func begins(with prefix: some StringProtocol) -> Bool { utf8.starts(with: prefix.utf8) }

    /// Whether its bytes end with those of `suffix`.
    public func ends(with suffix: some StringProtocol) -> Bool {
        utf8.count >= suffix.utf8.count && utf8.suffix(suffix.utf8.count).elementsEqual(suffix.utf8)
    }

    /// Whether the ASCII character stands in it, whatever comes behind.
    public func has(_ character: Unicode.Scalar) -> Bool { utf8.contains(UInt8(ascii: character)) }
}

extension StringProtocol where SubSequence == Substring {
    /// What comes behind `prefix`; `nil` where it does not begin with that.
    public func rest(after prefix: some StringProtocol) -> Substring? {
        begins(with: prefix) ? self[utf8.index(startIndex, offsetBy: prefix.utf8.count)...] : nil
    }

    /// What comes before `suffix`; `nil` where it does not end with that.
    public func rest(before suffix: some StringProtocol) -> Substring? {
        ends(with: suffix) ? self[..<utf8.index(endIndex, offsetBy: -suffix.utf8.count)] : nil
    }

    /// What stands between the places of an ASCII character.
    /// - Parameter keepsEmpty: two of them, or one at an end, have an empty part between or beside them.
    public func parts(between separator: Unicode.Scalar, maxSplits: Int = .max, keepsEmpty: Bool = false) -> [Substring]
    {
        Substring(self).utf8.split(
            separator: UInt8(ascii: separator), maxSplits: maxSplits, omittingEmptySubsequences: !keepsEmpty
        ).map(Substring.init)
    }
}

extension Sequence where Element: StringProtocol {
    /// Whether both have the same elements in the same order, byte for byte.
    public func isSame<Other: Sequence>(as other: Other) -> Bool where Other.Element: StringProtocol {
        elementsEqual(other) { $0.isSame(as: $1) }
    }

    /// Whether one of them has the same bytes.
    public func hasSame(as other: some StringProtocol) -> Bool { contains { $0.isSame(as: other) } }
}

/// A path or a name as an element of a set, or a key: by its bytes.
public struct PathKey: Hashable, Sendable {
    private let bytes: [UInt8]
    public init(_ path: some StringProtocol) { bytes = [UInt8](path.utf8) }
}
