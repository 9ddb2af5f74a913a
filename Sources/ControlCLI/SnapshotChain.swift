internal import AgentAPI

/// The line of states from the top of a disk down to its base.
struct SnapshotChain {
    /// Without the top: the top's parent first, the base last.
    let belowTop: [String]

    init(_ snapshots: [SnapshotStatus]) {
        var chain: [String] = []
        var next = snapshots.first { $0.isTop }?.parent
        // A parent is taken once: a damaged tree may have a circle.
        while let guid = next, !chain.contains(guid), let found = snapshots.first(where: { $0.guid == guid }) {
            chain.append(guid)
            next = found.parent
        }
        belowTop = chain
    }
}
