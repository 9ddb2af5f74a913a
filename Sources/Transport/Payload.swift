internal import Codecs

/// Builds a payload: little-endian integers, and text and bytes with their length in front.
public struct PayloadWriter: Sendable {
    public private(set) var bytes: [UInt8] = []

    public init() {}

    public mutating func put<T: FixedWidthInteger & BitwiseCopyable>(_ value: T) { bytes.append(littleEndian: value) }

    /// UTF-8 with a 16-bit length; a longer text is cut at 65535 bytes.
    public mutating func put(text: String) {
        let utf8 = text.utf8.prefix(Int(UInt16.max))
        put(UInt16(utf8.count))
        bytes.append(contentsOf: utf8)
    }

    /// Bytes with a 32-bit length.
    public mutating func put(block: [UInt8]) {
        put(UInt32(block.count))
        bytes.append(contentsOf: block)
    }

    /// Bytes without their length: the reader must know it.
    public mutating func put(raw: [UInt8]) { bytes.append(contentsOf: raw) }
    public mutating func put(raw: UnsafeRawBufferPointer) { unsafe bytes.append(contentsOf: raw) }
    public mutating func reserve(_ count: Int) { bytes.reserveCapacity(count) }
}

/// Takes a peer's payload apart. Everything in it is hostile until read: what is cut off or too long throws.
public struct PayloadReader: Sendable {
    private let bytes: [UInt8]
    public private(set) var position = 0

    public init(_ bytes: [UInt8]) { self.bytes = bytes }

    public var remaining: Int { bytes.count - position }

    public mutating func next<T: FixedWidthInteger & BitwiseCopyable>(
        _ field: StaticString, as type: T.Type = T.self
    ) throws(TransportError) -> T {
        try demand(MemoryLayout<T>.size, field)
        defer { position += MemoryLayout<T>.size }
        return T(
            littleEndian: unsafe bytes.withUnsafeBytes { unsafe $0.loadUnaligned(fromByteOffset: position, as: T.self) }
        )
    }

    public mutating func text(_ field: StaticString) throws(TransportError) -> String {
        let count = Int(try next(field, as: UInt16.self))
        guard let text = String(validating: try raw(field, count: count), as: UTF8.self) else {
            throw TransportError(.protocolViolation, "the peer's message has bytes in \(field) that are not UTF-8")
        }
        return text
    }

    public mutating func block(_ field: StaticString) throws(TransportError) -> [UInt8] {
        let count = Int(try next(field, as: UInt32.self))
        return try raw(field, count: count)
    }

    public mutating func raw(_ field: StaticString, count: Int) throws(TransportError) -> [UInt8] {
        try demand(count, field)
        defer { position += count }
        return [UInt8](bytes[position..<position + count])
    }

    /// A number of things that take at least `each` bytes of what follows: refuses what can't be there, so that it is
    /// safe to reserve space for them.
    public mutating func count(_ field: StaticString, each: Int) throws(TransportError) -> Int {
        let count = Int(try next(field, as: UInt32.self))
        guard count <= remaining / max(each, 1) else {
            throw TransportError(
                .protocolViolation, "the peer's message says \(count) for \(field), more than it holds")
        }
        return count
    }

    /// Throws unless everything was read.
    public func finish() throws(TransportError) {
        guard remaining == 0 else {
            throw TransportError(.protocolViolation, "the peer's message has \(remaining) bytes too many")
        }
    }

    private func demand(_ count: Int, _ field: StaticString) throws(TransportError) {
        guard count <= remaining else {
            throw TransportError(.protocolViolation, "the peer's message is cut off at \(field)")
        }
    }
}
