internal import CRing
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// A few small rings, each used by one calling thread at a time: a batch is one system call on the caller's thread.
///
/// The alternative, one large ring with a thread of its own, would add two thread switches to each request.
final class RingPool: Sendable {
    /// `nil` where io_uring is missing or forbidden, or `GODWIT_NO_URING` is set.
    static let shared: RingPool? = environmentVariable("GODWIT_NO_URING") == nil ? RingPool() : nil
    private static let ringsMax = 16
    private static let entries: UInt32 = 32

    private struct State {
        var idle: [Ring]
        var count: Int
    }
    private let state: Mutex<State>

    private init?() {
        guard let first = Ring(entries: Self.entries) else { return nil }
        state = Mutex(State(idle: [first], count: 1))
    }

    /// Whether the rings have the arena registered.
    var hasRegisteredMemory: Bool { state.withLock { $0.idle.last?.hasRegisteredMemory ?? false } }

    /// Does the transfers. - Returns: `false` when no ring is free or the ring failed: nothing is under way then, and
    /// the transfers, done or not, may be done again.
    func perform(
        _ transfers: [Transfer], on descriptor: CInt, alignment: Int, path: String
    ) throws(SystemError) -> Bool {
        guard let ring = take() else { return false }
        var native = unsafe transfers.map { transfer in
            unsafe cring_transfer(
                offset: transfer.offset, memory: transfer.memory.baseAddress?.assumingMemoryBound(to: UInt8.self),
                count: UInt64(transfer.memory.count), is_write: transfer.operation == .write ? 1 : 0, result: 0)
        }
        guard unsafe ring.perform(&native, on: descriptor, alignment: alignment) else {
            state.withLock { $0.count -= 1 }
            return false
        }
        state.withLock { $0.idle.append(ring) }
        for index in unsafe native.indices {
            let isWrite = unsafe native[index].is_write != 0
            _ = try check(unsafe native[index].result, isWrite ? "write" : "read", path)
        }
        return true
    }

    private func take() -> Ring? {
        let (ring, isAllowed): (Ring?, Bool) = state.withLock { state in
            if let ring = state.idle.popLast() { return (ring, true) }
            guard state.count < Self.ringsMax else { return (nil, false) }
            state.count += 1
            return (nil, true)
        }
        guard ring == nil, isAllowed else { return ring }
        if let made = Ring(entries: Self.entries) { return made }
        state.withLock { $0.count -= 1 }
        return nil
    }
}

/// One ring. Whoever took it out of the pool uses it alone.
@safe private final class Ring: @unchecked Sendable {
    // @unchecked: the handle is constant, and the pool gives it to one thread at a time.
    private let handle: OpaquePointer

    init?(entries: UInt32) {
        var handle: OpaquePointer?
        let arena = unsafe TransferArena.shared.memory
        guard unsafe cring_create(entries, arena.baseAddress, UInt64(arena.count), &handle) == 0,
            let handle = unsafe handle
        else { return nil }
        unsafe self.handle = handle
    }

    deinit { unsafe cring_destroy(handle) }

    var hasRegisteredMemory: Bool { unsafe cring_has_fixed(handle) != 0 }

    /// - Returns: `false` when the ring is broken.
    func perform(_ transfers: inout [cring_transfer], on descriptor: CInt, alignment: Int) -> Bool {
        unsafe cring_perform(handle, descriptor, UInt32(alignment), &transfers, UInt32(transfers.count)) >= 0
    }
}
