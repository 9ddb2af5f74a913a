import BlockIO
import Geometry
import LinuxSystem
import SystemPackage

/// All state of a simulated file system; its owner guards it with a mutex.
struct SimulatedWorld: Sendable {
    /// A change to a file's bytes that is not durable yet.
    struct PendingChange: Sendable {
        enum Kind: Sendable {
            case write([UInt8], at: UInt64)
            case truncate(UInt64)
            case reserve(ByteRange)
            case zero(ByteRange)
            case punch(ByteRange)
        }
        var kind: Kind
        var sequence: Int
    }
    struct File: Sendable {
        /// What reads see.
        var live = SimulatedContent()
        /// What is on the medium.
        var durable = SimulatedContent()
        /// The way from `durable` to `live`.
        var pending: [PendingChange] = []
        var handles = 0
    }
    struct Folder: Sendable {
        var live: [String: Int] = [:]
        var durable: [String: Int] = [:]
        /// The number of the last change of a name that is durable: older ones must not undo it.
        var settled: [String: Int] = [:]
    }
    enum Node: Sendable {
        case file(File)
        case folder(Folder)
    }
    /// A change of names that is not durable yet. All of its edits survive, or none.
    struct PendingNames: Sendable {
        struct Edit: Sendable {
            var folder: Int
            var name: String
            /// `nil`: the name goes.
            var node: Int?
        }
        var edits: [Edit]
        var sequence: Int
    }

    static let root = 0
    var nodes: [Int: Node] = [root: .folder(Folder())]
    var nextNode = 1
    var nextSequence = 0
    var pendingNames: [PendingNames] = []
    /// Leases by node: how many read it, or -1 for one that may change it.
    var leases: [Int: Int] = [:]

    var plan: FaultPlan?
    var planCount = 0
    /// What the observer wants of the call under way.
    var asked: FaultPlan.Effect?
    var counts: [FaultPlan.Call: Int] = [:]
    /// How often the cache of a file was dropped, by the path that it was opened by.
    var cacheDrops: [String: Int] = [:]
    var isStopped = false
    var capacityPages: Int?
    var usedPages = 0
    var directAlignment: Int
    var history: [String] = []
    var isTraced = false

    init(capacityPages: Int?, directAlignment: Int) {
        self.capacityPages = capacityPages
        self.directAlignment = directAlignment
    }

    // MARK: Faults

    enum Verdict { case go, stopAfterwards, fail(Errno), tear(Errno, UInt64), failDropping(Errno) }

    /// Counts a call and says what becomes of it. - Throws: when the power is off.
    mutating func enter(_ call: FaultPlan.Call, _ subject: String) throws(SystemError) -> Verdict {
        try requirePower(call.rawValue, subject)
        counts[call, default: 0] += 1
        if isTraced { history.append("\(call.rawValue) \(subject)") }
        if let asked {
            self.asked = nil
            return verdict(asked)
        }
        guard let plan, plan.calls.contains(call) else { return .go }
        planCount += 1
        guard planCount == plan.number || (plan.isLasting && planCount > plan.number) else { return .go }
        return verdict(plan.effect)
    }

    private mutating func verdict(_ effect: FaultPlan.Effect) -> Verdict {
        switch effect {
        case .fail(let errno): return .fail(errno)
        case .tear(let errno, let seed): return .tear(errno, seed)
        case .failDropping(let errno): return .failDropping(errno)
        case .stop:
            isStopped = true
            return .stopAfterwards
        }
    }

    func requirePower(_ operation: String, _ subject: String) throws(SystemError) {
        guard !isStopped else {
            throw SystemError(errno: SimulatedFileSystem.powerCut, operation: operation, subject: subject)
        }
    }

    /// Like ``enter(_:_:)`` for calls that do all or nothing.
    mutating func enterWhole(_ call: FaultPlan.Call, _ subject: String) throws(SystemError) -> Bool {
        switch try enter(call, subject) {
        case .go: return false
        case .stopAfterwards: return true
        case .fail(let errno), .tear(let errno, _), .failDropping(let errno):
            throw SystemError(errno: errno, operation: call.rawValue, subject: subject)
        }
    }

    func leave(_ stops: Bool, _ call: FaultPlan.Call, _ subject: String) throws(SystemError) {
        guard stops else { return }
        throw SystemError(errno: SimulatedFileSystem.powerCut, operation: call.rawValue, subject: subject)
    }

    // MARK: Files

    func file(_ node: Int) -> File {
        guard case .file(let file) = nodes[node] else { preconditionFailure("node \(node) is no file") }
        return file
    }

    /// Changes a file in place. The node is taken out meanwhile, or its dictionaries would be copied.
    mutating func withFile<R>(_ node: Int, _ body: (inout File) -> R) -> R {
        guard case .file(var file) = nodes.removeValue(forKey: node) else {
            preconditionFailure("node \(node) is no file")
        }
        let before = file.live.pages.count
        let result = body(&file)
        usedPages += file.live.pages.count - before
        nodes[node] = .file(file)
        return result
    }

    mutating func change(_ node: Int, _ kind: PendingChange.Kind) {
        nextSequence += 1
        let sequence = nextSequence
        withFile(node) { file in
            file.live.apply(kind)
            file.pending.append(PendingChange(kind: kind, sequence: sequence))
        }
    }

    /// - Throws: ENOSPC when the range would take more than there is.
    func requireSpace(_ node: Int, _ range: ByteRange, _ operation: String, _ subject: String) throws(SystemError) {
        guard let capacityPages else { return }
        guard usedPages + file(node).live.pagesMissing(in: range) <= capacityPages else {
            throw SystemError(errno: .noSpace, operation: operation, subject: subject)
        }
    }

    /// Pages that do not wait to be written are those of the medium again; what is known of the file stays.
    mutating func dropCache(_ node: Int) {
        withFile(node) { file in
            var content = file.durable
            for change in file.pending { content.take(change.kind.pages, from: file.live) }
            content.take(0..<0, from: file.live)
            file.live = content
        }
    }

    mutating func makeDurable(_ node: Int) {
        withFile(node) { file in
            for change in file.pending { file.durable.take(change.kind.pages, from: file.live) }
            file.pending = []
        }
    }

    // MARK: Leases

    /// - Returns: whether it was to be had.
    mutating func takeLease(of node: Int, _ kind: LeaseKind) -> Bool {
        let held = leases[node, default: 0]
        guard kind == .shared ? held >= 0 : held == 0 else { return false }
        leases[node] = kind == .shared ? held + 1 : -1
        return true
    }

    mutating func endLease(of node: Int, _ kind: LeaseKind) {
        let left = kind == .shared ? leases[node, default: 1] - 1 : 0
        leases[node] = left == 0 ? nil : left
    }

    // MARK: Names

    /// The parts of a path from the root.
    static func components(_ path: String) -> [String] {
        var parts: [String] = []
        for part in path.split(separator: "/") {
            if part == ".." { _ = parts.popLast() } else if part != "." { parts.append(String(part)) }
        }
        return parts
    }

    func folder(_ node: Int) -> Folder? {
        guard case .folder(let folder) = nodes[node] else { return nil }
        return folder
    }

    func find(_ path: String, _ operation: String) throws(SystemError) -> Int? {
        try requirePower(operation, path)
        var node = Self.root
        for part in Self.components(path) {
            guard let folder = folder(node), let next = folder.live[part] else { return nil }
            node = next
        }
        return node
    }

    func require(_ path: String, _ operation: String) throws(SystemError) -> Int {
        guard let node = try find(path, operation) else {
            throw SystemError(errno: .noSuchFileOrDirectory, operation: operation, subject: path)
        }
        return node
    }

    /// The folder and name of a path that may not exist yet.
    func place(_ path: String, _ operation: String) throws(SystemError) -> (folder: Int, name: String) {
        let parts = Self.components(path)
        guard let name = parts.last else { throw SystemError(errno: .fileExists, operation: operation, subject: path) }
        let parent = try require("/" + parts.dropLast().joined(separator: "/"), operation)
        guard folder(parent) != nil else {
            throw SystemError(errno: .notDirectory, operation: operation, subject: path)
        }
        return (parent, name)
    }

    mutating func add(_ node: Node) -> Int {
        defer { nextNode += 1 }
        nodes[nextNode] = node
        return nextNode
    }

    mutating func edit(_ edits: [PendingNames.Edit]) {
        nextSequence += 1
        for edit in edits { withFolder(edit.folder) { $0.live[edit.name] = edit.node } }
        pendingNames.append(PendingNames(edits: edits, sequence: nextSequence))
    }

    mutating func withFolder(_ node: Int, _ body: (inout Folder) -> Void) {
        guard case .folder(var folder) = nodes.removeValue(forKey: node) else {
            preconditionFailure("node \(node) is no folder")
        }
        body(&folder)
        nodes[node] = .folder(folder)
    }

    mutating func settle(_ change: PendingNames) {
        for edit in change.edits {
            // What was in a folder that is gone is gone with it.
            guard nodes[edit.folder] != nil else { continue }
            withFolder(edit.folder) { folder in
                guard folder.settled[edit.name, default: 0] < change.sequence else { return }
                folder.settled[edit.name] = change.sequence
                folder.durable[edit.name] = edit.node
            }
        }
    }

    mutating func makeNamesDurable(_ node: Int) {
        for change in pendingNames where change.edits.contains(where: { $0.folder == node }) { settle(change) }
        pendingNames.removeAll { $0.edits.contains { $0.folder == node } }
        dropUnreachable()
    }

    /// A name went: the bytes behind it go with the last handle.
    mutating func releaseSpace(of node: Int) {
        guard case .file(let file) = nodes[node], file.handles == 0, !isNamed(node) else { return }
        usedPages -= file.live.pages.count
    }

    func isNamed(_ node: Int) -> Bool {
        nodes.values.contains { candidate in
            guard case .folder(let folder) = candidate else { return false }
            return folder.live.values.contains(node)
        }
    }

    mutating func dropUnreachable() {
        var reachable: Set<Int> = [Self.root]
        for case .folder(let folder) in nodes.values {
            reachable.formUnion(folder.live.values)
            reachable.formUnion(folder.durable.values)
        }
        for change in pendingNames { reachable.formUnion(change.edits.compactMap(\.node)) }
        nodes = nodes.filter { number, node in
            if case .file(let file) = node, file.handles > 0 { return true }
            return reachable.contains(number)
        }
    }
}

extension SimulatedWorld.PendingChange.Kind {
    /// The pages it touches; open-ended where it cuts the file.
    var pages: Range<UInt64> {
        switch self {
        case .write(let bytes, let offset):
            SimulatedContent.pages(of: ByteRange(offset: offset, count: UInt64(bytes.count)))
        case .truncate(let size): size / UInt64(SimulatedContent.pageBytes)..<UInt64.max
        case .reserve(let range), .zero(let range), .punch(let range): SimulatedContent.pages(of: range)
        }
    }
}

extension SimulatedContent {
    mutating func apply(_ kind: SimulatedWorld.PendingChange.Kind) {
        switch kind {
        case .write(let bytes, let offset): bytes.withUnsafeBytes { write($0, at: offset) }
        case .truncate(let size): truncate(to: size)
        case .reserve(let range): reserve(range)
        case .zero(let range): zero(range)
        case .punch(let range): punch(range)
        }
    }
}
