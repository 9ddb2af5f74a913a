public import BackupStore
public import BlockIO
internal import ChunkTree
internal import Codecs
internal import DiskImage
internal import Geometry
public import LinuxSystem
internal import SystemPackage

/// What a restore did.
public struct RestoreStatistics: Codable, Hashable, Sendable {
    /// Size of the disk.
    public var byteCount: UInt64 = 0
    /// Bytes that are not zeros.
    public var bytesRestored: UInt64 = 0
    /// Bytes read from the store.
    public var bytesRead: UInt64 = 0
    public var durationNanoseconds: UInt64 = 0
    public var peakMemoryBytes: UInt64 = 0
    /// Names the whole content; every chunk was checked on the way.
    public var rootDigest = ""
    public init() {}

    public var bytesPerSecond: UInt64 {
        durationNanoseconds == 0 ? 0 : UInt64(Double(bytesRestored) * 1e9 / Double(durationNanoseconds))
    }
}

/// Makes a disk or a raw file of a restore point. It is built in a folder of its own beside the target and appears when
/// it is whole, checked and durable; what a killed restore left is removed by the next one to the same place.
public struct RestoreJob: Sendable {
    public var point: RestorePoint
    public var target: RestoreTarget
    /// Threads that read, decompress, check and write; 0: chosen by the number of processors.
    public var workers = 0

    public init(point: RestorePoint, target: RestoreTarget) {
        self.point = point
        self.target = target
    }

    /// - Parameter progress: called now and then with bytes of the disk done and in all; `false` stops.
    public func run(
        store: any StoreBackend, in fs: any FileSystem, clock: any TimeSource = SystemTime(),
        progress: (_ done: UInt64, _ total: UInt64) -> Bool = { _, _ in true }
    ) throws(BackupError) -> RestoreStatistics {
        let started = clock.monotonic()
        let shape = point.content.root.shape
        guard shape.chunkBytes == store.info.chunkBytes else {
            throw BackupError(.store(.corrupt), "restore point \(point.id) has another chunk size than its store")
        }
        let workspace = try prepare(in: fs)
        let partial = workspace.contentPath
        var statistics = RestoreStatistics()
        do throws(BackupError) {
            switch target {
            case .raw: statistics = try restoreRaw(to: partial, store, fs, progress)
            case .disk(_, let clusterSize, let version):
                var options = CreateOptions(byteCount: shape.byteCount, clusterSize: clusterSize)
                options.version = version
                options.isRounded = false
                var outcome: Result<RestoreStatistics, BackupError>?
                let failure = DiskError(.io, "the restore failed", path: partial)
                do throws(DiskError) {
                    try buildDisk(at: partial, options: options, in: fs) { (builder) throws(DiskError) in
                        let sink = DiskSink(builder: builder, chunkBytes: shape.chunkBytes)
                        do throws(BackupError) {
                            outcome = .success(try fill(sink, from: store, progress))
                        } catch {
                            outcome = .failure(error)
                            throw failure
                        }
                    }
                } catch {
                    // The cause, not its wrapping.
                    if case .failure(let cause) = outcome { throw cause }
                    throw BackupError(error)
                }
                if case .success(let done) = outcome { statistics = done }
            }
            try workspace.show(replacesEmptyFolder: target.isFolder)
        } catch {
            workspace.end()
            throw error
        }
        statistics.byteCount = shape.byteCount
        statistics.rootDigest = point.content.root.digest.description
        statistics.durationNanoseconds = clock.elapsed(since: started)
        statistics.peakMemoryBytes = peakMemoryBytes()
        return statistics
    }

    private func restoreRaw(
        to path: String, _ store: any StoreBackend, _ fs: any FileSystem, _ progress: (UInt64, UInt64) -> Bool
    ) throws(BackupError) -> RestoreStatistics {
        let shape = point.content.root.shape
        let file = try onHost { () throws(SystemError) in
            let file = try fs.open(path, OpenMode(writable: true, creation: .exclusive))
            // Before anything is written: a file system with smaller files says so at once.
            try file.truncate(to: shape.byteCount)
            return file
        }
        let statistics = try fill(RawSink(file: file, chunkBytes: shape.chunkBytes), from: store, progress)
        try onHost { () throws(SystemError) in try file.synchronize() }
        return statistics
    }

    // MARK: Names

    /// Sees to it that the target is free and nobody else restores to it.
    private func prepare(in fs: any FileSystem) throws(BackupError) -> RestoreWorkspace {
        let path = target.path
        let store: String? = try onStore { () throws(StoreError) -> String? in
            try LocalStore.store(holding: path, in: fs)
        }
        if let store {
            throw BackupError(.invalid, "\(path) is inside of the store \(store): restore to another place")
        }
        switch try onHost({ () throws(SystemError) -> FileKind? in try fs.kind(of: path) }) {
        case .blockDevice:
            throw BackupError(
                .invalid,
                "\(path) is a block device, and a restore makes a file: give a new file's name, and write that to the "
                    + "device with dd(1) when it is whole")
        case .stream:
            throw BackupError(.invalid, "\(path) is no place for a file: a restore writes in no order; give a new name")
        default: break
        }
        try RestoreWorkspace.clear(beside: path, in: fs)
        let isInTheWay = try onHost { () throws(SystemError) in try isTaken(path, fs) }
        guard !isInTheWay else {
            throw BackupError(.exists, "\(path) exists already: give a new name, or remove it first")
        }
        let workspace = try RestoreWorkspace(beside: path, in: fs)
        return workspace
    }

    private func isTaken(_ path: String, _ fs: any FileSystem) throws(SystemError) -> Bool {
        let folder = Self.folderPart(of: path)
        // Also a link that leads nowhere is in the way.
        let name = PathText.lastPart(of: path)
        guard try fs.isTaken(PathText.join(folder, name)) else { return false }
        // An empty folder may be there: renaming replaces it. A link to one it does not.
        guard target.isFolder, try fs.isFolder(path) else { return true }
        let root = try fs.resolve(folder)
        guard try fs.resolve(path).isSame(as: PathText.join(root, name)) else { return true }
        return try !fs.list(path).isEmpty
    }

    static func folderPart(of path: String) -> String {
        PathText.parent(of: path)
    }

    // MARK: Content

    /// Goes through the tree in windows: places the chunks, looks them up, and hands out one task a frame.
    private func fill(
        _ sink: some ChunkSink, from store: any StoreBackend, _ progress: (UInt64, UInt64) -> Bool
    ) throws(BackupError) -> RestoreStatistics {
        var sink = sink
        let root = point.content.root
        let threads = workers > 0 ? workers : processorCount() + 1
        let engine = try FrameEngine(store: store, writer: sink.writer, workers: threads)
        let reader = TreeReader(backend: store, ahead: 31)
        let planner = FramePlanner(store: store, shape: root.shape)
        do throws(BackupError) {
            guard progress(0, root.shape.byteCount) else { throw Self.stopped }
            try root.forEachChunk(
                read: { (id, level) throws(BackupError) in
                    try onStore { () throws(StoreError) in try reader.read(id, level) }
                },
                { (index, id) throws(BackupError) in
                    let length = root.shape.length(of: index)
                    let place = try sink.place(index, length: length)
                    planner.add(index, id, length: length, at: place)
                    guard planner.isFull else { return true }
                    try engine.submit(zeroes: sink.takeZeroes())
                    try planner.flush(to: engine)
                    guard progress(index * UInt64(root.shape.chunkBytes), root.shape.byteCount) else {
                        throw Self.stopped
                    }
                    return true
                })
            try sink.finishPlacing()
            try engine.submit(zeroes: sink.takeZeroes())
            try planner.flush(to: engine)
            var statistics = try engine.finish()
            statistics.bytesRead += reader.bytesRead
            _ = progress(root.shape.byteCount, root.shape.byteCount)
            return statistics
        } catch {
            engine.abandon(error)
            throw error
        }
    }

    private static var stopped: BackupError { BackupError(.cancelled, "the restore was stopped") }
}
