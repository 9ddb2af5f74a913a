internal import LinuxSystem

/// Locks of clusters of the device: shared by who reads or overwrites in place, exclusive for who moves, allocates,
/// frees, or reads to write. Clusters share a lock when their numbers agree in the low bits.
final class ClusterLocks: Sendable {
    private static let stripes = 1024
    /// Clusters locked at once, at most.
    static let runMax: UInt64 = 256
    private let locks = SharedLocks(count: stripes)

    /// Runs `body` with the locks of a run of clusters held. One call is not made inside another.
    func withLocks<R, E: Error>(
        _ clusters: Range<UInt64>, exclusive: Bool, _ body: () throws(E) -> R
    ) throws(E) -> R {
        precondition(clusters.count <= Self.runMax, "a run of locks is bounded")
        let (first, second) = Self.split(clusters)
        // Ascending for all, so that no two wait for each other.
        for stripe in first { locks.acquire(stripe, exclusive: exclusive) }
        for stripe in second { locks.acquire(stripe, exclusive: exclusive) }
        defer {
            for stripe in second { locks.release(stripe) }
            for stripe in first { locks.release(stripe) }
        }
        return try body()
    }

    /// The stripes of a run in ascending order, in two runs where it wraps.
    private static func split(_ clusters: Range<UInt64>) -> (Range<Int>, Range<Int>) {
        let start = Int(clusters.lowerBound % UInt64(stripes))
        let end = start + clusters.count
        return end <= stripes ? (start..<end, end..<end) : (0..<end - stripes, start..<stripes)
    }
}
