internal import Glibc

/// Memory for transfers, aligned to a page so that direct I/O takes it. Freed with its owner.
@safe public final class AlignedBuffer: @unchecked Sendable {
    // @unchecked: the pointer is constant; whoever holds the buffer alone writes through it (documented on `memory`).
    /// The memory. Callers see to it that nobody reads what another thread is writing.
    public let memory: UnsafeMutableRawBufferPointer

    /// `byteCount` zero bytes.
    public init(byteCount: Int) {
        unsafe memory = TransferArena.shared.take(byteCount) ?? .allocate(byteCount: byteCount, alignment: 4096)
        unsafe memory.fillWithZeros()
    }

    deinit { if unsafe !TransferArena.shared.giveBack(memory) { unsafe memory.deallocate() } }
}

extension UnsafeMutableRawBufferPointer {
    /// Fills the memory with zeros; also without optimisation as fast as the C library does it.
    public func fillWithZeros() {
        guard let start = baseAddress, count > 0 else { return }
        _ = unsafe memset(start, 0, count)
    }
}
