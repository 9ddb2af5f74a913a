public import ChunkTree
public import Codecs

/// What is wrong with a tree, or a part of it.
public struct PointProblem: Hashable, Sendable {
    /// One sentence.
    public var text: String
    /// Something could not be read now: it may be right.
    public var isUnreadable: Bool
    /// The point, where it is a point's.
    public var point: String?

    public init(_ text: String, isUnreadable: Bool = false, of point: String? = nil) {
        self.text = text
        self.isUnreadable = isUnreadable
        self.point = point
    }
}

/// Checks that all a tree needs is there and undamaged. Each node is looked at once, however many trees, or places of
/// one tree, it is in: what has an identity and was found whole is whole.
public struct PointWalker {
    /// What is wrong with chunks or nodes, for each of some identities; `nil`: nothing.
    public typealias Check = (_ ids: [Digest], _ isNode: Bool) throws(StoreError) -> [PointProblem?]

    private let store: any StoreBackend
    private let reader: TreeReader
    private let baseReader: TreeReader
    private let check: Check
    private let base: TreeRoot?
    private let endsWhenUnreadable: Bool
    /// Nodes that may still be read.
    private var nodesLeft: Int
    /// Nodes that were found whole, with all below them, by identity; and those that were not.
    private var whole: Set<Digest> = []
    private var broken: [Digest: Finding] = [:]
    /// What one walk found.
    private var problems: [PointProblem] = []
    /// Nodes that turned out to be damaged, or not to be there, when they were read: the first few of all walks.
    public private(set) var damagedNodes: [Digest] = []
    /// The node whose reading failed and ended a walk.
    public private(set) var unreadableNode: Digest?
    private var goesOn: () -> Bool = { true }

    private static let problemsMax = 20
    private static let damagedNodesMax = 4096
    /// Some 20 MB, enough for 4 TiB of content in chunks of 64 KiB; then it begins to forget.
    private static let memoMax = 1 << 18
    /// Nodes of level 1 whose chunks are looked up together.
    private static let groupMax = 16

    /// - Parameters:
    ///   - base: a tree that is whole; what it has at the same place is not looked at. With it, nodes are read one by
    ///     one. A part of it that can't be read counts as if it were not there.
    ///   - nodesMax: with that many nodes read, the rest is taken for whole.
    ///   - endsWhenUnreadable: what can't be read ends the walk with an error, and is no problem of the tree.
    public init(
        store: any StoreBackend, base: TreeRoot? = nil, nodesMax: Int = .max, endsWhenUnreadable: Bool = false,
        check: @escaping Check
    ) {
        self.store = store
        self.endsWhenUnreadable = endsWhenUnreadable
        self.check = check
        self.base = base
        nodesLeft = nodesMax
        reader = TreeReader(backend: store, ahead: base == nil ? 31 : 0)
        baseReader = TreeReader(backend: store)
    }

    public var bytesRead: UInt64 { reader.bytesRead + baseReader.bytesRead }

    /// - Parameter goesOn: asked at every step; `false` ends the walk.
    /// - Returns: what is wrong with the tree, the first few; `nil` when the walk was ended.
    public mutating func walk(
        _ root: TreeRoot, goesOn: @escaping () -> Bool = { true }
    ) throws(StoreError) -> [PointProblem]? {
        guard root.shape.chunkBytes == store.info.chunkBytes else {
            let sizes = "\(root.shape.chunkBytes) bytes, the store of \(store.info.chunkBytes)"
            return [PointProblem("it has chunks of \(sizes)")]
        }
        guard !root.top.isZero else { return [] }
        problems = []
        self.goesOn = goesOn
        defer { self.goesOn = { true } }
        let place = Place(id: root.top, base: base.flatMap { Base($0, under: root.shape) })
        do throws(WalkEnd) { _ = try visit([place], level: root.shape.height) } catch {
            switch error {
            case .stopped: return nil
            case .failed(let error): throw error
            }
        }
        return problems
    }

    private enum WalkEnd: Error {
        case stopped
        case failed(StoreError)
    }

    /// What is known of a node with all below it, the worst of it.
    private enum Finding: Int, Comparable {
        case whole
        /// Not all of it could be read; nothing else is known against it.
        case unreadable
        case damaged

        init(_ problem: PointProblem) { self = problem.isUnreadable ? .unreadable : .damaged }

        static func < (left: Finding, right: Finding) -> Bool { left.rawValue < right.rawValue }
    }

    /// A node or chunk where it is in the tree, and what the base has there.
    private struct Place {
        var id: Digest
        var base: Base?
    }

    /// A node or chunk of the base: at its own place, or at the left end below a place of a higher level.
    private struct Base: Hashable {
        var id: Digest
        var level: Int

        init(id: Digest, level: Int) {
            self.id = id
            self.level = level
        }

        /// `nil` where the base has nothing to compare with.
        init?(_ root: TreeRoot, under shape: TreeShape) {
            guard root.shape.chunkBytes == shape.chunkBytes, root.shape.height <= shape.height, !root.top.isZero
            else { return nil }
            self.init(id: root.top, level: root.shape.height)
        }
    }

    /// - Returns: the worst of what is found of some nodes of a level.
    private mutating func visit(_ places: [Place], level: Int) throws(WalkEnd) -> Finding {
        var worst = Finding.whole
        var group: [(id: Digest, children: [Place])] = []
        var seen: Set<Digest> = []
        for place in places where !place.id.isZero && place.base != Base(id: place.id, level: level) {
            let id = place.id
            guard seen.insert(id).inserted, !whole.contains(id) else { continue }
            if let before = broken[id] {
                let what = before == .unreadable ? "can't be read" : "is damaged"
                add(
                    PointProblem(
                        "a part of it, below node \(id), \(what), as of another point",
                        isUnreadable: before == .unreadable))
                worst = max(worst, before)
                continue
            }
            guard goesOn() else { throw .stopped }
            guard nodesLeft > 0 else { continue }
            nodesLeft -= 1
            let node: TreeNode
            switch try read(id, level) {
            case .node(let found): node = found
            case .problem(let problem):
                add(problem)
                worst = max(worst, remember(id, Finding(problem)))
                continue
            }
            let children = children(of: node, place.base, level: level)
            if level > 1 {
                let below = try visit(children, level: level - 1)
                worst = max(worst, remember(id, below))
                continue
            }
            group.append((id, children))
            if group.count == Self.groupMax {
                worst = max(worst, try look(at: group))
                group = []
            }
        }
        return max(worst, try look(at: group))
    }

    private func children(of node: TreeNode, _ base: Base?, level: Int) -> [Place] {
        var places = node.children.map { Place(id: $0, base: nil) }
        guard let base else { return places }
        if base.level < level {
            places[0].base = base
        } else if let old = try? baseReader.read(base.id, level) {
            for (slot, id) in old.children.enumerated() where !id.isZero {
                places[slot].base = Base(id: id, level: level - 1)
            }
        }
        return places
    }

    private enum Read {
        case node(TreeNode)
        case problem(PointProblem)
    }

    private mutating func read(_ id: Digest, _ level: Int) throws(WalkEnd) -> Read {
        do throws(StoreError) {
            if let problem = try check([id], true)[0] { return .problem(problem) }
            return .node(try reader.read(id, level))
        } catch {
            guard [.corrupt, .missing, .io].contains(error.code) else { throw .failed(error) }
            if error.code == .io, endsWhenUnreadable {
                unreadableNode = id
                throw .failed(error)
            }
            if error.code != .io, damagedNodes.count < Self.damagedNodesMax { damagedNodes.append(id) }
            return .problem(PointProblem(error.message, isUnreadable: error.code == .io))
        }
    }

    /// Looks the chunks of some nodes of level 1 up.
    private mutating func look(at group: [(id: Digest, children: [Place])]) throws(WalkEnd) -> Finding {
        guard !group.isEmpty else { return .whole }
        let new = group.flatMap(\.children).filter { !$0.id.isZero && $0.base != Base(id: $0.id, level: 0) }
        let ids = Array(Set(new.map(\.id)))
        var bad: [Digest: Finding] = [:]
        do throws(StoreError) {
            for (id, problem) in zip(ids, try check(ids, false)) {
                guard let problem else { continue }
                bad[id] = Finding(problem)
                add(problem)
            }
        } catch { throw .failed(error) }
        var worst = Finding.whole
        for (id, children) in group {
            worst = max(worst, remember(id, children.compactMap { bad[$0.id] }.max() ?? .whole))
        }
        return worst
    }

    private mutating func remember(_ id: Digest, _ finding: Finding) -> Finding {
        if whole.count + broken.count >= Self.memoMax {
            whole.removeAll(keepingCapacity: true)
            broken.removeAll()
        }
        if finding == .whole { whole.insert(id) } else { broken[id] = finding }
        return finding
    }

    private mutating func add(_ problem: PointProblem) {
        if problems.count < Self.problemsMax { problems.append(problem) }
    }
}
