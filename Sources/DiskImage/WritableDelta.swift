internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import Synchronization

/// A delta that is written to: its header with the in-use mark, its allocator, and which clusters were written in part.
final class WritableDelta: Sendable {
    private struct State {
        var header: ImageHeader?
        /// The in-use mark is durable.
        var isMarked: Bool
        /// Clusters of the device whose place in the file is written in part, in the order of their allocation.
        var partials: [UInt64] = []
        var partialsStart = 0
        /// The file may hold clusters that are not written in whole, or unused ones.
        var isUntidy: Bool
        /// Clusters that hold only zeros take no space in it.
        var hasHoles = false
    }

    let delta: DeltaFile
    /// `nil` for a raw file, in which every cluster has its place.
    let allocator: ClusterAllocator?
    private let state: Monitor<State>
    private let marked: Atomic<Bool>

    /// - Parameters:
    ///   - isMarked: the file carries the in-use mark already.
    ///   - isUntidy: it was not closed properly.
    init(delta: DeltaFile, allocator: ClusterAllocator?, isMarked: Bool, isUntidy: Bool) {
        self.delta = delta
        self.allocator = allocator
        marked = Atomic(isMarked || delta.isRaw)
        var header = delta.header
        // Bitmaps of other software are out of date from the first change on: no header that is written here has any.
        header?.extensionSector = 0
        state = Monitor(State(header: header, isMarked: isMarked || delta.isRaw, isUntidy: isUntidy))
    }

    /// Opens what `delta` describes for writing, with everything in its file up to the end in use: also the rest of a
    /// cluster that is there in part, whose bytes are not those of a new one.
    static func continuing(_ delta: DeltaFile, reserveAheadBytes: UInt64) throws(DiskError) -> WritableDelta {
        guard let bat = delta.bat, let header = delta.header else {
            return WritableDelta(delta: delta, allocator: nil, isMarked: true, isUntidy: false)
        }
        let size = try withPath(delta.path) { () throws(SystemError) in try delta.file.size() }
        let end = size.dividedRoundingUp(by: delta.clusterSize.bytes)
        let allocator = ClusterAllocator(
            delta: delta, bat: bat, next: max(end, bat.firstDataCluster), free: [],
            reserveAheadBytes: reserveAheadBytes)
        return WritableDelta(
            delta: delta, allocator: allocator, isMarked: header.inUse == .open, isUntidy: !header.inUse.isClean)
    }

    /// The header as the next write of page 0 carries it.
    var headerBytes: [UInt8] { state.withLock { $0.header?.encode() ?? [] } }
    var header: ImageHeader? { state.withLock { $0.header } }
    var isUntidy: Bool { state.withLock { $0.isUntidy } }
    func noteUntidy() { state.withLock { $0.isUntidy = true } }
    var hasHoles: Bool { state.withLock { $0.hasHoles } }
    func noteHole() {
        state.withLock { state in
            state.hasHoles = true
            state.isUntidy = true
        }
    }

    /// For who then writes page 0.
    func replaceHeader(_ header: ImageHeader) { state.withLock { $0.header = header } }

    /// Something may have been changed since it was opened.
    var isMarkedInUse: Bool { marked.load(ordering: .acquiring) }

    /// Makes the in-use mark durable before the first change.
    func markInUse() throws(DiskError) {
        if marked.load(ordering: .acquiring) { return }
        try state.withLock { state throws(DiskError) in
            guard !state.isMarked, var header = state.header else { return }
            header.inUse = .open
            header.flags.remove(.empty)
            let marked = header
            try delta.attempt { () throws(SystemError) in try DeltaFile.writeHeader(marked, to: delta.file) }
            try delta.synchronize()
            state.header = header
            state.isMarked = true
            state.isUntidy = true
        }
        marked.store(true, ordering: .releasing)
    }

    /// Writes the header of a file that is complete and durable. - Parameter isEmpty: no cluster is in use.
    func markClosed(isEmpty: Bool) throws(DiskError) {
        try state.withLock { state throws(DiskError) in
            guard state.isMarked, var header = state.header else { return }
            header.inUse = .closed
            if isEmpty { header.flags.insert(.empty) } else { header.flags.remove(.empty) }
            let closed = header
            try delta.attempt { () throws(SystemError) in try DeltaFile.writeHeader(closed, to: delta.file) }
            try delta.synchronize()
            state.header = header
            state.isMarked = false
            state.isUntidy = false
        }
        if !delta.isRaw { marked.store(false, ordering: .releasing) }
    }

    // MARK: Clusters written in part

    /// So many are remembered. What is not is filled when the delta is finished, as all is that is left then.
    private static let partialsMax = 1 << 18

    func notePartial(_ cluster: UInt64) {
        state.withLock { state in
            let count = state.partials.count - state.partialsStart
            if state.partials.last != cluster, count < Self.partialsMax { state.partials.append(cluster) }
        }
    }

    /// The one that has been partial longest, when there are more than `limit`.
    func takePartial(beyond limit: Int) -> UInt64? {
        state.withLock { state in
            guard state.partials.count - state.partialsStart > limit else { return nil }
            defer {
                state.partialsStart += 1
                if state.partialsStart >= 4096 {
                    state.partials.removeFirst(state.partialsStart)
                    state.partialsStart = 0
                }
            }
            return state.partials[state.partialsStart]
        }
    }

    var partialCount: Int { state.withLock { $0.partials.count - $0.partialsStart } }
}
