internal import BackupStore
internal import BlockIO
internal import ChunkTree
internal import Codecs
internal import Geometry
internal import LinuxSystem

/// Frames to be read, and what of each goes where.
struct FrameTask: Sendable {
    struct Piece: Sendable {
        var id: Digest
        /// Place in the frame's plain bytes.
        var offset: Int
        /// Length of the whole chunk, which is what has the identity.
        var chunkBytes: Int
        /// How much of it is written, and where.
        var length: Int
        var target: UInt64
    }
    var frame: Location
    var pieces: [Piece]
}

/// Collects chunks for some 128 MiB of a disk, and sorts them by frame, so that each frame is read once for all of
/// them.
final class FramePlanner {
    private let store: any StoreBackend
    private let shape: TreeShape
    private var wanted: [(index: UInt64, id: Digest, length: Int, target: UInt64)] = []
    private static let windowBytes = 128 << 20

    init(store: any StoreBackend, shape: TreeShape) {
        self.store = store
        self.shape = shape
    }

    var isFull: Bool {
        wanted.count >= min(StoreLimits.batchMax, max(1, Self.windowBytes / Int(shape.chunkBytes)))
    }

    func add(_ index: UInt64, _ id: Digest, length: Int, at target: UInt64) {
        wanted.append((index, id, length, target))
    }

    func flush(to engine: FrameEngine) throws(BackupError) {
        guard !wanted.isEmpty else { return }
        let ids = wanted.map(\.id)
        let places = try onStore { () throws(StoreError) in try store.locate(ids) }
        struct Key: Hashable {
            var pack: Digest
            var offset: UInt32
        }
        var order: [Key: Int] = [:]
        var tasks: [FrameTask] = []
        for (chunk, place) in zip(wanted, places) {
            let position = chunk.index * UInt64(shape.chunkBytes)
            guard let place else {
                throw BackupError(
                    .store(.missing),
                    "chunk \(chunk.id), for byte \(position) of the disk, is not in store \(store.address): "
                        + "run `godwit store repair` where the store is"
                )
            }
            guard place.isSound, !place.isNode, place.length == shape.chunkBytes else {
                throw BackupError(
                    .store(.corrupt),
                    "chunk \(chunk.id), for byte \(position) of the disk, has a place in the index that cannot be")
            }
            let piece = FrameTask.Piece(
                id: chunk.id, offset: Int(place.offset), chunkBytes: Int(place.length), length: chunk.length,
                target: chunk.target)
            let key = Key(pack: place.pack, offset: place.frameOffset)
            if let number = order[key] {
                let frame = tasks[number].frame
                // One frame has one length, whatever a peer says.
                guard frame.plainBytes == place.plainBytes, frame.storedBytes == place.storedBytes,
                    frame.isCompressed == place.isCompressed
                else {
                    throw BackupError(
                        .store(.corrupt),
                        "the index of store \(store.address) contradicts itself about the frame at byte "
                            + "\(place.frameOffset) of pack \(place.pack): run `godwit store repair` there")
                }
                tasks[number].pieces.append(piece)
            } else {
                order[key] = tasks.count
                tasks.append(FrameTask(frame: place, pieces: [piece]))
            }
        }
        wanted.removeAll(keepingCapacity: true)
        for task in tasks { try engine.submit(task) }
    }
}

/// Threads that read frames, decompress them, check each chunk, and write.
final class FrameEngine: Sendable {
    private enum Task {
        case frame(FrameTask)
        case zeroes(ByteRange)
    }
    private struct State {
        var tasks: [Task] = []
        var isLast = false
        var failure: BackupError?
        var statistics = RestoreStatistics()
    }
    private static let queueMax = 32
    private static let zeroBytes = 1 << 20

    private let store: any StoreBackend
    private let writer: any ChunkWriter
    private let monitor = Monitor(State())
    private let threads: Monitor<[OwnThread]>

    init(store: any StoreBackend, writer: any ChunkWriter, workers: Int) throws(BackupError) {
        self.store = store
        self.writer = writer
        threads = Monitor([])
        do throws(SystemError) {
            for number in 0..<workers {
                let thread = try OwnThread(name: "restore-\(number)") { self.work() }
                threads.withLock { $0.append(thread) }
            }
        } catch {
            let failed = BackupError(.io, error.description)
            abandon(failed)
            throw failed
        }
    }

    func submit(_ task: FrameTask) throws(BackupError) { try submit(.frame(task)) }

    func submit(zeroes: [ByteRange]) throws(BackupError) {
        for range in zeroes { try submit(.zeroes(range)) }
    }

    private func submit(_ task: Task) throws(BackupError) {
        _ = try monitor.wait { (state) throws(BackupError) -> Bool? in
            if let failure = state.failure { throw failure }
            guard state.tasks.count < Self.queueMax else { return nil }
            state.tasks.append(task)
            return true
        }
    }

    func finish() throws(BackupError) -> RestoreStatistics {
        monitor.change { $0.isLast = true }
        for thread in threads.withLock({ $0 }) { thread.join() }
        return try monitor.withLock { (state) throws(BackupError) in
            if let failure = state.failure { throw failure }
            return state.statistics
        }
    }

    func abandon(_ error: BackupError) {
        monitor.change { if $0.failure == nil { $0.failure = error } }
        for thread in threads.withLock({ $0 }) { thread.join() }
    }

    // MARK: Workers

    private func work() {
        let decompressor = Decompressor()
        let stored = AlignedBuffer(byteCount: StoreLimits.readMax)
        let plain = AlignedBuffer(byteCount: max(StoreLimits.frameMax, Self.zeroBytes))
        while let task = next() {
            do throws(BackupError) {
                switch task {
                case .frame(let task): try restore(task, decompressor, stored, plain)
                case .zeroes(let range): try writeZeroes(range, plain)
                }
            } catch {
                monitor.change { if $0.failure == nil { $0.failure = error } }
                return
            }
        }
    }

    private func next() -> Task? {
        let answer: Task?? = monitor.wait { state -> Task?? in
            if state.failure != nil { return .some(nil) }
            if !state.tasks.isEmpty { return state.tasks.removeFirst() }
            return state.isLast ? .some(nil) : nil
        }
        return answer ?? nil
    }

    private func restore(
        _ task: FrameTask, _ decompressor: borrowing Decompressor, _ stored: AlignedBuffer, _ plain: AlignedBuffer
    ) throws(BackupError) {
        let frame = task.frame
        let memory = try unsafe plainBytes(of: frame, decompressor, stored, plain)
        var written: UInt64 = 0
        var run: (source: Int, target: UInt64, count: Int)?
        for piece in task.pieces {
            let chunk = unsafe UnsafeRawBufferPointer(rebasing: memory[piece.offset..<piece.offset + piece.chunkBytes])
            guard unsafe ChunkID.of(chunk) == piece.id else {
                throw BackupError(
                    .store(.corrupt),
                    "chunk \(piece.id) in pack \(frame.pack) of store \(store.address) is damaged: verify the store")
            }
            written += UInt64(piece.length)
            // Neighbours are written together.
            if let last = run, last.source + last.count == piece.offset,
                last.target + UInt64(last.count) == piece.target
            {
                run = (last.source, last.target, last.count + piece.length)
                continue
            }
            if let last = run { try unsafe write(last, memory) }
            run = (piece.offset, piece.target, piece.length)
        }
        if let last = run { try unsafe write(last, memory) }
        monitor.withLock { state in
            state.statistics.bytesRestored += written
            state.statistics.bytesRead += UInt64(frame.storedBytes)
        }
    }

    private func write(
        _ run: (source: Int, target: UInt64, count: Int), _ memory: UnsafeRawBufferPointer
    ) throws(BackupError) {
        let part = unsafe UnsafeRawBufferPointer(rebasing: memory[run.source..<run.source + run.count])
        try unsafe writer.write(at: run.target, from: part)
    }

    private func plainBytes(
        of frame: Location, _ decompressor: borrowing Decompressor, _ stored: AlignedBuffer, _ plain: AlignedBuffer
    ) throws(BackupError) -> UnsafeRawBufferPointer {
        let source = unsafe UnsafeMutableRawBufferPointer(rebasing: stored.memory[..<Int(frame.storedBytes)])
        let piece = ObjectPiece(
            kind: .pack, name: frame.pack.description, offset: UInt64(frame.frameOffset), count: source.count)
        do throws(StoreError) { try unsafe store.read([piece], into: source) } catch { throw BackupError(error) }
        guard frame.isCompressed else { return UnsafeRawBufferPointer(source) }
        let target = unsafe UnsafeMutableRawBufferPointer(rebasing: plain.memory[..<Int(frame.plainBytes)])
        guard unsafe decompressor.decompress(UnsafeRawBufferPointer(source), into: target) == target.count else {
            throw BackupError(
                .store(.corrupt),
                "the frame at byte \(frame.frameOffset) of pack \(frame.pack) in store \(store.address) is damaged: "
                    + "verify the store")
        }
        return UnsafeRawBufferPointer(target)
    }

    private func writeZeroes(_ range: ByteRange, _ memory: AlignedBuffer) throws(BackupError) {
        let count = Int(min(range.count, UInt64(Self.zeroBytes)))
        let part = unsafe UnsafeMutableRawBufferPointer(rebasing: memory.memory[..<count])
        _ = unsafe part.initializeMemory(as: UInt8.self, repeating: 0)
        let zeroes = UnsafeRawBufferPointer(part)
        var done: UInt64 = 0
        while done < range.count {
            let part = Int(min(UInt64(count), range.count - done))
            try unsafe writer.write(at: range.offset + done, from: UnsafeRawBufferPointer(rebasing: zeroes[..<part]))
            done += UInt64(part)
        }
    }
}
