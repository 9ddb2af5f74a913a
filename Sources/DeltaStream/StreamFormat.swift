public import Codecs
public import Geometry

/// Why a delta stream is refused. None of these is worth a retry with the same bytes.
public struct StreamError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// Not a delta stream.
        case notAStream
        /// Made by a later version.
        case unsupported
        /// Altered, reordered, or contradicts itself.
        case corrupt
        /// Ends before its end frame.
        case truncated
    }
    public var code: Code
    /// What is wrong, and at which byte of the stream.
    public var message: String
    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }
    public var description: String { message }
}

/// What a stream says of itself at its start.
public struct StreamHeader: Hashable, Sendable {
    public static let byteCount = 32
    static let magic = Array("GODWITDS".utf8)
    static let version: UInt16 = 1

    /// Size of the disk in bytes.
    public let diskBytes: UInt64
    /// Ranges start and end at multiples of it, or end at the disk's end.
    public let alignment: UInt32

    /// `nil` when the alignment is not a power of two from 512 to 1 MiB, or the disk has no bytes or 2^62 and more.
    public init?(diskBytes: UInt64, alignment: UInt32) {
        guard alignment.isPowerOfTwo, (512...1 << 20).contains(alignment), (1..<1 << 62).contains(diskBytes) else {
            return nil
        }
        self.diskBytes = diskBytes
        self.alignment = alignment
    }

    /// Whether frames may carry that range.
    public func allows(_ range: ByteRange) -> Bool {
        let mask = UInt64(alignment) - 1
        return range.offset & mask == 0 && !range.isEmpty && range.end <= diskBytes
            && (range.end & mask == 0 || range.end == diskBytes)
    }

    func encoded() -> [UInt8] {
        var bytes = Self.magic
        bytes.append(littleEndian: Self.version)
        bytes.append(littleEndian: UInt16(0))
        bytes.append(littleEndian: alignment)
        bytes.append(littleEndian: diskBytes)
        bytes.append(littleEndian: UInt32(0))
        bytes.append(littleEndian: crc(0, bytes[...]))
        return bytes
    }
}

/// One frame's meaning.
public enum StreamRecord: Hashable, Sendable {
    case data(offset: UInt64, bytes: [UInt8])
    case zeros(ByteRange)
    /// The last one.
    case end(StreamSummary)
}

/// What the end frame says of all before it.
public struct StreamSummary: Hashable, Sendable {
    public static let byteCount = 64
    public var dataFrames: UInt64 = 0
    public var zeroFrames: UInt64 = 0
    public var dataBytes: UInt64 = 0
    public var zeroBytes: UInt64 = 0
    /// Of the disk's content once the stream is applied.
    public var root: Digest
    public init(root: Digest) { self.root = root }

    func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        for count in [dataFrames, zeroFrames, dataBytes, zeroBytes] { bytes.append(littleEndian: count) }
        return bytes + root.bytes
    }

    mutating func count(data bytes: UInt64) {
        dataFrames += 1
        dataBytes &+= bytes
    }
    mutating func count(zeros bytes: UInt64) {
        zeroFrames += 1
        zeroBytes &+= bytes
    }
}

enum FrameKind: UInt8 {
    case stored = 1
    case compressed = 2
    case zeros = 3
    case end = 4
}

/// The fixed part of a frame.
struct FrameHeader: Hashable, Sendable {
    static let byteCount = 32
    /// Where the checksum stands; it covers what is before it, and the payload.
    static let checkedBytes = 28
    /// Most plain bytes of a data frame.
    static let plainMax: UInt64 = 1 << 20

    var kind: FrameKind
    var payloadBytes: UInt32
    var offset: UInt64
    var plainBytes: UInt64
    var sequence: UInt32

    func checkedPart() -> [UInt8] {
        var bytes: [UInt8] = [kind.rawValue, 0, 0, 0]
        bytes.reserveCapacity(Self.byteCount)
        bytes.append(littleEndian: payloadBytes)
        bytes.append(littleEndian: offset)
        bytes.append(littleEndian: plainBytes)
        bytes.append(littleEndian: sequence)
        return bytes
    }
}

/// CRC-32C of `bytes`, continued from `start`.
func crc(_ start: UInt32, _ bytes: ArraySlice<UInt8>) -> UInt32 {
    unsafe bytes.withUnsafeBytes { unsafe crc32c(start, $0) }
}
