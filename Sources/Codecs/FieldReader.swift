/// Bytes that ended too early or said something that can't be.
public struct FieldError: Error, Hashable, Sendable {
    public var message: String
    /// Byte offset of the field in what was parsed.
    public var offset: Int
    public init(_ message: String, at offset: Int) {
        self.message = message
        self.offset = offset
    }
}

/// Reads consecutive little-endian integers from untrusted bytes; throws at the end instead of passing it.
public struct FieldReader: ~Escapable {
    private let bytes: RawSpan
    public private(set) var position = 0

    @_lifetime(copy bytes)
    public init(_ bytes: RawSpan) { self.bytes = bytes }

    public var remaining: Int { bytes.byteCount - position }

    public mutating func next<T: FixedWidthInteger & BitwiseCopyable>(
        _ field: StaticString, as type: T.Type = T.self
    ) throws(FieldError) -> T {
        guard remaining >= MemoryLayout<T>.size else { throw FieldError("\(field) is cut off", at: position) }
        defer { position += MemoryLayout<T>.size }
        return T(littleEndian: unsafe bytes.unsafeLoadUnaligned(fromByteOffset: position, as: T.self))
    }

    /// The next `count` bytes, copied out.
    public mutating func bytes(_ field: StaticString, count: Int) throws(FieldError) -> [UInt8] {
        guard count >= 0, remaining >= count else { throw FieldError("\(field) is cut off", at: position) }
        defer { position += count }
        return unsafe bytes.withUnsafeBytes { all in unsafe [UInt8](all[position..<position + count]) }
    }

    public mutating func skip(_ field: StaticString, count: Int) throws(FieldError) {
        guard count >= 0, remaining >= count else { throw FieldError("\(field) is cut off", at: position) }
        position += count
    }
}

extension [UInt8] {
    /// Appends an integer, little-endian.
    public mutating func append<T: FixedWidthInteger & BitwiseCopyable>(littleEndian value: T) {
        unsafe Swift.withUnsafeBytes(of: value.littleEndian) { unsafe append(contentsOf: $0) }
    }
}
