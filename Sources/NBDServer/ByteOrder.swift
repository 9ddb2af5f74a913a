internal import Codecs

// NBD's integers are big-endian.

extension [UInt8] {
    mutating func append<T: FixedWidthInteger & BitwiseCopyable>(bigEndian value: T) {
        append(littleEndian: value.byteSwapped)
    }
}

extension FieldReader {
    mutating func nextBig<T: FixedWidthInteger & BitwiseCopyable>(_ field: StaticString) throws(FieldError) -> T {
        try next(field, as: T.self).byteSwapped
    }
}

extension UnsafeMutableRawBufferPointer {
    /// Writes an integer at a place that need not be aligned.
    func store<T: FixedWidthInteger & BitwiseCopyable>(bigEndian value: T, at offset: Int) {
        unsafe storeBytes(of: value.bigEndian, toByteOffset: offset, as: T.self)
    }
}
