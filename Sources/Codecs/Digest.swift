internal import CCrypto

/// A SHA-256 digest.
public struct Digest: Hashable, Comparable, Sendable, CustomStringConvertible {
    // Four words, big-endian, so that comparing words compares bytes and nothing is on the heap.
    private let w0, w1, w2, w3: UInt64

    public static let byteCount = 32
    /// All zero bits. Not the hash of anything; stands for "nothing but zeros here".
    public static let zero = Digest(w0: 0, w1: 0, w2: 0, w3: 0)

    private init(w0: UInt64, w1: UInt64, w2: UInt64, w3: UInt64) {
        self.w0 = w0
        self.w1 = w1
        self.w2 = w2
        self.w3 = w3
    }

    /// - Precondition: `bytes` has at least 32 bytes after `offset`.
    public init(loading bytes: UnsafeRawBufferPointer, at offset: Int = 0) {
        precondition(bytes.count >= offset + 32, "a digest has 32 bytes")
        func word(_ i: Int) -> UInt64 {
            UInt64(bigEndian: unsafe bytes.loadUnaligned(fromByteOffset: offset + 8 * i, as: UInt64.self))
        }
        self.init(w0: word(0), w1: word(1), w2: word(2), w3: word(3))
    }

    /// `nil` unless there are exactly 32 bytes.
    public init?(_ bytes: [UInt8]) {
        guard bytes.count == 32 else { return nil }
        self = unsafe bytes.withUnsafeBytes { unsafe Digest(loading: $0) }
    }

    /// `nil` unless `text` is 64 hexadecimal digits.
    public init?(hex text: some StringProtocol) {
        guard text.utf8.count == 64, text.utf8.allSatisfy({ ($0 >= 48 && $0 <= 57) || ($0 >= 97 && $0 <= 102) }) else {
            return nil
        }
        var words: [UInt64] = []
        var rest = Substring(text)
        for _ in 0..<4 {
            guard let word = UInt64(rest.prefix(16), radix: 16) else { return nil }
            words.append(word)
            rest = rest.dropFirst(16)
        }
        self.init(w0: words[0], w1: words[1], w2: words[2], w3: words[3])
    }

    public var bytes: [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(32)
        for word in [w0, w1, w2, w3] { result.append(littleEndian: word.byteSwapped) }
        return result
    }

    /// 64 lower-case hexadecimal digits.
    public var description: String {
        [w0, w1, w2, w3].map { word in
            let text = String(word, radix: 16)
            return String(repeating: "0", count: 16 - text.count) + text
        }.joined()
    }

    public var isZero: Bool { w0 | w1 | w2 | w3 == 0 }
    /// The first 64 bits as a number: evenly spread, so good for buckets and interpolation.
    public var prefix: UInt64 { w0 }

    public static func < (a: Digest, b: Digest) -> Bool { (a.w0, a.w1, a.w2, a.w3) < (b.w0, b.w1, b.w2, b.w3) }

    /// SHA-256 of `prefix` followed by `bytes`. The prefix tells apart what is hashed (domain separation).
    public static func hash(prefix: [UInt8] = [], _ bytes: UnsafeRawBufferPointer) -> Digest {
        unsafe withUnsafeTemporaryAllocation(byteCount: 32, alignment: 8) { out in
            let result = unsafe prefix.withUnsafeBytes { first in
                unsafe ccrypto_sha256(
                    first.baseAddress, UInt64(first.count), bytes.baseAddress, UInt64(bytes.count), out.baseAddress)
            }
            precondition(result == 0, "libcrypto has SHA-256")
            return unsafe Digest(loading: UnsafeRawBufferPointer(out))
        }
    }

    public static func hash(prefix: [UInt8] = [], _ bytes: [UInt8]) -> Digest {
        unsafe bytes.withUnsafeBytes { unsafe hash(prefix: prefix, $0) }
    }
}

/// CRC-32C (Castagnoli, RFC 3720 appendix B.4). Start with 0 and chain the results.
public func crc32c(_ crc: UInt32 = 0, _ bytes: UnsafeRawBufferPointer) -> UInt32 {
    unsafe ccrypto_crc32c(crc, bytes.baseAddress, UInt64(bytes.count))
}

/// MD5, which the ploop Format Extension demands (shared by QEMU); not for security.
public func md5(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
    unsafe [UInt8](unsafeUninitializedCapacity: 16) { out, count in
        let result = unsafe ccrypto_md5(bytes.baseAddress, UInt64(bytes.count), out.baseAddress)
        precondition(result == 0, "libcrypto has MD5")
        count = 16
    }
}

/// Whether there are only zero bytes. Fast on long runs.
public func isAllZeros(_ bytes: UnsafeRawBufferPointer) -> Bool {
    var offset = 0
    let count = bytes.count
    while offset + 64 <= count {
        var any: UInt64 = 0
        for lane in 0..<8 { any |= unsafe bytes.loadUnaligned(fromByteOffset: offset + 8 * lane, as: UInt64.self) }
        if any != 0 { return false }
        offset += 64
    }
    while offset < count {
        if unsafe bytes[offset] != 0 { return false }
        offset += 1
    }
    return true
}
