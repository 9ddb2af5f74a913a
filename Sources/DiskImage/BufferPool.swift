internal import BlockIO
internal import Glibc
internal import Synchronization

/// Aligned memory for transfers whose caller's memory is not: a few buffers of two sizes are kept for reuse. A thread
/// holds one at a time, so there are no more of them than threads.
final class BufferPool: Sendable {
    /// The largest piece that is moved through a buffer.
    static let pieceBytes = 1 << 20
    private static let smallBytes = 64 << 10
    private static let keptMax = 16

    private let small = Mutex<[AlignedBuffer]>([])
    private let large = Mutex<[AlignedBuffer]>([])

    /// Lends `count` bytes of undefined content, aligned to a page.
    /// - Precondition: `count` is at most ``pieceBytes``.
    func withBuffer<R, E: Error>(
        _ count: Int, _ body: (UnsafeMutableRawBufferPointer) throws(E) -> R
    ) throws(E) -> R {
        precondition(count <= Self.pieceBytes, "pieces are moved one at a time")
        let isSmall = count <= Self.smallBytes
        let kept = isSmall ? small.withLock { $0.popLast() } : large.withLock { $0.popLast() }
        let buffer = kept ?? AlignedBuffer(byteCount: isSmall ? Self.smallBytes : Self.pieceBytes)
        defer { keep(buffer, isSmall: isSmall) }
        return try unsafe body(UnsafeMutableRawBufferPointer(rebasing: buffer.memory[..<count]))
    }

    private func keep(_ buffer: AlignedBuffer, isSmall: Bool) {
        if isSmall {
            small.withLock { if $0.count < Self.keptMax { $0.append(buffer) } }
        } else {
            large.withLock { if $0.count < Self.keptMax { $0.append(buffer) } }
        }
    }
}

/// Memory that is and stays zero.
enum ZeroMemory {
    private static let buffer = AlignedBuffer(byteCount: BufferPool.pieceBytes)
    /// `count` zero bytes, aligned to a page; only to be read.
    static func bytes(_ count: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.memory[..<count])
    }
}

extension UnsafeRawBufferPointer {
    /// Whether all bytes are zero.
    var isAllZero: Bool {
        guard let start = baseAddress, count > 0 else { return true }
        // Each byte equals the one before it, as fast as the C library compares.
        return unsafe start.load(as: UInt8.self) == 0 && (count == 1 || memcmp(start, start + 1, count - 1) == 0)
    }
}
