internal import CExpat

/// A node of a parsed document.
enum XMLNode: Hashable, Sendable {
    case element(XMLElement)
    case text(String)
    case comment(String)
    case instruction(target: String, data: String)
}

/// An element with all that was in it, known or not, so that a rewrite keeps what other software put there.
struct XMLElement: Hashable, Sendable {
    struct Attribute: Hashable, Sendable {
        var name: String
        var value: String
    }
    var name: String
    var attributes: [Attribute] = []
    var children: [XMLNode] = []
    /// Byte in the parsed document; 0 for new ones. No part of the value.
    var offset = 0

    static func == (a: XMLElement, b: XMLElement) -> Bool {
        a.name == b.name && a.attributes == b.attributes && a.children == b.children
    }

    func hash(into hasher: inout Hasher) {
        hasher.combine(name)
        hasher.combine(attributes)
        hasher.combine(children)
    }

    init(_ name: String, _ children: [XMLElement] = []) {
        self.name = name
        self.children = children.map { .element($0) }
    }

    init(_ name: String, text: String) {
        self.name = name
        children = [.text(text)]
    }

    /// The texts directly inside, without white space at either end.
    var text: String {
        get {
            var all = ""
            for case .text(let piece) in children { all += piece }
            return all.trimmingXMLSpace
        }
        set {
            let others = children.filter { if case .text = $0 { false } else { true } }
            children = others + [.text(newValue)]
        }
    }

    private var hasText: Bool {
        children.contains { if case .text(let text) = $0 { !text.trimmingXMLSpace.isEmpty } else { false } }
    }

    /// Without the white space that only makes a document look good. Inside an element with text it may mean something.
    var withoutIndentation: XMLElement {
        guard !hasText else { return self }
        var result = self
        result.children = children.compactMap {
            switch $0 {
            case .text: nil
            case .element(let element): .element(element.withoutIndentation)
            case .comment, .instruction: $0
            }
        }
        return result
    }

    func elements(_ name: String) -> [XMLElement] {
        children.compactMap { if case .element(let element) = $0, element.name == name { element } else { nil } }
    }

    func first(_ name: String) -> XMLElement? {
        for case .element(let element) in children where element.name == name { return element }
        return nil
    }

    /// Where the elements of that name stand among the children.
    func indices(of name: String) -> [Int] {
        children.indices.filter { if case .element(let element) = children[$0] { element.name == name } else { false } }
    }

    /// Changes the first element of that name, which is added at the end when missing.
    mutating func updateFirst(_ name: String, _ body: (inout XMLElement) -> Void) {
        if let index = indices(of: name).first {
            update(at: index, body)
        } else {
            var element = XMLElement(name)
            body(&element)
            children.append(.element(element))
        }
    }

    /// Takes a child out. Texts that meet become one, as they would when they are read again.
    mutating func removeChild(at index: Int) {
        children.remove(at: index)
        guard index > 0, index < children.count, case .text(let first) = children[index - 1],
            case .text(let second) = children[index]
        else { return }
        children[index - 1] = .text(first + second)
        children.remove(at: index)
    }

    mutating func update(at index: Int, _ body: (inout XMLElement) -> Void) {
        guard case .element(var element) = children[index] else { return }
        body(&element)
        children[index] = .element(element)
    }
}

extension String {
    var trimmingXMLSpace: String {
        let isSpace: (UInt8) -> Bool = { $0 == 32 || $0 == 9 || $0 == 10 || $0 == 13 }
        guard let first = utf8.firstIndex(where: { !isSpace($0) }), let last = utf8.lastIndex(where: { !isSpace($0) })
        else {
            return ""
        }
        return String(self[first...last])
    }
}

/// A whole document: the root, and comments and instructions around it.
struct XMLDocument: Hashable, Sendable {
    static let bytesMax = 4 << 20
    private static let depthMax: UInt32 = 32
    private static let eventBytesMax: UInt64 = 32 << 20

    var before: [XMLNode] = []
    var root: XMLElement
    var after: [XMLNode] = []

    init(root: XMLElement) { self.root = root }

    /// - Throws: `.unsupported` for what is too large, too deep or has a document type; `.corrupt` for what is no XML.
    init(parsing bytes: [UInt8]) throws(ImageError) {
        guard bytes.count <= Self.bytesMax else {
            throw ImageError(.unsupported, "the descriptor has \(bytes.count) bytes, more than \(Self.bytesMax)")
        }
        let parsed = unsafe bytes.withUnsafeBytes { all in
            unsafe cexpat_parse(all.baseAddress, UInt32(all.count), Self.depthMax, Self.eventBytesMax)
        }
        guard let parsed = unsafe parsed else { throw ImageError(.unsupported, "no memory to read the descriptor") }
        defer { unsafe cexpat_free(parsed) }
        let offset = Int(clamping: unsafe cexpat_offset(parsed))
        switch unsafe cexpat_status(parsed) {
        case Int32(CEXPAT_OK.rawValue): break
        case Int32(CEXPAT_DOCTYPE.rawValue):
            throw ImageError(.unsupported, "the descriptor has a document type, which is refused", at: offset)
        case Int32(CEXPAT_TOO_DEEP.rawValue):
            throw ImageError(.unsupported, "the descriptor's elements are nested too deep", at: offset)
        case Int32(CEXPAT_MALFORMED.rawValue):
            let reason = unsafe String(cString: cexpat_message(parsed))
            throw ImageError(.corrupt, "the descriptor is no valid XML at byte \(offset): \(reason)", at: offset)
        default: throw ImageError(.unsupported, "the descriptor is too large to be read", at: offset)
        }
        var count: UInt64 = 0
        let events = unsafe UnsafeRawBufferPointer(start: cexpat_events(parsed, &count), count: Int(count))
        var builder = TreeBuilder()
        var position = 0
        while position + 9 <= events.count {
            let kind = unsafe events[position]
            let length = Int(unsafe events.loadUnaligned(fromByteOffset: position + 1, as: UInt32.self))
            let at = Int(unsafe events.loadUnaligned(fromByteOffset: position + 5, as: UInt32.self))
            let text = unsafe String(decoding: events[position + 9..<position + 9 + length], as: UTF8.self)
            builder.add(kind: UInt32(kind), text: text, at: at)
            position += 9 + length
        }
        guard let root = builder.root else { throw ImageError(.corrupt, "the descriptor has no root element") }
        self.root = root.withoutIndentation
        before = builder.before
        after = builder.after
    }

    /// The document with two spaces of indentation, as ploop's tools write it. Elements that hold text are kept as they
    /// are; white space between elements is not.
    func encode() -> [UInt8] {
        var out = XMLWriter()
        for node in before { out.write(node, depth: 0, indented: true) }
        out.write(.element(root), depth: 0, indented: true)
        for node in after { out.write(node, depth: 0, indented: true) }
        return out.bytes
    }
}

/// Puts events together to a tree.
private struct TreeBuilder {
    private(set) var root: XMLElement?
    private(set) var before: [XMLNode] = []
    private(set) var after: [XMLNode] = []
    private var open: [XMLElement] = []
    /// The instruction's target or attribute's name whose value comes next.
    private var pending: (kind: UInt32, name: String)?

    mutating func add(kind: UInt32, text: String, at offset: Int) {
        switch kind {
        case CEXPAT_START.rawValue:
            var element = XMLElement(text)
            element.offset = offset
            open.append(element)
        case CEXPAT_ATTRIBUTE.rawValue, CEXPAT_INSTRUCTION.rawValue: pending = (kind, text)
        case CEXPAT_VALUE.rawValue:
            guard let (kind, name) = pending else { return }
            pending = nil
            if kind == CEXPAT_INSTRUCTION.rawValue {
                append(.instruction(target: name, data: text))
            } else if !open.isEmpty {
                open[open.count - 1].attributes.append(.init(name: name, value: text))
            }
        case CEXPAT_END.rawValue:
            guard let element = open.popLast() else { return }
            if open.isEmpty { root = element } else { append(.element(element)) }
        case CEXPAT_TEXT.rawValue: append(.text(text))
        case CEXPAT_COMMENT.rawValue: append(.comment(text))
        default: break
        }
    }

    private mutating func append(_ node: XMLNode) {
        if !open.isEmpty {
            // Text comes in pieces; one node per run keeps comparisons simple.
            let last = open.count - 1
            if case .text(let more) = node, case .text(let text)? = open[last].children.last {
                open[last].children[open[last].children.count - 1] = .text(text + more)
            } else {
                open[last].children.append(node)
            }
        } else if root == nil {
            before.append(node)
        } else {
            after.append(node)
        }
    }
}

private struct XMLWriter {
    private(set) var bytes = [UInt8]("<?xml version=\"1.0\"?>\n".utf8)

    mutating func write(_ node: XMLNode, depth: Int, indented: Bool) {
        if indented { bytes.append(contentsOf: repeatElement(32, count: 2 * depth)) }
        switch node {
        case .element(let element): write(element, depth: depth, indented: indented)
        case .text(let text): put(Self.escape(text, inAttribute: false))
        case .comment(let text): put("<!--\(text)-->")
        case .instruction(let target, let data): put(data.isEmpty ? "<?\(target)?>" : "<?\(target) \(data)?>")
        }
        if indented { bytes.append(10) }
    }

    private mutating func write(_ element: XMLElement, depth: Int, indented: Bool) {
        put("<" + element.name)
        for attribute in element.attributes {
            put(" \(attribute.name)=\"\(Self.escape(attribute.value, inAttribute: true))\"")
        }
        guard !element.children.isEmpty else { return put("/>") }
        let indentsChildren = indented && !element.children.contains { if case .text = $0 { true } else { false } }
        put(indentsChildren ? ">\n" : ">")
        for child in element.children { write(child, depth: depth + 1, indented: indentsChildren) }
        if indentsChildren { bytes.append(contentsOf: repeatElement(32, count: 2 * depth)) }
        put("</\(element.name)>")
    }

    private mutating func put(_ text: String) { bytes.append(contentsOf: text.utf8) }

    private static func escape(_ text: String, inAttribute: Bool) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\r": result += "&#13;"
            case "\"" where inAttribute: result += "&quot;"
            case "\n" where inAttribute: result += "&#10;"
            case "\t" where inAttribute: result += "&#9;"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
