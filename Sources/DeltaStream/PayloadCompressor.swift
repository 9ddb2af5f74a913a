internal import Codecs

/// A data frame's payload, made on whichever thread has time; ``StreamEncoder`` puts it into the stream.
public struct StreamPayload: Hashable, Sendable {
    public let bytes: [UInt8]
    public let plainBytes: UInt64
    public let isCompressed: Bool
}

/// Turns plain bytes into payloads. It stops trying on data that does not shrink, and tries again now and then.
public struct PayloadCompressor: ~Copyable {
    private let compressor: Compressor
    /// Bytes that go through uncompressed before the next attempt.
    private var restBytes = 0
    private var pauseBytes = Self.pauseMin
    private static let pauseMin = 1 << 20
    private static let pauseMax = 32 << 20

    public init(level: Int32 = 1) { compressor = Compressor(level: level) }

    /// - Precondition: 1 byte to 1 MiB.
    public mutating func payload(_ plain: UnsafeRawBufferPointer) -> StreamPayload {
        precondition((1...Int(FrameHeader.plainMax)).contains(plain.count), "a frame has 1 byte to 1 MiB")
        if restBytes > 0 {
            restBytes -= plain.count
        } else if let bytes = unsafe compressed(plain) {
            pauseBytes = Self.pauseMin
            return StreamPayload(bytes: bytes, plainBytes: UInt64(plain.count), isCompressed: true)
        } else {
            restBytes = pauseBytes
            pauseBytes = min(pauseBytes * 2, Self.pauseMax)
        }
        return unsafe StreamPayload(bytes: [UInt8](plain), plainBytes: UInt64(plain.count), isCompressed: false)
    }

    /// `nil` unless it saves at least a sixteenth: less is not worth the other side's time.
    private func compressed(_ plain: UnsafeRawBufferPointer) -> [UInt8]? {
        let room = plain.count - plain.count / 16 - 1
        guard room > 0 else { return nil }
        var fits = false
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: room) { target, count in
            let length = unsafe compressor.compress(plain, into: UnsafeMutableRawBufferPointer(target))
            count = length ?? 0
            fits = length != nil
        }
        return fits ? bytes : nil
    }
}
