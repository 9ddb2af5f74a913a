internal import ChunkTree
internal import Codecs
internal import DeltaStream
internal import Geometry
internal import LinuxSystem

/// The source's copy on its way: the stream, and the tree of what the target has once it has applied the stream.
final class OutgoingStream {
    let link: MigrationLink
    private let source: any MigrationSource
    private let tree: HashTreeFile
    private let stages: CopyStages
    private let usesThreads: Bool
    private var encoder: StreamEncoder
    private let chunkBytes: UInt64
    private let head: [UInt8]
    /// Bytes of data that were sent, before they were compressed.
    private(set) var changedBytes: UInt64 = 0

    init(
        source: any MigrationSource, tree: HashTreeFile, link: MigrationLink, level: Int32, usesThreads: Bool
    ) throws(MigrationError) {
        guard let header = StreamHeader(diskBytes: source.byteCount, alignment: tree.shape.chunkBytes) else {
            throw MigrationError(.source, "a disk of \(source.byteCount) bytes cannot be migrated")
        }
        self.source = source
        self.tree = tree
        self.link = link
        self.usesThreads = usesThreads
        chunkBytes = UInt64(tree.shape.chunkBytes)
        stages = CopyStages(source: source, tree: tree, level: level)
        var head: [UInt8] = []
        encoder = StreamEncoder(header, to: &head)
        self.head = head
    }

    /// Makes the target ready, and learns what it has.
    /// - Parameter compared: told up to where the target has read back its copy; may stop it.
    /// - Returns: bytes that it has of an earlier attempt.
    func begin(
        _ offer: MigrationOffer, attempt: String, compared: @escaping (UInt64) throws(MigrationError) -> Void
    ) throws(MigrationError) -> UInt64 {
        var reused: UInt64 = 0
        let tree = self.tree
        let reply = try link.call(.begin(offer, attempt: attempt)) { payload throws(MigrationError) in
            guard let run = LeafRun(parsing: payload, chunkCount: tree.shape.chunkCount) else {
                throw MigrationError(.protocolViolation, "the target told of chunks that the disk does not have")
            }
            for (offset, id) in run.ids.enumerated() {
                let index = run.first + UInt64(offset)
                try tree.setLeaf(index, id)
                if !id.isZero { reused += UInt64(tree.shape.length(of: index)) }
            }
            try compared(min((run.first + UInt64(run.ids.count)) * self.chunkBytes, offer.sizeBytes))
        }
        guard case .begun = reply else { throw MigrationError(.protocolViolation, "\(link.name) did not begin") }
        try link.append(head)
        return reused
    }

    /// Copies, and waits until the target has applied it all. - Returns: bytes that were looked at.
    func copy(
        _ kind: CopyWorkList.Kind, checking: () throws(MigrationError) -> Void, progress: (UInt64) -> Void
    ) throws(MigrationError) -> UInt64 {
        let list = CopyWorkList(kind, of: source, chunkBytes: chunkBytes)
        var looked: UInt64 = 0
        try CopyPass(stages: stages, usesThreads: usesThreads).run(
            next: { () throws(MigrationError) in try list.next() },
            send: { item throws(MigrationError) in
                try checking()
                switch item {
                case .data(let offset, let payload):
                    var bytes: [UInt8] = []
                    changedBytes += payload.plainBytes
                    encoder.append(payload, at: offset, to: &bytes)
                    try link.append(bytes)
                case .zeros(let range):
                    var bytes: [UInt8] = []
                    encoder.append(zeros: range, to: &bytes)
                    try link.append(bytes)
                case .looked(let count):
                    looked += count
                    progress(looked)
                }
            })
        try link.drain()
        return looked
    }

    /// Hashes what has changed, and has the target make durable what it got.
    /// - Returns: how long that took there, in nanoseconds: as the target says, and no longer than it took from here.
    func sync(_ time: any TimeSource) throws(MigrationError) -> UInt64 {
        _ = try tree.root()
        let start = time.monotonic()
        guard case .synced(let nanoseconds) = try link.call(.sync) else {
            throw MigrationError(.protocolViolation, "\(link.name) gave the wrong reply to a sync")
        }
        return min(nanoseconds, time.elapsed(since: start))
    }

    func roundTrip(_ time: any TimeSource) throws(MigrationError) -> UInt64 {
        let start = time.monotonic()
        try link.perform(.ping)
        return time.elapsed(since: start)
    }

    /// Ends the stream. - Returns: the digest of all of the disk.
    func finish() throws(MigrationError) -> Digest {
        let root = try tree.root()
        var bytes: [UInt8] = []
        encoder.finish(root: root, to: &bytes)
        try link.append(bytes)
        return root
    }
}
