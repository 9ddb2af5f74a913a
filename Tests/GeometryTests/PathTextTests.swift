import Geometry
import Testing

/// Paths are bytes: a mark behind a slash, and another way to write a letter, change nothing of that.
@Suite struct PathTextTests {
    private static let mark = "\u{301}"
    private static let one = "caf\u{e9}"
    private static let other = "cafe\u{301}"

    @Test func pathsAreTakenApart() {
        let path = "/a//\(Self.mark)b/\(Self.mark)"
        #expect(PathText.parts(of: path).map(Array.init(_:)) == ["a", "\(Self.mark)b", Self.mark].map(Array.init(_:)))
        #expect(PathText.parent(of: path).isSame(as: "/a//\(Self.mark)b"))
        #expect(PathText.name(of: path).isSame(as: Self.mark))
        #expect(PathText.parent(of: "/\(Self.mark)") == "/")
        #expect(PathText.parent(of: "a") == "." && PathText.parent(of: "/") == "/")
        #expect(PathText.name(of: "a") == "a" && PathText.name(of: "a/") == "")
        #expect(PathText.lastPart(of: "/a/b//") == "b" && PathText.lastPart(of: "/") == "/")
        #expect(PathText.withoutEndSlashes("a//") == "a" && PathText.withoutEndSlashes("//") == "/")
        #expect(PathText.join("/", "a") == "/a" && PathText.join("a", "b") == "a/b")
        #expect(PathText.isAbsolute("/\(Self.mark)") && PathText.hasSlash("a/\(Self.mark)"))
    }

    @Test func insideIsBelow() {
        #expect(PathText.isInside("/a/b", "/a") && PathText.isInside("/a/\(Self.mark)b", "/a"))
        #expect(PathText.isInside("/a", "/") && !PathText.isInside("/", "/"))
        #expect(!PathText.isInside("/a", "/a") && !PathText.isInside("/ab", "/a"))
        #expect(!PathText.isInside("/\(Self.other)/b", "/\(Self.one)"))
    }

    @Test func whatOnlyLooksTheSameIsNot() {
        #expect(Self.one == Self.other)
        #expect(!Self.one.isSame(as: Self.other) && ![Self.one].hasSame(as: Self.other))
        #expect(![Self.one].isSame(as: [Self.other]) && [Self.one].isSame(as: [Self.one]))
        #expect(!["a"].isSame(as: ["a", "b"]) && Set([PathKey(Self.one), PathKey(Self.other)]).count == 2)
        #expect(!"\(Self.one)/x".begins(with: Self.other) && !"x/\(Self.one)".ends(with: Self.other))
        #expect("cafe".begins(with: "cafe") && Self.other.begins(with: "cafe") && !"x".ends(with: "xx"))
    }

    @Test func linesAndWordsAreTakenApart() {
        #expect("a\r\nb".has("\n") && "a'\(Self.mark)".has("'"))
        #expect("a\r\nb".parts(between: "\n").map { $0.utf8.count } == [2, 1])
        #expect("a  b".parts(between: " ", keepsEmpty: true) == ["a", "", "b"])
        #expect("a b c".parts(between: " ", maxSplits: 1) == ["a", "b c"])
        #expect("ab\(Self.mark)".rest(after: "ab")?.isSame(as: Self.mark) == true && "a".rest(after: "b") == nil)
        #expect("a.tmp".rest(before: ".tmp") == "a" && "a".rest(before: ".tmp") == nil)
    }
}
