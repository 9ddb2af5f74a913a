internal import BlockIO

/// What a client has sent and nobody has taken yet. A few requests are received with one system call; what is long goes
/// past it, to where it is needed.
struct Inbox: Sendable {
    private static let capacity = 16 << 10

    private let buffer = AlignedBuffer(byteCount: Inbox.capacity)
    private var start = 0
    private var end = 0
    /// No request follows: the client is gone, or said so, or broke the protocol.
    var isEnded = false

    /// The next `count` bytes; waits for them. Lent until the next call.
    /// - Precondition: `count` fits into the buffer.
    mutating func next(
        _ count: Int, from socket: ClientSocket, until deadline: UInt64? = nil
    ) throws(ClientError) -> UnsafeRawBufferPointer {
        precondition(count <= Self.capacity, "what is longer is moved")
        if end - start < count, Self.capacity - start < count { moveToFront() }
        while end - start < count {
            if start == end {
                start = 0
                end = 0
            }
            end += try unsafe socket.receive(
                into: UnsafeMutableRawBufferPointer(rebasing: buffer.memory[end...]), until: deadline)
        }
        defer { start += count }
        return unsafe UnsafeRawBufferPointer(rebasing: buffer.memory[start..<start + count])
    }

    /// Fills `memory` with what comes next; waits for it.
    mutating func move(
        into memory: UnsafeMutableRawBufferPointer, from socket: ClientSocket, until deadline: UInt64? = nil
    ) throws(ClientError) {
        let buffered = min(memory.count, end - start)
        if buffered > 0 {
            unsafe memory.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer.memory[start..<start + buffered]))
            start += buffered
        }
        var filled = buffered
        while filled < memory.count {
            filled += try unsafe socket.receive(
                into: UnsafeMutableRawBufferPointer(rebasing: memory[filled...]), until: deadline)
        }
    }

    /// Drops what comes next, however much.
    mutating func skip(_ count: UInt64, from socket: ClientSocket) throws(ClientError) {
        var left = count
        while left > 0 {
            if start == end {
                start = 0
                end = try unsafe socket.receive(into: buffer.memory)
            }
            let part = min(left, UInt64(end - start))
            start += Int(part)
            left -= part
        }
    }

    private mutating func moveToFront() {
        unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.memory[..<(end - start)]).copyMemory(
            from: UnsafeRawBufferPointer(rebasing: buffer.memory[start..<end]))
        end -= start
        start = 0
    }
}
