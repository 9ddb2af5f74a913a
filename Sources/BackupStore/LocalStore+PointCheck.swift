internal import ChunkTree
internal import Codecs
internal import Synchronization

// A point is for good, and everybody takes it for whole, so whoever keeps the store looks at its tree before it becomes
// visible. What it has in common with the point that it was made from need not be looked at: that one is visible. So
// the cost goes with what changed: for each chunk one look-up in the index, for each node above it two nodes read.

extension LocalStore {
    /// Nodes that are read for one point: enough for 64 TiB of content in chunks of 64 KiB, and an end for trees that
    /// somebody made up.
    private static let checkedNodesMax = 1 << 22

    /// - Throws: `.missing` when something is not there, or damaged.
    func expectWhole(_ point: RestorePoint) throws(StoreError) {
        var walker = PointWalker(
            store: self, base: try base(of: point), nodesMax: Self.checkedNodesMax, endsWhenUnreadable: true
        ) { [self] (ids, isNode) throws(StoreError) in
            // A node is read, which tells more.
            isNode ? [nil] : try problems(withChunks: ids)
        }
        guard let problem = try walker.walk(point.content.root)?.first else { return }
        throw StoreError(
            .missing,
            "restore point \(point.id) is refused, as not all that it needs is in store \(address): \(problem)")
    }

    /// - Throws: `.refused` for a point of a clock that is ahead.
    func expectTime(of point: RestorePoint) throws(StoreError) {
        guard point.isFromFuture(at: now) else { return }
        let hours = (point.content.time - now) / 3_600_000_000_000
        throw StoreError(
            .refused,
            "restore point \(point.id) is refused, as its time is \(hours) hours ahead of the clock of the host that "
                + "keeps store \(address): set the clocks right, and run it again; what was stored is used")
    }

    /// The tree of the point that it was made from.
    private func base(of point: RestorePoint) throws(StoreError) -> TreeRoot? {
        guard let parent = point.content.parent, ObjectName.isValid(parent, as: .point) else { return nil }
        do throws(StoreError) {
            let (_, size) = try open(.point, parent)
            return try self.point(StoredObject(name: parent, byteCount: size)).content.root
        } catch {
            guard [.missing, .corrupt, .unsupported, .io].contains(error.code) else { throw error }
            return nil
        }
    }

    private func problems(withChunks ids: [Digest]) throws(StoreError) -> [String?] {
        var isKnown = try known(ids)
        let missing = ids.indices.filter { !isKnown[$0] }
        if !missing.isEmpty {
            // Another writer may have indexed or merged since, and a pack that was missing may have been put in again
            // under its name; this looks everywhere.
            let left = missing.map { ids[$0] }
            var there: Set<Digest> = []
            for pack in Set(try locate(left).compactMap { $0?.pack }) where try isThere(pack) { there.insert(pack) }
            state.withLock { state in for pack in there { state.census?.insert(pack) } }
            for segment in segments { try segment.noteThere(there) }
            for (place, found) in zip(missing, try known(left)) { isKnown[place] = found }
        }
        return zip(ids, isKnown).map { id, isKnown in
            isKnown ? nil : "chunk \(id) is not in the store, or damaged there"
        }
    }
}
