internal import ChunkTree
internal import Codecs
internal import Synchronization

// A point is for good, and everybody takes it for whole, so whoever keeps the store looks at its tree before it becomes
// visible. What it has in common with the point that it was made from need not be looked at: that one is visible, and
// its user, who was told of damage when the store was opened, has seen to it that it is whole. So the cost goes with
// what changed: for each chunk and node one look-up in the index, for each node two nodes read. Where damage was found
// since, all is looked at.
//
// Each look-up is an answer that has to hold (`expectAnswersHold`): what is taken out behind it is noticed.

extension LocalStore {
    /// Nodes that are read for one point: enough for 64 TiB of content in chunks of 64 KiB, and an end for trees that
    /// somebody made up.
    private static let checkedNodesMax = 1 << 22

    /// - Parameter base: what it has at the same place is not looked at.
    /// - Throws: `.missing` when something is not there, or damaged, `.io` when a node can't be read: what of it is not
    ///   whole when it is looked at once more is not deduplicated against any more then.
    func expectWhole(_ point: RestorePoint, base: TreeRoot?) throws(StoreError) {
        var walker = PointWalker(
            store: self, base: base, nodesMax: Self.checkedNodesMax, endsWhenUnreadable: true
        ) { [self] (ids, isNode) throws(StoreError) in try problems(with: ids, isNode: isNode) }
        let found: [PointProblem]?
        do throws(StoreError) { found = try walker.walk(point.content.root) } catch {
            // Where that part of the medium is lost, each that needs it would fail. A store that is away takes no note.
            if let node = walker.unreadableNode { try? recheck([node]) }
            throw error
        }
        guard let problem = found?.first else { return }
        // Nobody had noticed that, or the writer would have put it in: else each that needs it would be refused.
        if !walker.damagedNodes.isEmpty { try recheck(walker.damagedNodes) }
        throw StoreError(
            .missing,
            "restore point \(point.id) is refused, as not all that it needs is in store \(address): \(problem.text); "
                + "run it again: what was stored is used, and what is missing is put in")
    }

    /// - Throws: `.refused` for a point of a clock that is ahead.
    func expectTime(of point: RestorePoint) throws(StoreError) {
        let now = now
        guard point.isFromFuture(at: now) else { return }
        let hours = (point.content.time - now) / 3_600_000_000_000
        throw StoreError(
            .refused,
            "restore point \(point.id) is refused, as its time is \(hours) hours ahead of the clock of the host that "
                + "keeps store \(address): set the clocks right, and run it again; what was stored is used")
    }

    /// The tree of the point that it was made from.
    func base(of point: RestorePoint) throws(StoreError) -> TreeRoot? {
        guard let parent = point.content.parent, ObjectName.isValid(parent, as: .point) else { return nil }
        do throws(StoreError) {
            let (_, size) = try open(.point, parent)
            return try self.point(StoredObject(name: parent, byteCount: size)).content.root
        } catch {
            guard [.missing, .corrupt, .unsupported, .io].contains(error.code) else { throw error }
            return nil
        }
    }

    private func problems(with ids: [Digest], isNode: Bool) throws(StoreError) -> [PointProblem?] {
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
            let what = isNode ? "node" : "chunk"
            return isKnown ? nil : PointProblem("\(what) \(id) is not in the store, or damaged there")
        }
    }
}
