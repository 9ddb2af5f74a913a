public import BackupStore
internal import BlockIO
internal import ChunkTree
internal import Codecs
internal import Geometry
public import LinuxSystem

/// One backup of one state of one disk into one store.
///
/// With a base it reads what changed since, and makes the next tree from the base's: time, reads, writes and memory go
/// with the changes, not with the disk. Without, it reads all that is allocated; the store still takes only what it
/// does not have.
public struct BackupJob: Sendable {
    /// A point whose state the source's change map can count from.
    public struct Base: Sendable {
        public var point: RestorePoint
        /// GUID of the frozen state that it holds, as the source knows it.
        public var snapshot: String
        public init(point: RestorePoint, snapshot: String) {
            self.point = point
            self.snapshot = snapshot
        }
    }

    public struct Options: Sendable {
        public var effort: CompressionEffort
        /// Threads that hash and compress; 0: one a processor.
        public var workers: Int
        /// A pack is closed once it has that many bytes of frames.
        public var packBytesTarget: Int
        public init(effort: CompressionEffort = .standard, workers: Int = 0, packBytesTarget: Int = 64 << 20) {
            self.effort = effort
            self.workers = workers
            self.packBytesTarget = packBytesTarget
        }
    }

    public var disk: String
    public var name: String
    /// GUID of the frozen state.
    public var snapshot: String
    /// When it was frozen, in nanoseconds since 1970.
    public var time: UInt64
    public var freezeNanoseconds: UInt64
    public var base: Base?
    public var options: Options

    public init(
        disk: String, name: String, snapshot: String, time: UInt64, freezeNanoseconds: UInt64 = 0, base: Base? = nil,
        options: Options = Options()
    ) {
        self.disk = disk
        self.name = name
        self.snapshot = snapshot
        self.time = time
        self.freezeNanoseconds = freezeNanoseconds
        self.base = base
        self.options = options
    }

    public struct Outcome: Sendable {
        public var point: RestorePoint
        public var statistics: BackupStatistics
    }

    /// Returns once the point is durable in the store. Where the base turns out to be damaged, everything is read, and
    /// what is damaged is stored again.
    /// - Parameter progress: called now and then with bytes done and in all; `false` stops the backup.
    public func run(
        source: any BackupSource, store: any StoreBackend, clock: any TimeSource = SystemTime(),
        progress: (_ done: UInt64, _ total: UInt64) -> Bool = { _, _ in true }
    ) throws(BackupError) -> Outcome {
        let started = clock.monotonic()
        guard let shape = TreeShape(checking: source.byteCount, chunkBytes: store.info.chunkBytes) else {
            throw BackupError(.invalid, "a disk of \(source.byteCount) bytes is too large for a store")
        }
        // A base of another chunk size, or of a larger disk, says nothing about this one.
        let base = base.flatMap { base in
            let old = base.point.content.root.shape
            return old.chunkBytes == shape.chunkBytes && old.chunkCount <= shape.chunkCount ? base : nil
        }
        do throws(RunFailure) {
            return try run(source, store, shape, base, from: started, clock, progress)
        } catch {
            guard case .damagedBase(let node, let failure) = error else { throw error.cause }
            try onStore { () throws(StoreError) in try store.recheck([node]) }
            // What could not be read and can by now was never lost: the next run need not read everything.
            let isThere = try onStore { () throws(StoreError) in try store.known([node]) }
            if failure.code == .store(.io), isThere == [true] { throw failure }
        }
        do throws(RunFailure) {
            return try run(source, store, shape, nil, from: started, clock, progress)
        } catch { throw error.cause }
    }

    private func run(
        _ source: any BackupSource, _ store: any StoreBackend, _ shape: TreeShape, _ base: Base?, from started: UInt64,
        _ clock: any TimeSource, _ progress: (UInt64, UInt64) -> Bool
    ) throws(RunFailure) -> Outcome {
        let since = base?.snapshot
        let pipeline: ChunkPipeline
        do throws(BackupError) {
            pipeline = try ChunkPipeline(
                backend: store, chunkBytes: shape.chunkBytes, effort: options.effort,
                workers: options.workers > 0 ? options.workers : processorCount(),
                packBytesTarget: options.packBytesTarget)
        } catch { throw .job(error) }
        let reading = Reading(
            source: source, pipeline: pipeline, base: base?.point.content.root ?? .empty(shape), shape: shape)
        do throws(BackupError) {
            try reading.run(since: since, progress)
            let root = try reading.finish()
            let totals = try pipeline.finish()
            var statistics = reading.statistics
            statistics.isIncremental = since != nil
            statistics.clusterBytes = source.clusterBytes
            statistics.chunksNew = totals.chunksNew
            statistics.bytesNew = totals.bytesNew
            statistics.bytesStored = totals.bytesStored
            statistics.metadataBytesWritten = totals.nodeBytes + totals.directoryBytes
            statistics.freezeNanoseconds = freezeNanoseconds
            let point = RestorePoint(
                RestorePoint.Content(
                    disk: disk, name: name, time: time, root: root, parent: since == nil ? nil : base?.point.id,
                    snapshot: snapshot, statistics: statistics.kept))
            let bytes = point.encoded()
            // All that was read has been read: only now it can be told whether it was one state.
            try source.checkUnchanged()
            try onStore { () throws(StoreError) in try store.put(.point, point.id, bytes) }
            statistics.metadataBytesWritten += UInt64(bytes.count)
            statistics.durationNanoseconds = clock.elapsed(since: started)
            statistics.peakMemoryBytes = peakMemoryBytes()
            return Outcome(point: point, statistics: statistics)
        } catch {
            pipeline.abandon(error)
            if let node = reading.damagedNode { throw .damagedBase(node, error) }
            throw .job(error)
        }
    }
}

/// Why an attempt at a backup ended.
private enum RunFailure: Error {
    case job(BackupError)
    /// This node of the base's tree can't be read, though the store is there.
    case damagedBase(Digest, BackupError)

    var cause: BackupError {
        switch self {
        case .job(let error): error
        case .damagedBase(let node, _):
            BackupError(.store(.corrupt), "tree node \(node) is damaged, also of a tree that was just made")
        }
    }
}

/// The reader's side of a backup: fills batches with what changed, and makes the tree of what comes back.
private final class Reading {
    let source: any BackupSource
    let shape: TreeShape
    let pipeline: ChunkPipeline
    let nodes: NodeWriter
    let nodeReader: TreeReader
    var updater: TreeUpdater<BackupError>
    var statistics = BackupStatistics()
    private var batch: ChunkBatch?
    private var nextChunk: UInt64 = 0
    private var totalBytes: UInt64 = 0
    /// A node of the base that turned out to be damaged or missing.
    var damagedNode: Digest? { damaged.value }
    private let damaged: Damaged

    private final class Damaged {
        var value: Digest?
    }

    init(source: any BackupSource, pipeline: ChunkPipeline, base: TreeRoot, shape: TreeShape) {
        self.source = source
        self.shape = shape
        self.pipeline = pipeline
        let nodes = NodeWriter(pipeline: pipeline)
        let reader = TreeReader(backend: pipeline.backend)
        self.nodes = nodes
        nodeReader = reader
        let damaged = Damaged()
        self.damaged = damaged
        updater = TreeUpdater(
            from: base, to: shape,
            read: { (id, level) throws(BackupError) in
                do throws(StoreError) { return try reader.read(id, level) } catch {
                    if [.corrupt, .missing, .io].contains(error.code) { damaged.value = id }
                    throw BackupError(error)
                }
            },
            emit: { (id, node) throws(BackupError) in try nodes.add(id, node) })
    }

    func run(since: String?, _ progress: (UInt64, UInt64) -> Bool) throws(BackupError) {
        var clusters: UInt64 = 0
        try source.forEachChangedRun(since: since) { (run) throws(BackupError) in
            clusters += UInt64(run.count)
            return true
        }
        statistics.clustersChanged = clusters
        totalBytes = min(clusters * source.clusterBytes, max(shape.byteCount, 1))
        guard progress(0, totalBytes) else { throw Self.cancelled }
        let step = max(1, UInt64(ChunkBatch.byteCount) / source.clusterBytes)
        try source.forEachChangedRun(since: since) { (run) throws(BackupError) in
            var cluster = run.lowerBound
            while cluster < run.upperBound {
                let next = cluster + min(step, run.upperBound - cluster)
                try self.read(cluster..<next)
                cluster = next
                guard progress(min(self.statistics.bytesRead, self.totalBytes), self.totalBytes) else {
                    throw Self.cancelled
                }
            }
            return true
        }
    }

    private static var cancelled: BackupError {
        BackupError(.cancelled, "the backup was stopped; what it has stored so far makes the next one faster")
    }

    /// Reads the chunks of a run of clusters.
    private func read(_ run: Range<UInt64>) throws(BackupError) {
        let chunkBytes = UInt64(shape.chunkBytes)
        let (start, overflow) = run.lowerBound.multipliedReportingOverflow(by: source.clusterBytes)
        guard !overflow, start < shape.byteCount else { return }
        let (end, endOverflow) = run.upperBound.multipliedReportingOverflow(by: source.clusterBytes)
        let last = endOverflow ? shape.chunkCount : min(end.dividedRoundingUp(by: chunkBytes), shape.chunkCount)
        // Clusters smaller than a chunk may share one.
        var chunk = max(start / chunkBytes, nextChunk)
        while chunk < last {
            let batch = try openBatch()
            let slot = batch.indices.count
            let count = min(last - chunk, UInt64(pipeline.chunksInBatch - slot))
            try fill(batch, slot, chunk..<chunk + count)
            chunk += count
            if batch.indices.count == pipeline.chunksInBatch { submit() }
        }
        nextChunk = max(nextChunk, last)
    }

    private func fill(_ batch: ChunkBatch, _ slot: Int, _ chunks: Range<UInt64>) throws(BackupError) {
        let start = slot * pipeline.chunkBytes
        let memory = unsafe UnsafeMutableRawBufferPointer(
            rebasing: batch.buffer.memory[start..<start + chunks.count * pipeline.chunkBytes])
        let offset = chunks.lowerBound * UInt64(pipeline.chunkBytes)
        let count = Int(min(UInt64(memory.count), shape.byteCount - offset))
        try unsafe source.read(at: offset, into: UnsafeMutableRawBufferPointer(rebasing: memory[..<count]))
        // The last chunk of the device is filled up with zeros.
        let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[count...])
        _ = unsafe rest.initializeMemory(as: UInt8.self, repeating: 0)
        batch.indices.append(contentsOf: chunks)
        statistics.bytesRead += UInt64(count)
    }

    private func openBatch() throws(BackupError) -> ChunkBatch {
        if let batch { return batch }
        let next = try pipeline.nextBatch()
        batch = next.batch
        try apply(next.done)
        return next.batch
    }

    private func submit() {
        guard let batch else { return }
        self.batch = nil
        if batch.indices.isEmpty { pipeline.giveBack(batch) } else { pipeline.submit(batch) }
    }

    private func apply(_ done: [(indices: [UInt64], ids: [Digest])]) throws(BackupError) {
        for (indices, ids) in done {
            for (index, id) in zip(indices, ids) { try updater.set(index, id) }
        }
    }

    func finish() throws(BackupError) -> TreeRoot {
        submit()
        try apply(try pipeline.finishReading())
        let root = try updater.finish()
        try nodes.flush()
        statistics.metadataBytesRead = nodeReader.bytesRead
        return root
    }
}
