internal import CZstd

/// Compresses single zstd frames (RFC 8878). For one thread at a time; reuse it, creating one is dear.
@safe public struct Compressor: ~Copyable {
    private let context: OpaquePointer

    /// - Parameter level: zstd's; out-of-range ones are clamped by zstd.
    public init(level: Int32) {
        guard let made = unsafe czstd_compressor_new(level) else {
            preconditionFailure("out of memory for a compressor")
        }
        unsafe context = made
    }

    /// Settings between levels 2 and 3, for frames of 1 to 4 MiB: nearly level 3's size at nearly level 2's speed.
    public init() {
        guard let made = unsafe czstd_compressor_new_bulk() else {
            preconditionFailure("out of memory for a compressor")
        }
        unsafe context = made
    }

    deinit { unsafe czstd_compressor_free(context) }

    /// Space that is enough for any input of `count` bytes.
    public static func bound(_ count: Int) -> Int { Int(czstd_bound(UInt64(count))) }

    /// One frame into `target`. - Returns: its length, or `nil` when `target` is too small.
    public func compress(_ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Int? {
        let length = unsafe czstd_compress(
            context, source.baseAddress, UInt64(source.count), target.baseAddress, UInt64(target.count))
        return length < 0 ? nil : Int(length)
    }
}

/// Decompresses single zstd frames. For one thread at a time.
@safe public struct Decompressor: ~Copyable {
    private let context: OpaquePointer

    public init() {
        guard let made = unsafe czstd_decompressor_new() else {
            preconditionFailure("out of memory for a decompressor")
        }
        unsafe context = made
    }

    deinit { unsafe czstd_decompressor_free(context) }

    /// Decodes the one frame that `source` is. - Returns: the plain length, or `nil` when it is damaged or does not
    /// fit.
    public func decompress(_ source: UnsafeRawBufferPointer, into target: UnsafeMutableRawBufferPointer) -> Int? {
        let length = unsafe czstd_decompress(
            context, source.baseAddress, UInt64(source.count), target.baseAddress, UInt64(target.count))
        return length < 0 ? nil : Int(length)
    }
}
