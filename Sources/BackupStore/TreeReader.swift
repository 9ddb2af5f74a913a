public import ChunkTree
public import Codecs
internal import Synchronization

/// Gets tree nodes out of a store, checked. Any thread.
///
/// Walks of whole trees ask for the nodes to the right as well, so that a peer is asked once for many.
public final class TreeReader: Sendable {
    private let backend: any StoreBackend
    private let ahead: Int
    private struct State {
        /// Places of nodes that are likely to be wanted, and the order in which they came.
        var places: [Digest: Location] = [:]
        /// Children of the last node of level 2, in order.
        var siblings: [Digest] = []
        var nodes: [Digest: TreeNode] = [:]
        var bytes: UInt64 = 0
    }
    private let state = Mutex(State())

    /// - Parameter ahead: how many nodes to the right are read together with one; 0 for scattered reads.
    public init(backend: any StoreBackend, ahead: Int = 0) {
        self.backend = backend
        self.ahead = ahead
    }

    /// Bytes of nodes that were read so far.
    public var bytesRead: UInt64 { state.withLock { $0.bytes } }

    public func read(_ id: Digest, _ level: Int) throws(StoreError) -> TreeNode {
        if let node = state.withLock({ $0.nodes.removeValue(forKey: id) }) {
            guard node.level == level else { throw wrong(id, "it has level \(node.level), not \(level)") }
            return node
        }
        var ids = [id]
        if ahead > 0, level == 1 {
            state.withLock { state in
                guard let place = state.siblings.firstIndex(of: id) else { return }
                ids += state.siblings[(place + 1)...].prefix(ahead).filter { state.places[$0] != nil && $0 != id }
            }
        }
        let nodes: [TreeNode]
        do throws(StoreError) { nodes = try load(ids, level) } catch {
            // What is wrong may be with one of the others, which nobody may ask for.
            guard ids.count > 1, [.corrupt, .missing, .io].contains(error.code) else { throw error }
            ids = [id]
            nodes = try load(ids, level)
        }
        guard let node = nodes.first else { throw wrong(id, "it is missing") }
        state.withLock { state in
            for (id, node) in zip(ids, nodes).dropFirst() { state.nodes[id] = node }
            // What a walk left behind is read again should it come back.
            if state.nodes.count > 4 * (ahead + 1) { state.nodes.removeAll() }
        }
        if ahead > 0, level == 2 { try expect(node.children.filter { !$0.isZero }) }
        return node
    }

    private func wrong(_ id: Digest, _ what: String) -> StoreError {
        StoreError(.corrupt, "tree node \(id) in store \(backend.address) is damaged: \(what)")
    }

    /// Looks up the places of nodes that a walk is going to want.
    private func expect(_ ids: [Digest]) throws(StoreError) {
        let places = try backend.locate(ids)
        state.withLock { state in
            state.siblings = ids
            state.places.removeAll(keepingCapacity: true)
            for (id, place) in zip(ids, places) { state.places[id] = place }
        }
    }

    private func load(_ ids: [Digest], _ level: Int) throws(StoreError) -> [TreeNode] {
        var places = state.withLock { state in ids.map { state.places[$0] } }
        if places.contains(nil) { places = try backend.locate(ids) }
        var pieces: [ObjectPiece] = []
        var found: [Location] = []
        for (id, place) in zip(ids, places) {
            guard let place else {
                throw StoreError(
                    .missing,
                    "tree node \(id) is not in store \(backend.address): run `godwit store repair` where the store is")
            }
            guard place.isSound, place.isNode, place.length <= UInt32(TreeNode.encodedMax) else {
                throw wrong(id, "it is no node")
            }
            found.append(place)
            pieces.append(Self.piece(place))
        }
        // In as many reads as it takes: where nodes lie in compressed frames, a whole frame is read for each.
        var nodes: [TreeNode] = []
        var bytes: [UInt8] = []
        var offset = 0
        var next = 0
        for ((id, place), piece) in zip(zip(ids, found), pieces) {
            if next == nodes.count {
                bytes = try read(Self.prefix(pieces[next...]), counting: &next)
                offset = 0
            }
            let plain = try FrameReader.object(place, stored: bytes[offset..<offset + piece.count], id)
            offset += piece.count
            guard TreeNode.id(ofEncoded: plain) == id else {
                throw wrong(id, "its bytes are not what its identity stands for")
            }
            do throws(FieldError) { nodes.append(try TreeNode(parsing: plain, level: level)) } catch {
                throw wrong(id, error.message)
            }
        }
        return nodes
    }

    /// The stored bytes that have to be read for a node: only its own when the frame is not compressed.
    private static func piece(_ place: Location) -> ObjectPiece {
        let name = place.pack.description
        guard place.isCompressed else {
            return ObjectPiece(
                kind: .pack, name: name, offset: UInt64(place.frameOffset) + UInt64(place.offset),
                count: Int(place.length))
        }
        return ObjectPiece(kind: .pack, name: name, offset: UInt64(place.frameOffset), count: Int(place.storedBytes))
    }

    /// As many as one read may have; one at least.
    private static func prefix(_ pieces: ArraySlice<ObjectPiece>) -> ArraySlice<ObjectPiece> {
        var total = 0
        var end = pieces.startIndex
        while end < pieces.endIndex, end == pieces.startIndex || total + pieces[end].count <= StoreLimits.readMax {
            total += pieces[end].count
            end += 1
        }
        return pieces[..<end]
    }

    private func read(
        _ pieces: ArraySlice<ObjectPiece>, counting count: inout Int
    ) throws(StoreError) -> [UInt8] {
        count += pieces.count
        let pieces = Array(pieces)
        let total = pieces.reduce(0) { $0 + $1.count }
        var bytes = [UInt8](repeating: 0, count: total)
        var failure: StoreError?
        unsafe bytes.withUnsafeMutableBytes { memory in
            do throws(StoreError) { try unsafe backend.read(pieces, into: memory) } catch { failure = error }
        }
        if let failure { throw failure }
        state.withLock { $0.bytes += UInt64(bytes.count) }
        return bytes
    }
}

enum FrameReader {
    /// The plain bytes of one object out of what was read for it.
    static func object(_ place: Location, stored: ArraySlice<UInt8>, _ id: Digest) throws(StoreError) -> [UInt8] {
        guard place.isCompressed else { return Array(stored) }
        let decompressor = Decompressor()
        var plain = [UInt8](repeating: 0, count: Int(place.plainBytes))
        let count = unsafe stored.withUnsafeBytes { source in
            unsafe plain.withUnsafeMutableBytes { unsafe decompressor.decompress(source, into: $0) }
        }
        guard count == plain.count else {
            throw StoreError(.corrupt, "the frame of \(id) at \(place.frameOffset) in pack \(place.pack) is damaged")
        }
        return Array(plain[Int(place.offset)..<Int(place.offset) + Int(place.length)])
    }
}
