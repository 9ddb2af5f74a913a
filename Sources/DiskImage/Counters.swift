internal import Synchronization

/// Numbers of ``DiskStatistics`` that many threads add to, wrapping: a guest may trim without end, at no cost.
final class Counters: Sendable {
    let readRequests = Atomic<UInt64>(0)
    let readBytes = Atomic<UInt64>(0)
    let writeRequests = Atomic<UInt64>(0)
    let writeBytes = Atomic<UInt64>(0)
    let flushes = Atomic<UInt64>(0)
    let hostFlushes = Atomic<UInt64>(0)
    let discardedBytes = Atomic<UInt64>(0)

    var values: DiskStatistics {
        var values = DiskStatistics()
        values.readRequests = readRequests.load(ordering: .relaxed)
        values.readBytes = readBytes.load(ordering: .relaxed)
        values.writeRequests = writeRequests.load(ordering: .relaxed)
        values.writeBytes = writeBytes.load(ordering: .relaxed)
        values.flushes = flushes.load(ordering: .relaxed)
        values.hostFlushes = hostFlushes.load(ordering: .relaxed)
        values.discardedBytes = discardedBytes.load(ordering: .relaxed)
        return values
    }
}
