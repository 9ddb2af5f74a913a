internal import BackupStore
internal import ChunkTree
internal import Codecs

/// Checks that all a tree needs is there and undamaged. Each node is looked at once, however many trees, or places of
/// one tree, it is in: what has an identity and was found whole is whole.
struct PointWalker {
    /// What is wrong with chunks or nodes, for each of some identities; `nil`: nothing.
    typealias Check = (_ ids: [Digest], _ isNode: Bool) throws(StoreError) -> [String?]

    private let store: any StoreBackend
    private let reader: TreeReader
    private let check: Check
    /// Nodes that were found whole, with all below them, by identity; and those that were not.
    private var whole: Set<Digest> = []
    private var broken: Set<Digest> = []
    /// What one walk found.
    private var problems: [String] = []
    private var goesOn: () -> Bool = { true }

    private static let problemsMax = 20
    /// Some 20 MB, enough for 4 TiB of content in chunks of 64 KiB; then it begins to forget.
    private static let memoMax = 1 << 18
    /// Nodes of level 1 whose chunks are looked up together.
    private static let groupMax = 16

    init(store: any StoreBackend, check: @escaping Check) {
        self.store = store
        self.check = check
        reader = TreeReader(backend: store, ahead: 31)
    }

    var bytesRead: UInt64 { reader.bytesRead }

    /// - Parameter goesOn: asked at every step; `false` ends the walk.
    /// - Returns: what is wrong with the tree, the first few; `nil` when the walk was ended.
    mutating func walk(
        _ root: TreeRoot, goesOn: @escaping () -> Bool = { true }
    ) throws(BackupError) -> [String]? {
        guard root.shape.chunkBytes == store.info.chunkBytes else {
            return ["it has chunks of \(root.shape.chunkBytes) bytes, the store of \(store.info.chunkBytes)"]
        }
        guard !root.top.isZero else { return [] }
        problems = []
        self.goesOn = goesOn
        defer { self.goesOn = { true } }
        do throws(WalkEnd) { _ = try visit([root.top], level: root.shape.height) } catch {
            switch error {
            case .stopped: return nil
            case .failed(let error): throw BackupError(error)
            }
        }
        return problems
    }

    private enum WalkEnd: Error {
        case stopped
        case failed(StoreError)
    }

    /// - Returns: whether each of some nodes of a level is whole with all below it.
    private mutating func visit(_ ids: [Digest], level: Int) throws(WalkEnd) -> Bool {
        var isWhole = true
        var group: [(id: Digest, node: TreeNode)] = []
        var seen: Set<Digest> = []
        for id in ids where !id.isZero && seen.insert(id).inserted {
            if whole.contains(id) { continue }
            if broken.contains(id) {
                add("a part of it, below node \(id), is damaged, as of another point")
                isWhole = false
                continue
            }
            guard goesOn() else { throw .stopped }
            guard let node = try read(id, level) else {
                isWhole = false
                continue
            }
            if level > 1 {
                let below = try visit(node.children, level: level - 1)
                isWhole = remember(id, below) && isWhole
                continue
            }
            group.append((id, node))
            if group.count == Self.groupMax {
                isWhole = try look(at: group) && isWhole
                group = []
            }
        }
        return try look(at: group) && isWhole
    }

    private mutating func read(_ id: Digest, _ level: Int) throws(WalkEnd) -> TreeNode? {
        do throws(StoreError) {
            if let problem = try check([id], true)[0] {
                add(problem)
            } else {
                return try reader.read(id, level)
            }
        } catch {
            guard [.corrupt, .missing, .io].contains(error.code) else { throw .failed(error) }
            add(error.message)
        }
        _ = remember(id, false)
        return nil
    }

    /// Looks the chunks of some nodes of level 1 up.
    private mutating func look(at group: [(id: Digest, node: TreeNode)]) throws(WalkEnd) -> Bool {
        guard !group.isEmpty else { return true }
        let ids = Array(Set(group.flatMap(\.node.children)).filter { !$0.isZero })
        var bad: Set<Digest> = []
        do throws(StoreError) {
            for (id, problem) in zip(ids, try check(ids, false)) {
                guard let problem else { continue }
                bad.insert(id)
                add(problem)
            }
        } catch { throw .failed(error) }
        var isWhole = true
        for (id, node) in group { isWhole = remember(id, bad.isDisjoint(with: node.children)) && isWhole }
        return isWhole
    }

    private mutating func remember(_ id: Digest, _ isWhole: Bool) -> Bool {
        if whole.count + broken.count >= Self.memoMax {
            whole.removeAll(keepingCapacity: true)
            broken.removeAll()
        }
        if isWhole { whole.insert(id) } else { broken.insert(id) }
        return isWhole
    }

    private mutating func add(_ problem: String) {
        if problems.count < Self.problemsMax { problems.append(problem) }
    }
}

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

    func problems(_ ids: [Digest], isNode: Bool) throws(StoreError) -> [String?] {
        var result: [String?] = []
        for (id, place) in zip(ids, try store.locate(ids)) { result.append(try problem(id, place, isNode)) }
        return result
    }

    private func problem(_ id: Digest, _ place: Location?, _ isNode: Bool) throws(StoreError) -> String? {
        let what = "\(isNode ? "node" : "chunk") \(id)"
        guard let place else { return "\(what) is not in the store" }
        guard place.isSound, place.isNode == isNode, isNode || place.length == store.info.chunkBytes else {
            return "the index has a place for \(what) that cannot be"
        }
        guard try isThere(place.pack) else { return "\(what) is in pack \(place.pack), which is not there" }
        if let damage = damage[place.pack], damage.covers(place) {
            // Where the directory is lost, what is in the pack may be whole all the same.
            guard damage.isWhole, try isWhole(id, place) else {
                return "\(what) is in a damaged part of pack \(place.pack)"
            }
            return nil
        }
        guard suspects?.contains(place.pack) ?? true else { return nil }
        guard try places(in: place.pack)[id]?.contains(place) == true else {
            return "\(what) is not in pack \(place.pack), where the index has it"
        }
        return nil
    }

    /// Reads the object itself.
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
                guard [.corrupt, .missing, .io].contains(failure.code) else { throw failure }
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
        do throws(StoreError) {
            _ = try store.contents(.pack, pack.description, byteCount: 1)
            there.insert(pack)
            return true
        } catch {
            guard error.code == .missing else { throw error }
            missing.insert(pack)
            return false
        }
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
