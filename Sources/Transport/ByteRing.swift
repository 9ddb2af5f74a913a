/// A bounded queue of bytes in one piece of memory. Whoever guards it with a lock may copy in and out of the lent
/// regions without the lock: one filler and one drainer at a time, and a region changes only with its ``fill`` or
/// ``drain``.
@safe struct ByteRing: @unchecked Sendable {
    // @unchecked: the memory belongs to one ring; the owner frees it, and the rule above keeps the regions apart.
    private let memory: UnsafeMutableRawBufferPointer
    /// Bytes ever taken out and put in; positions in the memory are these modulo its size.
    private var drained = 0
    private var filled = 0

    init(byteCount: Int) {
        unsafe memory = .allocate(byteCount: byteCount, alignment: 4096)
    }

    func deallocate() { unsafe memory.deallocate() }

    var count: Int { filled - drained }
    var isEmpty: Bool { filled == drained }
    var isFull: Bool { unsafe count == memory.count }

    /// What can be taken next, in one piece.
    var readable: UnsafeRawBufferPointer {
        let start = unsafe drained % memory.count
        return unsafe UnsafeRawBufferPointer(rebasing: memory[start..<start + min(count, memory.count - start)])
    }

    /// Where can be written next, in one piece.
    var writable: UnsafeMutableRawBufferPointer {
        let start = unsafe filled % memory.count
        let room = unsafe memory.count - count
        return unsafe UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + min(room, memory.count - start)])
    }

    mutating func fill(_ count: Int) { filled += count }
    mutating func drain(_ count: Int) { drained += count }
}
