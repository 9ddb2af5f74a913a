internal import BackupStore
internal import ChunkTree
internal import Codecs

/// Which packs are there. Packs that a writer has put there since the list was made count, too.
struct PackPresence {
    private let store: any StoreBackend
    private var there: Set<Digest>
    private var missing: Set<Digest> = []

    init(store: any StoreBackend, listed packs: [StoredObject]) {
        self.store = store
        there = Set(packs.compactMap { Digest(hex: $0.name) })
    }

    mutating func has(_ place: Location) throws(StoreError) -> Bool {
        if there.contains(place.pack) { return true }
        if missing.contains(place.pack) { return false }
        do throws(StoreError) {
            _ = try store.contents(.pack, place.pack.description, byteCount: 1)
            there.insert(place.pack)
            return true
        } catch {
            guard error.code == .missing else { throw error }
            missing.insert(place.pack)
            return false
        }
    }
}

/// Checks that all a restore point needs is there and undamaged, given which frames of which packs are damaged.
struct PointWalker {
    private let store: any StoreBackend
    private var presence: PackPresence
    private let damagedPacks: [Digest: Set<UInt32>]
    private let reader: TreeReader
    /// The tree walked last, when it was whole, and its problems when it was not.
    private var previous: TreeRoot?
    private static let problemsMax = 20

    init(store: any StoreBackend, presence: PackPresence, damagedPacks: [Digest: Set<UInt32>]) {
        self.store = store
        self.presence = presence
        self.damagedPacks = damagedPacks
        reader = TreeReader(backend: store, ahead: 31)
    }

    var bytesRead: UInt64 { reader.bytesRead }

    /// - Returns: what is wrong with the point; the first few.
    mutating func walk(_ point: RestorePoint) throws(BackupError) -> [String] {
        let root = point.content.root
        var problems: [String] = []
        guard root.shape.chunkBytes == store.info.chunkBytes else {
            return ["it has chunks of \(root.shape.chunkBytes) bytes, the store of \(store.info.chunkBytes)"]
        }
        var base = TreeRoot.empty(root.shape)
        if let previous { base = previous }
        var batch: [Digest] = []
        var damage: [String] = []
        let reader = reader
        do throws(StoreError) {
            try root.forEachDifference(
                from: base,
                read: { (id, level) throws(StoreError) in try reader.read(id, level) },
                { (_, _, id) throws(StoreError) in
                    if !id.isZero { batch.append(id) }
                    guard batch.count >= 4096 else { return true }
                    try check(batch, &damage)
                    batch.removeAll(keepingCapacity: true)
                    return damage.count < Self.problemsMax
                })
            try check(batch, &damage)
        } catch {
            guard error.code == .corrupt || error.code == .missing || error.code == .io else {
                throw BackupError(error)
            }
            damage.append(error.message)
        }
        problems += damage
        // Only what is whole can stand for what others share with it.
        previous = problems.isEmpty ? root : nil
        return problems
    }

    private mutating func check(_ ids: [Digest], _ damage: inout [String]) throws(StoreError) {
        guard !ids.isEmpty else { return }
        let places = try store.locate(ids)
        for (id, place) in zip(ids, places) where damage.count < Self.problemsMax {
            guard let place, place.isSound else {
                damage.append("chunk \(id) is not in the store")
                continue
            }
            guard try presence.has(place) else {
                damage.append("chunk \(id) is in pack \(place.pack), which is not there")
                continue
            }
            if let frames = damagedPacks[place.pack], frames.contains(.max) || frames.contains(place.frameOffset) {
                damage.append("chunk \(id) is in a damaged part of pack \(place.pack)")
            }
        }
    }
}
