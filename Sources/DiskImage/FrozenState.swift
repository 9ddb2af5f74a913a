public import BlockIO
public import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import Synchronization

/// A snapshot of a disk, read while another process owns the disk and writes its top.
///
/// What is read does not change: it holds shared leases of its files, from opening to ``close()`` or the end of the
/// process, and nobody of ours merges into them, moves, shortens or removes them meanwhile. Programs that don't know
/// leases are found out by ``checkUnchanged()``.
public final class FrozenState: Sendable {
    private static let mapBytes = 8 << 20

    public let byteCount: UInt64
    public let clusterSize: ClusterSize
    private let path: String
    private let name: GUID
    private let chain: Chain
    /// The names of the chain's states, base first.
    private let states: [GUID]
    private let leaving: Set<GUID>
    private let reader: ChainReader
    /// `nil` once it is closed.
    private let leased: Mutex<LeasedChain?>

    private init(_ name: GUID, _ leased: LeasedChain) {
        path = leased.folder.path
        self.name = name
        chain = leased.chain
        states = leased.images.map(\.guid)
        leaving = leased.leaving
        self.leased = Mutex(leased)
        byteCount = chain.byteCount
        clusterSize = chain.clusterSize
        let pool = BufferPool()
        reader = ChainReader(
            map: ClusterMap(budgetBytes: Self.mapBytes, pool: pool), pool: pool, locks: ClusterLocks())
    }

    /// - Parameters:
    ///   - folder: the disk's folder.
    ///   - guid: the snapshot.
    ///   - waitNanoseconds: how long to wait for who is just changing one of its files.
    /// - Throws: `.busy`, with who it is, when that takes longer.
    public static func open(
        _ folder: String, snapshot guid: String, in fs: any FileSystem, direct: Bool = true,
        waitNanoseconds: UInt64? = nil
    ) throws(DiskError) -> FrozenState {
        guard case .folder(let disk) = try DiskLocation.find(folder, in: fs) else {
            throw DiskError(
                .unsupported, "\(folder) is an image without a descriptor and has no snapshots", path: folder)
        }
        guard let name = GUID(typed: guid) else {
            throw DiskError(.invalid, "\(guid) is no name of a snapshot", path: folder)
        }
        var options = DiskOptions.readOnly
        options.direct = direct
        return FrozenState(
            name,
            try LeasedChain.open(
                disk, state: name, options: options, waitNanoseconds: waitNanoseconds ?? SharedLeases.waitNanoseconds))
    }

    /// Lets others change the files; nothing is read any more. Dropping it does the same.
    public func close() { leased.withLock { $0 = nil } }

    /// Whether all that was read up to now is of the state that was opened; to be asked before it is called that.
    /// - Throws: `.busy` when it was changed or removed meanwhile.
    public func checkUnchanged() throws(DiskError) {
        let result: Result<Void, DiskError> = leased.withLock { leased in
            do throws(DiskError) { return .success(try Self.required(leased, path).checkUnchanged(name)) } catch {
                return .failure(error)
            }
        }
        try result.get()
    }

    private static func required(_ leased: LeasedChain?, _ path: String) throws(DiskError) -> LeasedChain {
        guard let leased else {
            throw DiskError(.invalid, "\(path): the snapshot was closed and can't be read", path: path)
        }
        return leased
    }

    private func requireOpen() throws(DiskError) {
        let isOpen = leased.withLock { $0 != nil }
        if !isOpen { _ = try Self.required(nil, path) }
    }

    /// Fills `memory` from byte `offset` of the device. Page-aligned memory and offsets are read without a copy.
    public func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(DiskError) {
        guard let range = ByteRange(checking: offset, count: UInt64(memory.count)), range.end <= byteCount else {
            throw DiskError(
                .outOfBounds, "\(path): \(memory.count) bytes at \(offset) are beyond the device of \(byteCount) bytes",
                path: path)
        }
        try requireOpen()
        guard !range.isEmpty else { return }
        try unsafe reader.read(at: offset, into: memory, chain: chain)
    }

    /// Calls `body` with runs of virtual clusters (numbers, not bytes), ascending and disjoint, that have data in a
    /// delta above the state `base` up to this one; with `nil`, in any delta. A cluster may be given that holds what it
    /// held before; none that changed is left out. Memory is bounded.
    /// - Parameters:
    ///   - base: a state that this one builds on, and that was not being removed when this one was opened.
    ///   - cluster: where to start.
    ///   - body: returns `false` to stop.
    public func forEachChangedRun<E: Error>(
        since base: String?, from cluster: UInt64 = 0, _ body: (Range<UInt64>) throws(E) -> Bool
    ) throws(ScanError<E>) {
        let deltas: [DeltaFile]
        do throws(DiskError) {
            try requireOpen()
            deltas = try self.deltas(above: base)
        } catch { throw .disk(error) }
        var scan = ChangeScan(deltas, clusterCount: byteCount.dividedRoundingUp(by: clusterSize.bytes), from: cluster)
        while true {
            let run: Range<UInt64>?
            do throws(DiskError) { run = try scan.next() } catch { throw .disk(error) }
            guard let run else { return }
            do throws(E) {
                guard try body(run) else { return }
            } catch { throw .body(error) }
        }
    }

    private func deltas(above base: String?) throws(DiskError) -> [DeltaFile] {
        guard let base else { return chain.deltas }
        guard let name = GUID(typed: base), let index = states.firstIndex(of: name) else {
            throw DiskError(.notFound, "\(path): \(base) is no snapshot that this one builds on", path: path)
        }
        guard !leaving.contains(name) else {
            throw DiskError(
                .notFound, "\(path): snapshot \(base) is being removed; what changed since is not known", path: path)
        }
        return Array(chain.deltas[(index + 1)...])
    }
}

/// What ends a scan early: the disk, or the one it reports to.
public enum ScanError<E: Error>: Error {
    case disk(DiskError)
    case body(E)
}

/// Walks the clusters that any of some deltas has data for. Costs time for what the tables hold, not for their size.
struct ChangeScan {
    private let deltas: [DeltaFile]
    private let scanners: [BatScanner]
    private let clusterCount: UInt64
    /// The next cluster to look at.
    private var position: UInt64
    /// Clusters that were found on the current page, ascending runs.
    private var found: [Range<UInt64>] = []

    init(_ deltas: [DeltaFile], clusterCount: UInt64, from cluster: UInt64) {
        self.deltas = deltas
        scanners = deltas.compactMap { BatScanner($0) }
        self.clusterCount = clusterCount
        position = cluster
    }

    /// The next run, ending at the latest at the end of a page of the tables' pages that follow each other.
    mutating func next() throws(DiskError) -> Range<UInt64>? {
        while found.isEmpty {
            guard position < clusterCount else { return nil }
            try fill()
        }
        return found.removeFirst()
    }

    /// Looks at the next page that has something.
    private mutating func fill() throws(DiskError) {
        let (page, _) = DeltaFile.place(of: position)
        var next: UInt64?
        for scanner in scanners {
            if let candidate = try scanner.nextPage(from: page) { next = min(next ?? .max, candidate) }
        }
        for raw in deltas where raw.isRaw {
            if let candidate = try Self.nextRawPage(raw, from: position) { next = min(next ?? .max, candidate) }
        }
        guard let next else {
            position = clusterCount
            return
        }
        let start = DeltaFile.firstCluster(ofPage: next)
        let end = min(DeltaFile.firstCluster(ofPage: next + 1), clusterCount)
        var changed = [Bool](repeating: false, count: Int(max(end, start) - start))
        for scanner in scanners where try scanner.nextPage(from: next) == next {
            for cluster in scanner.clusters(on: next) where cluster < end && scanner.raw(cluster) != 0 {
                changed[Int(cluster - start)] = true
            }
        }
        for raw in deltas where raw.isRaw { try Self.markRaw(raw, start..<max(end, start), &changed) }
        var run: Range<UInt64>?
        for cluster in max(start, position)..<max(end, start, position) {
            if changed[Int(cluster - start)] {
                run = (run?.lowerBound ?? cluster)..<cluster + 1
            } else if let done = run {
                found.append(done)
                run = nil
            }
        }
        if let run { found.append(run) }
        position = max(end, position + 1)
    }

    private static func nextRawPage(_ raw: DeltaFile, from cluster: UInt64) throws(DiskError) -> UInt64? {
        let data = try raw.attempt { () throws(SystemError) in
            try raw.file.nextData(from: raw.clusterSize.offset(of: cluster))
        }
        guard let data else { return nil }
        return DeltaFile.place(of: max(cluster, raw.clusterSize.cluster(at: data.offset))).page
    }

    private static func markRaw(_ raw: DeltaFile, _ clusters: Range<UInt64>, _ changed: inout [Bool]) throws(DiskError)
    {
        let end = raw.clusterSize.offset(of: clusters.upperBound)
        var offset = raw.clusterSize.offset(of: clusters.lowerBound)
        while offset < end {
            let data = try raw.attempt { () throws(SystemError) in try raw.file.nextData(from: offset) }
            guard let data, data.offset < end else { return }
            let last = raw.clusterSize.cluster(at: min(data.offset + data.count, end) - 1)
            for cluster in raw.clusterSize.cluster(at: data.offset)...last {
                changed[Int(cluster - clusters.lowerBound)] = true
            }
            offset = raw.clusterSize.offset(of: last + 1)
        }
    }
}
