internal import BackupStore
internal import Codecs

/// Whether what points need is at the places that the index names, given what is known of the packs.
final class PlaceCheck {
    private let store: any StoreBackend
    private let damage: [Digest: PackDamage]
    /// Packs whose places are compared with their directory; `nil`: all.
    private let suspects: Set<Digest>?
    private var there: Set<Digest>
    private var missing: Set<Digest> = []
    private var sizes: [Digest: UInt64] = [:]
    /// Directories that were read lately, by pack.
    private var directories: [(pack: Digest, places: [Digest: [Location]])] = []
    private static let directoriesMax = 16
    /// The frame that was read last.
    private var frame: (pack: Digest, offset: UInt32, bytes: [UInt8])?
    private let check = FrameCheck()

    init(
        store: any StoreBackend, listed packs: [StoredObject], damage: [Digest: PackDamage], suspects: Set<Digest>?
    ) {
        self.store = store
        self.damage = damage
        self.suspects = suspects
        var sizes: [Digest: UInt64] = [:]
        for pack in packs { if let name = Digest(hex: pack.name) { sizes[name] = pack.byteCount } }
        self.sizes = sizes
        there = Set(sizes.keys)
    }

    func problems(_ ids: [Digest], isNode: Bool) throws(StoreError) -> [PointProblem?] {
        var result: [PointProblem?] = []
        for (id, place) in zip(ids, try store.locate(ids)) { result.append(try problem(id, place, isNode)) }
        return result
    }

    private func problem(_ id: Digest, _ place: Location?, _ isNode: Bool) throws(StoreError) -> PointProblem? {
        let what = "\(isNode ? "node" : "chunk") \(id)"
        guard let place else { return PointProblem("\(what) is not in the store") }
        guard place.isSound, place.isNode == isNode, isNode || place.length == store.info.chunkBytes else {
            return PointProblem("the index has a place for \(what) that cannot be")
        }
        guard try isThere(place.pack) else {
            return PointProblem("\(what) is in pack \(place.pack), which is not there")
        }
        if let damage = damage[place.pack], damage.covers(place) {
            // Where the directory is lost, what is in the pack may be whole all the same.
            do throws(StoreError) {
                if damage.isWhole, try isWhole(id, place) { return nil }
            } catch {
                guard error.code == .io else { throw error }
                return PointProblem("\(what): \(error.message)", isUnreadable: true)
            }
            return PointProblem("\(what) is in a damaged part of pack \(place.pack)")
        }
        guard suspects?.contains(place.pack) ?? true else { return nil }
        guard try places(in: place.pack)[id]?.contains(place) == true else {
            return PointProblem("\(what) is not in pack \(place.pack), where the index has it")
        }
        return nil
    }

    /// Reads the object itself.
    /// - Throws: `.io` when it can't be read.
    private func isWhole(_ id: Digest, _ place: Location) throws(StoreError) -> Bool {
        if frame?.pack != place.pack || frame?.offset != place.frameOffset {
            let piece = ObjectPiece(
                kind: .pack, name: place.pack.description, offset: UInt64(place.frameOffset),
                count: Int(place.storedBytes))
            var bytes = [UInt8](repeating: 0, count: piece.count)
            var failure: StoreError?
            unsafe bytes.withUnsafeMutableBytes { memory in
                do throws(StoreError) { try unsafe store.read([piece], into: memory) } catch { failure = error }
            }
            if let failure {
                guard failure.code == .corrupt || failure.code == .missing else { throw failure }
                return false
            }
            frame = (place.pack, place.frameOffset, bytes)
        }
        guard let frame, frame.bytes.count == Int(place.storedBytes) else { return false }
        return unsafe frame.bytes.withUnsafeBytes { unsafe check.isWhole(id, at: place, $0) }
    }

    /// Packs that a writer has put there since the list was made count, too.
    func isThere(_ pack: Digest) throws(StoreError) -> Bool {
        if there.contains(pack) { return true }
        if missing.contains(pack) { return false }
        // Not by reading it: one that was taken out can still be read, and what could not be saved of it is lost.
        if let local = store as? LocalStore {
            if try local.isThere(pack) { there.insert(pack) }
        } else {
            for pack in try store.list(.pack) { if let name = Digest(hex: pack.name) { there.insert(name) } }
        }
        if there.contains(pack) { return true }
        missing.insert(pack)
        return false
    }

    private func places(in pack: Digest) throws(StoreError) -> [Digest: [Location]] {
        if let found = directories.first(where: { $0.pack == pack }) { return found.places }
        guard let size = sizes[pack] else { return [:] }
        var places: [Digest: [Location]] = [:]
        try store.packDirectory(pack.description, byteCount: size).forEachLocation(pack: pack) { id, place in
            places[id, default: []].append(place)
        }
        if directories.count == Self.directoriesMax { directories.removeFirst() }
        directories.append((pack, places))
        return places
    }
}
