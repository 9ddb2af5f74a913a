internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import SystemPackage

/// Hands out the clusters of one writable file.
///
/// Fresh ones come from its end, which is reserved ahead in whole clusters that read as zeros, so that a small first
/// write is a small transfer. A freed cluster waits until a block table without it is durable (``takePending()``,
/// ``reclaim(_:)``); then its space is given back to the host, and it is the first to be handed out again.
final class ClusterAllocator: Sendable {
    struct Allocation {
        var cluster: UInt64
        /// All of it reads as zeros.
        var isZero: Bool
    }

    private struct State {
        /// The next fresh cluster.
        var next: UInt64
        /// Clusters from `next` up to here are reserved and read as zeros.
        var reservedEnd: UInt64
        /// Clusters below are not handed out: the block table is to grow over them.
        var floor: UInt64 = 0
        var free = RunSet(runsMax: 65536)
        var pending: [UInt64] = []
        var canReserve = true
        var allocated: UInt64 = 0
    }

    /// So many freed clusters may wait before somebody should flush.
    static let pendingMax = 65536
    private let delta: DeltaFile
    private let bat: BatGeometry
    private let reserveAheadMax: UInt64
    private let state: Monitor<State>

    /// - Parameters:
    ///   - next: the first cluster beyond all that are in use; what the file holds from there on is not.
    ///   - free: clusters below `next` that nobody uses.
    init(delta: DeltaFile, bat: BatGeometry, next: UInt64, free: [Range<UInt64>], reserveAheadBytes: UInt64) {
        self.delta = delta
        self.bat = bat
        reserveAheadMax = max(1, reserveAheadBytes / delta.clusterSize.bytes)
        var state = State(next: next, reservedEnd: next)
        for run in free { state.free.insert(run) }
        self.state = Monitor(state)
    }

    var pendingCount: Int { state.withLock { $0.pending.count } }
    var allocatedCount: UInt64 { state.withLock { $0.allocated } }
    /// Clusters of the file that hold data, or did until a moment ago.
    var usedCount: UInt64 { state.withLock { $0.next - min($0.next, bat.firstDataCluster + $0.free.count) } }

    /// The end of the file if its last clusters, as many as there are free ones, moved into those: at most `movesMax`.
    func end(without movesMax: UInt64) -> UInt64 { state.withLock { $0.next - min($0.free.count, $0.next, movesMax) } }

    /// - Throws: ENOSPC, EFBIG when the table can name no more of them, and the host's failures.
    func allocate() throws(SystemError) -> Allocation {
        try state.withLock { state throws(SystemError) in
            if let cluster = state.free.popFirst() {
                do throws(SystemError) {
                    let offset = delta.clusterSize.offset(of: cluster)
                    // A hole becomes zeros again; what could not be punched keeps its bytes.
                    var isZero = false
                    if state.canReserve, try delta.file.punch(offset: offset, count: delta.clusterSize.bytes) {
                        isZero = try delta.file.reserve(offset: offset, count: delta.clusterSize.bytes)
                    }
                    state.allocated += 1
                    return Allocation(cluster: cluster, isZero: isZero)
                } catch {
                    state.free.insert(cluster..<cluster + 1)
                    throw error
                }
            }
            guard bat.encode(state.next) != nil else {
                // Not ENOSPC: to wait is no use.
                throw SystemError(errno: .fileTooLarge, operation: "address more clusters of", subject: delta.path)
            }
            if state.canReserve, state.next == state.reservedEnd { try reserveAhead(&state) }
            let isZero = state.next < state.reservedEnd
            let cluster = state.next
            state.next += 1
            state.reservedEnd = max(state.reservedEnd, state.next)
            state.allocated += 1
            return Allocation(cluster: cluster, isZero: isZero)
        }
    }

    private func reserveAhead(_ state: inout State) throws(SystemError) {
        // A small image stays small: at most an eighth of what is there.
        var clusters = min(reserveAheadMax, max(4, state.next / 8))
        while true {
            do throws(SystemError) {
                state.canReserve = try delta.file.reserve(
                    offset: delta.clusterSize.offset(of: state.next), count: clusters * delta.clusterSize.bytes)
                if state.canReserve { state.reservedEnd = state.next + clusters }
                return
            } catch {
                guard error.isOutOfSpace, clusters > 1 else { throw error }
                clusters = 1
            }
        }
    }

    /// A cluster that reads as zeros and takes no space, until something is written to it.
    /// - Returns: `nil` where the host has no such thing.
    func allocateHole() throws(SystemError) -> UInt64? {
        try state.withLock { state throws(SystemError) in
            guard state.canReserve else { return nil }
            let size = delta.clusterSize
            let cluster = state.free.runs.first?.lowerBound ?? state.next
            guard bat.encode(cluster) != nil else { return nil }
            let end = size.offset(of: cluster + 1)
            if cluster == state.next, state.next == state.reservedEnd, try delta.file.size() < end {
                try delta.file.truncate(to: end)
            }
            guard try delta.file.punch(offset: size.offset(of: cluster), count: size.bytes) else {
                state.canReserve = false
                return nil
            }
            if cluster == state.next {
                state.next += 1
                state.reservedEnd = max(state.reservedEnd, state.next)
            } else {
                _ = state.free.popFirst()
            }
            state.allocated += 1
            return cluster
        }
    }

    /// Takes back a cluster that no map refers to any more.
    func release(_ cluster: UInt64) {
        state.withLock { $0.pending.append(cluster) }
    }

    /// The clusters freed so far, for who makes a block table without them durable.
    func takePending() -> [UInt64] {
        state.withLock { state in
            defer { state.pending.removeAll() }
            return state.pending
        }
    }

    func putBack(_ pending: [UInt64]) { state.withLock { $0.pending += pending } }

    /// Makes clusters that no durable block table refers to free for reuse and gives their space back.
    func reclaim(_ clusters: [UInt64]) {
        let sorted = clusters.sorted()
        var index = 0
        while index < sorted.count {
            var end = index + 1
            while end < sorted.count, sorted[end] == sorted[end - 1] + 1 { end += 1 }
            let run = sorted[index]..<sorted[end - 1] + 1
            index = end
            // Only a kindness to the host: what can't be given back is reused as it is.
            _ = try? delta.file.punch(
                offset: delta.clusterSize.offset(of: run.lowerBound), count: UInt64(run.count) * delta.clusterSize.bytes
            )
            state.withLock { state in
                let usable = max(run.lowerBound, state.floor)..<max(run.upperBound, state.floor)
                state.free.insert(usable)
            }
        }
    }

    /// From now on hands out nothing below `floor`.
    func raiseFloor(to floor: UInt64) {
        state.withLock { state in
            state.floor = floor
            state.free.removeAll(below: floor)
            if state.next < floor {
                state.next = floor
                state.reservedEnd = max(state.reservedEnd, floor)
            }
        }
    }

    /// One of the free clusters below `bound`, its content undefined.
    func takeFree(below bound: UInt64) throws(SystemError) -> UInt64? {
        try state.withLock { state throws(SystemError) in
            guard let first = state.free.runs.first, first.lowerBound < bound else { return nil }
            let cluster = first.lowerBound
            // Its space first: without it, nothing was taken.
            _ = try delta.file.reserve(offset: delta.clusterSize.offset(of: cluster), count: delta.clusterSize.bytes)
            return state.free.popFirst()
        }
    }

    /// The next fresh cluster.
    var end: UInt64 { state.withLock { $0.next } }

    /// Cuts the file to what is in use, as far as free clusters and what is reserved ahead are at its end.
    func cutEnd() throws(SystemError) {
        try state.withLock { state throws(SystemError) in
            let end =
                state.free.runs.last.map { $0.upperBound == state.next ? $0.lowerBound : state.next } ?? state.next
            try delta.file.truncate(to: delta.clusterSize.offset(of: end))
            if end < state.next { _ = state.free.popRun(endingAt: state.next) }
            state.next = end
            state.reservedEnd = end
        }
    }

    /// Forgets the free clusters at the end. - Returns: the first cluster beyond all that are in use.
    func trimEnd() -> UInt64 {
        state.withLock { state in
            if let start = state.free.popRun(endingAt: state.next) { state.next = start }
            state.reservedEnd = state.next
            return state.next
        }
    }

    /// Clusters between others that nobody uses.
    var freeRuns: [Range<UInt64>] { state.withLock { Array($0.free.runs) } }
    var freeCount: UInt64 { state.withLock { $0.free.count } }
}
