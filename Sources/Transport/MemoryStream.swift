internal import LinuxSystem

/// One end of a stream inside the process, for tests and for peers that are not remote at all.
public final class MemoryStream: ByteStream {
    private struct Direction {
        var bytes: [UInt8] = []
        var head = 0
        var isClosed = false
        var waiting: Int { bytes.count - head }
    }
    private let incoming: Monitor<Direction>
    private let outgoing: Monitor<Direction>
    private let capacity: Int
    private let limit: TimeLimit

    private init(incoming: Monitor<Direction>, outgoing: Monitor<Direction>, capacity: Int, limit: TimeLimit) {
        self.incoming = incoming
        self.outgoing = outgoing
        self.capacity = capacity
        self.limit = limit
    }

    /// Two ends. - Parameter capacity: bytes on their way before a writer blocks, in each direction.
    public static func pair(
        capacity: Int = 256 << 10, silenceMilliseconds: Int = 30_000
    ) -> (MemoryStream, MemoryStream) {
        let there = Monitor(Direction())
        let back = Monitor(Direction())
        let limit = TimeLimit(milliseconds: silenceMilliseconds, time: SystemTime())
        return (
            MemoryStream(incoming: back, outgoing: there, capacity: capacity, limit: limit),
            MemoryStream(incoming: there, outgoing: back, capacity: capacity, limit: limit)
        )
    }

    public func read(into memory: UnsafeMutableRawBufferPointer) throws(TransportError) -> Int {
        let got = incoming.wait(until: limit.deadline) { direction -> Int? in
            let count = min(direction.waiting, memory.count)
            guard count > 0 else { return direction.isClosed ? 0 : nil }
            unsafe direction.bytes.withUnsafeBytes { bytes in
                unsafe memory.copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: bytes[direction.head..<direction.head + count]))
            }
            direction.head += count
            if direction.waiting == 0 {
                direction.bytes.removeAll(keepingCapacity: true)
                direction.head = 0
            }
            return count
        }
        guard let got else { throw limit.error("the peer") }
        return got
    }

    public func write(_ memory: UnsafeRawBufferPointer) throws(TransportError) {
        var next = 0
        while next < memory.count {
            let capacity = self.capacity
            let start = next
            let put = try outgoing.wait(until: limit.deadline) { direction throws(TransportError) -> Int? in
                if direction.isClosed { throw TransportError(.closed, "the peer has closed the connection") }
                let count = min(capacity - direction.bytes.count, memory.count - start)
                guard count > 0 else { return nil }
                unsafe direction.bytes.append(contentsOf: memory[start..<start + count])
                return count
            }
            guard let put else { throw limit.error("the peer") }
            next += put
        }
    }

    /// What was written before can still be read at the other end.
    public func close() {
        outgoing.change { $0.isClosed = true }
        incoming.change { $0.isClosed = true }
    }
}

/// How long a stream may stand still.
struct TimeLimit: Sendable {
    let milliseconds: Int
    let time: any TimeSource

    /// From now, on the monotonic clock.
    var deadline: UInt64 { time.monotonic() + UInt64(max(milliseconds, 0)) * 1_000_000 }

    func error(_ peerName: String) -> TransportError {
        let seconds = Double(milliseconds) / 1000
        let text = milliseconds % 1000 == 0 ? "\(milliseconds / 1000)" : "\(seconds)"
        return TransportError(
            .timedOut, "nothing heard from \(peerName) for \(text) s: it hangs, or the network between is cut")
    }
}
