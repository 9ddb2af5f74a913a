internal import Geometry

/// Whom to reach over SSH, and about which folder there.
public struct SSHTarget: Hashable, Sendable, CustomStringConvertible {
    /// `nil`: as the SSH configuration says, else this user.
    public var user: String?
    /// A name (of a host, or of a `Host` entry of the SSH configuration) or an address, without brackets.
    public var host: String
    /// `nil`: as the SSH configuration says, else 22.
    public var port: UInt16?
    /// A folder there; relative ones start in the user's home. `nil` where the form has none.
    public var path: String?

    public init(user: String? = nil, host: String, port: UInt16? = nil, path: String? = nil) {
        self.user = user
        self.host = host
        self.port = port
        self.path = path
    }

    /// `[user@]host[:port]`, or `ssh://[user@]host[:port][/folder]`. An IPv6 address stands in brackets.
    public init(parsing text: String) throws(TransportError) {
        if let rest = Self.withoutScheme(text) {
            try self.init(rest, of: text, folder: .afterSlash)
        } else {
            try self.init(text[...], of: text, folder: .none)
        }
    }

    /// `[user@]host[:port]:folder`, or `ssh://[user@]host[:port]/folder`.
    public init(parsingWithFolder text: String) throws(TransportError) {
        if let rest = Self.withoutScheme(text) {
            try self.init(rest, of: text, folder: .afterSlash)
        } else {
            try self.init(text[...], of: text, folder: .afterColon)
        }
        guard path != nil else { throw Self.invalid(text, "it names no folder") }
    }

    /// Whether the text is meant as a URL of this kind, right or wrong.
    public static func isURL(_ text: String) -> Bool { withoutScheme(text) != nil }

    /// As ssh(1) takes it: `user@host`, and the port where there is one.
    public var description: String {
        let name = host.has(":") ? "[\(host)]" : host
        return (user.map { $0 + "@" } ?? "") + name + (port.map { ":\($0)" } ?? "")
    }

    private enum FolderForm { case none, afterSlash, afterColon }

    private static func withoutScheme(_ text: String) -> Substring? {
        guard text.prefix(6).lowercased() == "ssh://" else { return nil }
        return text.dropFirst(6)
    }

    private static func invalid(_ text: String, _ why: String) -> TransportError {
        TransportError(.invalidTarget, "'\(text)' is not an SSH target: \(why)")
    }

    private init(_ rest: Substring, of text: String, folder: FolderForm) throws(TransportError) {
        var rest = rest
        var path: String?
        if folder == .afterSlash, let slash = rest.utf8.firstIndex(of: UInt8(ascii: "/")) {
            path = try Self.folder(rest[slash...], of: text)
            rest = rest[..<slash]
        }
        user = try Self.takeUser(&rest, of: text, isURL: folder == .afterSlash)
        host = try Self.takeHost(&rest, of: text)
        port = try Self.takePort(&rest, of: text, folderFollows: folder == .afterColon)
        if folder == .afterColon {
            guard rest.first == ":", rest.count > 1 else {
                throw Self.invalid(text, "write host:FOLDER or host:PORT:FOLDER")
            }
            path = String(rest.dropFirst())
            rest = ""
        }
        guard rest.isEmpty else {
            throw Self.invalid(text, "'\(rest)' follows the host; an IPv6 address stands in brackets")
        }
        self.path = path
    }

    private static func takeUser(_ rest: inout Substring, of text: String, isURL: Bool) throws(TransportError)
        -> String?
    {
        // Not beyond the host: a folder may have an @ too. User names may contain one, so the last counts.
        let end = rest.firstIndex(where: { $0 == "/" || $0 == "[" }) ?? rest.endIndex
        guard let at = rest[..<end].lastIndex(of: "@") else { return nil }
        let user = isURL ? try decode(rest[..<at], of: text) : String(rest[..<at])
        guard isPlain(user), !user.has(":") else {
            throw invalid(text, "the user's name is not one (passwords have no place in it)")
        }
        rest = rest[rest.index(after: at)...]
        return user
    }

    private static func takeHost(_ rest: inout Substring, of text: String) throws(TransportError) -> String {
        if rest.first == "[" {
            guard let end = rest.firstIndex(of: "]") else { throw invalid(text, "the bracket is not closed") }
            let host = String(rest[rest.index(after: rest.startIndex)..<end])
            guard !host.isEmpty, host.allSatisfy({ $0.isHexDigit || ":.%_-".contains($0) || $0.isLetter }),
                host.has(":")
            else { throw invalid(text, "'\(host)' is not an IPv6 address") }
            rest = rest[rest.index(after: end)...]
            return host
        }
        let end = rest.firstIndex(of: ":") ?? rest.endIndex
        let host = String(rest[..<end])
        guard isPlain(host), !host.has("/") else {
            throw invalid(text, host.isEmpty ? "it names no host" : "'\(host)' is not a host")
        }
        rest = rest[end...]
        return host
    }

    private static func takePort(
        _ rest: inout Substring, of text: String, folderFollows: Bool
    ) throws(TransportError) -> UInt16? {
        guard rest.first == ":" else { return nil }
        let digits = rest.dropFirst().prefix { $0.isASCII && $0.isNumber }
        let after = rest.dropFirst(1 + digits.count)
        if folderFollows {
            // host:22:/folder has a port, host:22 and host:/folder have none.
            guard !digits.isEmpty, after.first == ":" else {
                if !digits.isEmpty && after.isEmpty {
                    throw invalid(text, "it names no folder: write host:\(digits):FOLDER")
                }
                return nil
            }
        }
        guard let port = UInt16(digits), port > 0 else {
            throw invalid(text, "the port must be a number from 1 to 65535")
        }
        rest = after
        return port
    }

    /// `/folder` is absolute, `/~/folder` starts in the user's home.
    private static func folder(_ text: Substring, of whole: String) throws(TransportError) -> String? {
        let path = try decode(text, of: whole)
        guard !path.utf8.contains(0) else { throw invalid(whole, "a folder's name has no zero byte") }
        if path == "/" { return nil }
        return path.rest(after: "/~/").map(String.init) ?? path
    }

    private static func decode(_ text: Substring, of whole: String) throws(TransportError) -> String {
        var bytes: [UInt8] = []
        var rest = text.utf8
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard rest.count >= 2, let value = UInt8(String(Substring(rest.prefix(2))), radix: 16) else {
                throw invalid(whole, "a % is followed by two hexadecimal digits")
            }
            rest = rest.dropFirst(2)
            bytes.append(value)
        }
        guard let decoded = String(validating: bytes, as: UTF8.self) else { throw invalid(whole, "it is not UTF-8") }
        return decoded
    }

    /// Something that neither ssh nor a shell takes for anything else.
    private static func isPlain(_ text: String) -> Bool {
        guard let first = text.utf8.first, first != UInt8(ascii: "-") else { return false }
        return text.unicodeScalars.allSatisfy {
            $0.value > 0x20 && $0.value != 0x7f && !"'\"`\\$;&|<>()[]{}*?!".unicodeScalars.contains($0)
        }
    }
}
