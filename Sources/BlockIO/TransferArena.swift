internal import Synchronization

/// The memory that rings have registered: one fixed region, from which ``AlignedBuffer``s are cut while there is room.
///
/// Registered memory is locked, and locked memory is limited (8 MiB is usual), for each ring anew. So the region is
/// small and never freed: it serves the small buffers that are used again and again. Larger ones come from the heap.
@safe final class TransferArena: @unchecked Sendable {
    // @unchecked: the region is constant; which blocks are lent is in the mutex.
    static let shared = TransferArena()
    private static let blockBytes = 32 << 10
    private static let blockCount = 64

    let memory: UnsafeMutableRawBufferPointer
    /// A bit for each block that is lent.
    private let lent = Mutex<UInt64>(0)

    private init() {
        unsafe memory = .allocate(byteCount: Self.blockBytes * Self.blockCount, alignment: 4096)
        unsafe memory.fillWithZeros()
    }

    /// Lends memory of undefined content; `nil` where there is no room for it.
    func take(_ byteCount: Int) -> UnsafeMutableRawBufferPointer? {
        // Buffers much smaller than a block would waste it, large ones would take it all.
        guard byteCount >= 4096, byteCount <= 8 * Self.blockBytes else { return nil }
        let blocks = (byteCount + Self.blockBytes - 1) / Self.blockBytes
        let pattern: UInt64 = (1 << UInt64(blocks)) - 1
        let first: Int? = lent.withLock { lent in
            guard let first = (0...Self.blockCount - blocks).first(where: { lent & (pattern << UInt64($0)) == 0 })
            else { return nil }
            lent |= pattern << UInt64(first)
            return first
        }
        guard let first else { return nil }
        let start = first * Self.blockBytes
        return unsafe UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + byteCount])
    }

    /// Takes memory back. - Returns: `false` when it is not of the arena.
    func giveBack(_ part: UnsafeMutableRawBufferPointer) -> Bool {
        guard let base = unsafe memory.baseAddress, let start = part.baseAddress, unsafe start >= base,
            unsafe start < base + memory.count
        else { return false }
        let first = unsafe (start - base) / Self.blockBytes
        let blocks = (part.count + Self.blockBytes - 1) / Self.blockBytes
        lent.withLock { $0 &= ~(((1 << UInt64(blocks)) - 1) << UInt64(first)) }
        return true
    }
}
