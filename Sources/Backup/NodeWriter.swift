internal import BackupStore
internal import ChunkTree
internal import Codecs

/// Collects new tree nodes and hands those that the store does not have to the pipeline, many at a time.
final class NodeWriter {
    private let pipeline: ChunkPipeline
    private var waiting: [(id: Digest, bytes: [UInt8])] = []
    private var waitingBytes = 0
    private static let batchBytes = 1 << 20

    init(pipeline: ChunkPipeline) { self.pipeline = pipeline }

    func add(_ id: Digest, _ node: TreeNode) throws(BackupError) {
        let bytes = node.encoded()
        waiting.append((id, bytes))
        waitingBytes += bytes.count
        if waitingBytes >= Self.batchBytes || waiting.count >= StoreLimits.batchMax { try flush() }
    }

    func flush() throws(BackupError) {
        guard !waiting.isEmpty else { return }
        let ids = waiting.map(\.id)
        let isNew = try onStore { () throws(StoreError) in try pipeline.unknown(ids) }
        var body: [UInt8] = []
        var objects: [PackFrame.Object] = []
        for (place, node) in waiting.enumerated() where isNew[place] {
            body += node.bytes
            objects.append(PackFrame.Object(id: node.id, length: UInt32(node.bytes.count)))
        }
        waiting.removeAll(keepingCapacity: true)
        waitingBytes = 0
        guard !objects.isEmpty else { return }
        // Hashes do not compress; plain, a node can be read by itself.
        try pipeline.put(
            nodes: PackedFrame(
                body: .bytes(body), plainBytes: body.count, isCompressed: false, isNodes: true, objects: objects))
    }
}
