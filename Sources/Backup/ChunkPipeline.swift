internal import BackupStore
internal import BlockIO
internal import ChunkTree
internal import Codecs
internal import LinuxSystem
internal import Synchronization

// How chunks get from the disk into packs.
//
//     reader (the caller) -> hash workers -> dedup thread -> compress workers -> pack thread
//
// Batches of 8 MiB go round: the reader fills a free one, workers hash it in parts, the dedup thread asks the store
// about all batches that wait in one round trip, workers compress what is new in frames of 2 MiB straight from the
// batch's memory, and the pack thread writes. Workers take compression before hashing, so batches are free again soon.
// Everything waits in one monitor; what is handed over is whole batches and frames, so a lock is taken some hundred
// times a second. The number of batches and of output buffers bounds the memory; nothing grows with the disk.

/// How hard to compress.
public enum CompressionEffort: Hashable, Sendable {
    /// Between zstd's levels 2 and 3, tuned for the store's frames.
    case standard
    /// A level of zstd.
    case level(Int32)
}

/// A run of the disk's chunks on its way.
final class ChunkBatch: @unchecked Sendable {
    // @unchecked: a batch has one owner at a time, who got it out of the pipeline's monitor; while parts of it are
    // hashed or compressed its memory is only read, and `ids` is only set under the monitor.
    static let byteCount = 8 << 20
    let buffer = AlignedBuffer(byteCount: ChunkBatch.byteCount)
    var sequence: UInt64 = 0
    /// Which chunks it holds, ascending; they need not be neighbours.
    var indices: [UInt64] = []
    var ids: [Digest] = []
    /// Parts to be hashed, or frames to be compressed, that are not done.
    var pending = 0

    func memory(_ slots: Range<Int>, chunkBytes: Int) -> UnsafeRawBufferPointer {
        unsafe UnsafeRawBufferPointer(
            rebasing: buffer.memory[slots.lowerBound * chunkBytes..<slots.upperBound * chunkBytes])
    }
}

/// A frame on its way into a pack.
struct PackedFrame: Sendable {
    enum Body: Sendable {
        case output(AlignedBuffer, count: Int)
        case bytes([UInt8])
    }
    var body: Body
    var plainBytes: Int
    var isCompressed: Bool
    var isNodes: Bool
    var objects: [PackFrame.Object]
}

/// Puts chunks and nodes into a store: deduplicated, compressed, packed. The caller is the reader.
final class ChunkPipeline: Sendable {
    struct Totals: Sendable {
        var chunksNew: UInt64 = 0
        var bytesNew: UInt64 = 0
        var bytesStored: UInt64 = 0
        var nodeBytes: UInt64 = 0
        var directoryBytes: UInt64 = 0
    }
    private enum Task {
        case hash(ChunkBatch, Range<Int>)
        case compress(ChunkBatch, [Int], AlignedBuffer)
    }
    private struct State {
        /// Batches and outputs are made when they are first needed: a small backup takes little memory.
        var free: [ChunkBatch] = []
        var unmadeBatches = ChunkPipeline.batchCount
        var hashing: [(ChunkBatch, Range<Int>)] = []
        var hashed: [UInt64: ChunkBatch] = [:]
        var nextToDedup: UInt64 = 0
        var compressing: [(ChunkBatch, [Int])] = []
        var outputs: [AlignedBuffer] = []
        var unmadeOutputs: Int
        var frames: [PackedFrame] = []
        var results: [(indices: [UInt64], ids: [Digest])] = []
        var nextSequence: UInt64 = 0
        var inFlight = 0
        /// No more batches come: workers and the dedup thread end when nothing is in flight.
        var isRead = false
        /// No more frames come: the pack thread ends after the last.
        var isPacked = false
        var failure: BackupError?
        var totals = Totals()

        init(outputCount: Int) { unmadeOutputs = outputCount }

        mutating func takeBatch() -> ChunkBatch? {
            if let batch = free.popLast() { return batch }
            guard unmadeBatches > 0 else { return nil }
            unmadeBatches -= 1
            return ChunkBatch()
        }

        mutating func takeOutput() -> AlignedBuffer? {
            if let output = outputs.popLast() { return output }
            guard unmadeOutputs > 0 else { return nil }
            unmadeOutputs -= 1
            return AlignedBuffer(byteCount: Compressor.bound(StoreLimits.frameMax))
        }
    }
    private static let batchCount = 5
    private static let frameQueueMax = 8

    let backend: any StoreBackend
    let chunkBytes: Int
    let chunksInBatch: Int
    private let effort: CompressionEffort
    private let monitor: Monitor<State>
    /// What this job has handed to the pack thread and is in no durable pack yet.
    let ownIDs = Mutex<Set<Digest>>([])
    private let threads = Mutex<[OwnThread]>([])
    private let packBytesTarget: Int

    init(
        backend: any StoreBackend, chunkBytes: UInt32, effort: CompressionEffort, workers: Int, packBytesTarget: Int
    ) throws(BackupError) {
        self.backend = backend
        self.chunkBytes = Int(chunkBytes)
        self.effort = effort
        self.packBytesTarget = packBytesTarget
        chunksInBatch = ChunkBatch.byteCount / Int(chunkBytes)
        monitor = Monitor(State(outputCount: workers + 3))
        do throws(SystemError) {
            for number in 0..<workers { try start("chunks-\(number)") { $0.work() } }
            try start("dedup") { $0.deduplicate() }
            try start("packs") { $0.pack() }
        } catch {
            let failed = BackupError(.io, error.description)
            fail(failed)
            join()
            throw failed
        }
    }

    private func start(_ name: String, _ body: @escaping @Sendable (ChunkPipeline) -> Void) throws(SystemError) {
        let thread = try OwnThread(name: name) { body(self) }
        threads.withLock { $0.append(thread) }
    }

    private func join() {
        for thread in threads.withLock({ $0 }) { thread.join() }
    }

    private func fail(_ error: BackupError) {
        monitor.change { if $0.failure == nil { $0.failure = error } }
    }

    // MARK: The reader's side

    /// An empty batch, and what came out of earlier ones meanwhile, in order.
    func nextBatch() throws(BackupError) -> (batch: ChunkBatch, done: [(indices: [UInt64], ids: [Digest])]) {
        let answer = try monitor.wait {
            (state) throws(BackupError) -> (ChunkBatch, [(indices: [UInt64], ids: [Digest])])? in
            if let failure = state.failure { throw failure }
            guard let batch = state.takeBatch() else { return nil }
            defer { state.results.removeAll(keepingCapacity: true) }
            return (batch, state.results)
        }
        guard let answer else { preconditionFailure("a wait without a deadline answers") }
        answer.0.indices.removeAll(keepingCapacity: true)
        return answer
    }

    /// Hands a filled batch over. - Precondition: it has at least one chunk.
    func submit(_ batch: ChunkBatch) {
        let count = batch.indices.count
        precondition(count > 0 && count <= chunksInBatch, "a batch of some chunks")
        let part = max(1, (1 << 20) / chunkBytes)
        batch.ids = Array(repeating: .zero, count: count)
        monitor.change { state in
            batch.sequence = state.nextSequence
            state.nextSequence += 1
            state.inFlight += 1
            let parts = stride(from: 0, to: count, by: part).map { $0..<min($0 + part, count) }
            batch.pending = parts.count
            for part in parts { state.hashing.append((batch, part)) }
        }
    }

    /// A batch that was not needed after all.
    func giveBack(_ batch: ChunkBatch) { monitor.change { $0.free.append(batch) } }

    /// Waits until all batches are through. - Returns: what came out since the last ``nextBatch()``, in order.
    func finishReading() throws(BackupError) -> [(indices: [UInt64], ids: [Digest])] {
        let done = try monitor.wait { (state) throws(BackupError) -> [(indices: [UInt64], ids: [Digest])]? in
            if let failure = state.failure { throw failure }
            state.isRead = true
            guard state.inFlight == 0 else { return nil }
            defer { state.results = [] }
            return state.results
        }
        return done ?? []
    }

    /// Hands a frame of nodes over; waits while many frames are queued.
    func put(nodes frame: PackedFrame) throws(BackupError) {
        _ = try monitor.wait { (state) throws(BackupError) -> Bool? in
            if let failure = state.failure { throw failure }
            guard state.frames.count < Self.frameQueueMax else { return nil }
            state.frames.append(frame)
            return true
        }
    }

    /// Makes all packs durable. After ``finishReading()``.
    func finish() throws(BackupError) -> Totals {
        monitor.change { $0.isPacked = true }
        join()
        return try monitor.withLock { (state) throws(BackupError) in
            if let failure = state.failure { throw failure }
            return state.totals
        }
    }

    /// Ends all threads. What was packed so far becomes durable where that can be: the next backup need not store it.
    func abandon(_ error: BackupError) {
        fail(error)
        join()
    }

    // MARK: Workers

    private func work() {
        let compressor: Compressor
        switch effort {
        case .standard: compressor = Compressor()
        case .level(let level): compressor = Compressor(level: level)
        }
        let scratch = AlignedBuffer(byteCount: StoreLimits.frameMax)
        while let task = nextTask() {
            switch task {
            case .hash(let batch, let slots): hash(batch, slots)
            case .compress(let batch, let slots, let output): compress(batch, slots, into: output, compressor, scratch)
            }
        }
    }

    /// Waits for something to do. - Returns: `nil` when there will be nothing more.
    private func nextTask() -> Task? {
        let answer: Task?? = monitor.wait { state -> Task?? in
            if state.failure != nil { return .some(nil) }
            if !state.compressing.isEmpty, let output = state.takeOutput() {
                let (batch, slots) = state.compressing.removeFirst()
                return .compress(batch, slots, output)
            }
            if !state.hashing.isEmpty {
                let (batch, slots) = state.hashing.removeFirst()
                return .hash(batch, slots)
            }
            return state.isRead && state.inFlight == 0 ? .some(nil) : nil
        }
        return answer ?? nil
    }

    private func hash(_ batch: ChunkBatch, _ slots: Range<Int>) {
        let ids = slots.map { unsafe ChunkID.of(batch.memory($0..<$0 + 1, chunkBytes: chunkBytes)) }
        monitor.change { state in
            batch.ids.replaceSubrange(slots, with: ids)
            batch.pending -= 1
            if batch.pending == 0 { state.hashed[batch.sequence] = batch }
        }
    }

    private func compress(
        _ batch: ChunkBatch, _ slots: [Int], into output: AlignedBuffer, _ compressor: borrowing Compressor,
        _ scratch: AlignedBuffer
    ) {
        let plainBytes = slots.count * chunkBytes
        let first = slots[0]
        var source = unsafe UnsafeRawBufferPointer(rebasing: scratch.memory[0..<plainBytes])
        if slots[slots.count - 1] - first == slots.count - 1 {
            unsafe source = batch.memory(first..<first + slots.count, chunkBytes: chunkBytes)
        } else {
            for (place, slot) in slots.enumerated() {
                let target = unsafe UnsafeMutableRawBufferPointer(
                    rebasing: scratch.memory[place * chunkBytes..<(place + 1) * chunkBytes])
                unsafe target.copyMemory(from: batch.memory(slot..<slot + 1, chunkBytes: chunkBytes))
            }
        }
        var count = unsafe compressor.compress(source, into: output.memory) ?? plainBytes
        // What hardly shrinks is kept plain: it is read back without work, and in parts.
        let isCompressed = count < plainBytes - plainBytes / 64
        if !isCompressed {
            unsafe output.memory.copyMemory(from: source)
            count = plainBytes
        }
        let objects = slots.map { PackFrame.Object(id: batch.ids[$0], length: UInt32(chunkBytes)) }
        let frame = PackedFrame(
            body: .output(output, count: count), plainBytes: plainBytes, isCompressed: isCompressed, isNodes: false,
            objects: objects)
        monitor.change { state in
            state.frames.append(frame)
            batch.pending -= 1
            if batch.pending == 0 { Self.release(batch, &state) }
        }
    }

    private static func release(_ batch: ChunkBatch, _ state: inout State) {
        state.inFlight -= 1
        state.free.append(batch)
    }

    // MARK: Deduplication

    private func deduplicate() {
        while true {
            let waiting = monitor.wait { state -> [ChunkBatch]? in
                if state.failure != nil { return [] }
                var batches: [ChunkBatch] = []
                while let batch = state.hashed.removeValue(forKey: state.nextToDedup) {
                    batches.append(batch)
                    state.nextToDedup += 1
                }
                if !batches.isEmpty { return batches }
                return state.isRead && state.inFlight == 0 ? [] : nil
            }
            guard let waiting, !waiting.isEmpty else { return }
            do throws(StoreError) {
                let isNew = try unknown(waiting.flatMap(\.ids))
                hand(on: waiting, isNew)
            } catch {
                fail(BackupError(error))
                return
            }
        }
    }

    /// For each id whether it has to be put into the store; those are counted as there from now on. A repeated id is
    /// new only the first time.
    func unknown(_ ids: [Digest]) throws(StoreError) -> [Bool] {
        var isNew = [Bool](repeating: false, count: ids.count)
        var seen = Set<Digest>()
        var places: [Int] = []
        // First our own, then the store's: an id leaves ours only when it is in a durable pack.
        ownIDs.withLock { own in
            for (place, id) in ids.enumerated() where !id.isZero && !own.contains(id) && seen.insert(id).inserted {
                places.append(place)
            }
        }
        for start in stride(from: 0, to: places.count, by: StoreLimits.batchMax) {
            let part = places[start..<min(start + StoreLimits.batchMax, places.count)]
            let known = try backend.known(part.map { ids[$0] })
            guard known.count == part.count else {
                throw StoreError(
                    .remote, "store \(backend.address) answered for \(known.count) of \(part.count) chunks")
            }
            for (place, isKnown) in zip(part, known) { isNew[place] = !isKnown }
        }
        ownIDs.withLock { own in
            for (place, id) in ids.enumerated() where isNew[place] { own.insert(id) }
        }
        return isNew
    }

    private func hand(on batches: [ChunkBatch], _ isNew: [Bool]) {
        let chunksInFrame = max(1, StoreLimits.frameMax / chunkBytes)
        monitor.change { state in
            var start = 0
            for batch in batches {
                let slots = batch.indices.indices.filter { isNew[start + $0] }
                start += batch.indices.count
                let groups = stride(from: 0, to: slots.count, by: chunksInFrame).map {
                    Array(slots[$0..<min($0 + chunksInFrame, slots.count)])
                }
                state.results.append((batch.indices, batch.ids))
                state.totals.chunksNew += UInt64(slots.count)
                state.totals.bytesNew += UInt64(slots.count * chunkBytes)
                batch.pending = groups.count
                for group in groups { state.compressing.append((batch, group)) }
                if groups.isEmpty { Self.release(batch, &state) }
            }
        }
    }

    // MARK: Packs

    private func pack() {
        let packer = Packer(pipeline: self, packBytesTarget: packBytesTarget)
        do throws(StoreError) {
            while true {
                let next: PackedFrame?? = monitor.wait { state -> PackedFrame?? in
                    if state.failure != nil { return .some(nil) }
                    if !state.frames.isEmpty { return state.frames.removeFirst() }
                    return state.isPacked ? .some(nil) : nil
                }
                guard let frame = next ?? nil else { break }
                try packer.add(frame)
                if case .output(let output, _) = frame.body { monitor.change { $0.outputs.append(output) } }
            }
            guard monitor.withLock({ $0.failure == nil }) else { return packer.keepWhatThereIs() }
            let packed = try packer.finish()
            monitor.change { state in
                state.totals.bytesStored = packed.bytesStored
                state.totals.nodeBytes = packed.nodeBytes
                state.totals.directoryBytes = packed.directoryBytes
            }
        } catch {
            packer.abandon()
            fail(BackupError(error))
        }
    }
}

/// The pack thread's own.
private final class Packer {
    private let pipeline: ChunkPipeline
    private var writer: PackWriter?
    private(set) var bytesStored: UInt64 = 0
    private(set) var nodeBytes: UInt64 = 0
    var directoryBytes: UInt64 { writer?.directoryBytes ?? 0 }

    init(pipeline: ChunkPipeline, packBytesTarget: Int) {
        self.pipeline = pipeline
        writer = PackWriter(backend: pipeline.backend, packBytesTarget: packBytesTarget) { (_, directory) in
            pipeline.ownIDs.withLock { own in
                for frame in directory.frames { for object in frame.objects { own.remove(object.id) } }
            }
        }
    }

    func add(_ frame: PackedFrame) throws(StoreError) {
        guard let writer else { return }
        switch frame.body {
        case .output(let output, let count):
            let bytes = unsafe UnsafeRawBufferPointer(rebasing: output.memory[0..<count])
            try unsafe add(frame, bytes, to: writer)
        case .bytes(let bytes):
            var failure: StoreError?
            unsafe bytes.withUnsafeBytes { memory in
                do throws(StoreError) { try unsafe add(frame, memory, to: writer) } catch { failure = error }
            }
            if let failure { throw failure }
        }
    }

    private func add(_ frame: PackedFrame, _ bytes: UnsafeRawBufferPointer, to writer: PackWriter) throws(StoreError) {
        if frame.isNodes { nodeBytes += UInt64(bytes.count) } else { bytesStored += UInt64(bytes.count) }
        try unsafe writer.add(
            PackWriter.Frame(
                bytes: bytes, plainBytes: frame.plainBytes, isCompressed: frame.isCompressed, isNodes: frame.isNodes,
                objects: frame.objects))
    }

    func finish() throws(StoreError) -> Packer {
        try writer?.finishPack()
        return self
    }

    /// Ends the pack that is being written, without an error: there is one already.
    func keepWhatThereIs() {
        do throws(StoreError) { try writer?.finishPack() } catch { abandon() }
    }

    func abandon() { writer?.abandon() }
}
