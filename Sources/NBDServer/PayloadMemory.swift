internal import BlockIO
internal import Glibc
internal import LinuxSystem

/// The memory of requests that are longer than a thread's own, of all connections together: bounded, apart for what is
/// read and for what is written, so that no read waits for the memory of writes that are held.
///
/// Beyond the bound a connection has one request at a time, so that none can keep the others from going on: a client
/// may leave its replies where they are for as long as it likes.
final class PayloadMemory: Sendable {
    enum Use: Sendable { case reading, writing }

    /// In bytes.
    struct Bounds: Sendable {
        var reading = 256 << 20
        /// Held writes wait in memory. The kernel lets a fifth of it be dirty, which is what its NBD client may send.
        var writing = min(2 << 30, max(256 << 20, PayloadMemory.physicalBytes / 4))
    }

    private struct State {
        var reading = 0
        var writing = 0
        /// Requests that hold memory, by connection.
        var readers: [UInt64: Int] = [:]
        var writers: [UInt64: Int] = [:]
        var isEnded = false
        var kept: [Int: [AlignedBuffer]] = [:]
    }
    private let state = Monitor(State())
    private let bounds: Bounds

    init(bounds: Bounds = Bounds()) { self.bounds = bounds }

    private static var physicalBytes: Int { sysconf(CInt(_SC_PHYS_PAGES)) * sysconf(CInt(_SC_PAGESIZE)) }

    /// Sizes that are kept for reuse, in bytes, and how many of each; longer ones are rare.
    private static let classes: [(bytes: Int, kept: Int)] = [(256 << 10, 16), (1 << 20, 8), (4 << 20, 2)]

    /// Lends memory with a page more than `count` bytes; waits while there is too much in use.
    /// - Returns: `nil` at the server's end.
    func lend(_ count: Int, for use: Use, to connection: UInt64) -> LentPayload? {
        let bytes = (Self.classes.first { $0.bytes >= count }?.bytes ?? count) + RequestMemory.pageBytes
        let isLent: Bool? = state.wait { state in
            if state.isEnded { return false }
            let isFirst = (use == .reading ? state.readers : state.writers)[connection] == nil
            switch use {
            case .reading:
                guard isFirst || state.reading + bytes <= bounds.reading else { return nil }
                state.reading += bytes
                state.readers[connection, default: 0] += 1
            case .writing:
                guard isFirst || state.writing + bytes <= bounds.writing else { return nil }
                state.writing += bytes
                state.writers[connection, default: 0] += 1
            }
            return true
        }
        guard isLent == true else { return nil }
        let kept = state.withLock { $0.kept[bytes]?.popLast() }
        return LentPayload(
            kept ?? AlignedBuffer(byteCount: bytes), of: self, use: use, connection: connection)
    }

    fileprivate func giveBack(_ buffer: AlignedBuffer, _ use: Use, _ connection: UInt64) {
        let bytes = unsafe buffer.memory.count
        state.change { state in
            switch use {
            case .reading:
                state.reading -= bytes
                Self.leave(connection, &state.readers)
            case .writing:
                state.writing -= bytes
                Self.leave(connection, &state.writers)
            }
            let keptMax = Self.classes.first { $0.bytes + RequestMemory.pageBytes == bytes }?.kept ?? 0
            if (state.kept[bytes]?.count ?? 0) < keptMax { state.kept[bytes, default: []].append(buffer) }
        }
    }

    private static func leave(_ connection: UInt64, _ users: inout [UInt64: Int]) {
        let left = (users[connection] ?? 1) - 1
        users[connection] = left > 0 ? left : nil
    }

    /// Whoever waits gets nothing.
    func end() { state.change { $0.isEnded = true } }
}

/// Memory for one request; given back when it is dropped.
final class LentPayload: Sendable {
    let buffer: AlignedBuffer
    private let owner: PayloadMemory
    private let use: PayloadMemory.Use
    private let connection: UInt64

    fileprivate init(
        _ buffer: AlignedBuffer, of owner: PayloadMemory, use: PayloadMemory.Use, connection: UInt64
    ) {
        self.buffer = buffer
        self.owner = owner
        self.use = use
        self.connection = connection
    }

    deinit { owner.giveBack(buffer, use, connection) }
}

/// The memory that a thread works in: its own for what is short, else lent for one request. What is read or written is
/// aligned to a page, and has room before it for a reply's header, so that both are sent with one system call.
final class RequestMemory {
    static let pageBytes = 4096
    private static let ownBytes = 64 << 10

    private let own = AlignedBuffer(byteCount: RequestMemory.pageBytes + RequestMemory.ownBytes)
    private let shared: PayloadMemory
    private let connection: UInt64
    private var lent: LentPayload?

    init(_ shared: PayloadMemory, connection: UInt64) {
        self.shared = shared
        self.connection = connection
    }

    /// Room for `count` bytes until ``release()``. - Returns: `false` at the server's end.
    func reserve(_ count: Int, for use: PayloadMemory.Use) -> Bool {
        guard count > Self.ownBytes else { return true }
        lent = shared.lend(count, for: use, to: connection)
        return lent != nil
    }

    func release() { if lent != nil { lent = nil } }

    private var memory: UnsafeMutableRawBufferPointer { unsafe lent?.buffer.memory ?? own.memory }

    /// What is read or written.
    func payload(_ count: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(rebasing: memory[Self.pageBytes..<Self.pageBytes + count])
    }

    /// The same with room before it.
    func reply(header: Int, payload: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(rebasing: memory[Self.pageBytes - header..<Self.pageBytes + payload])
    }
}
