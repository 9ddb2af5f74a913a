public import BackupStore
internal import BlockIO
internal import ChunkTree
internal import Codecs
public import LinuxSystem
internal import Synchronization

/// What a verification found.
public struct VerifyReport: Codable, Hashable, Sendable {
    public var points = 0
    public var packs = 0
    public var bytesRead: UInt64 = 0
    public var chunks: UInt64 = 0
    public var nodes: UInt64 = 0
    public var indexEntries: UInt64 = 0
    /// Packs that no index names: left by a backup that did not end; harmless, the next backup takes them up.
    public var unusedPacks = 0
    /// What is wrong, one sentence each; the first thousand.
    public var problems: [String] = []
    public var problemCount = 0
    /// Of the problems, those that tell only that something could not be read: it may be right.
    public var unreadableCount = 0
    /// Restore points that can't be restored in whole.
    public var damagedPoints: [String] = []
    /// The store knows of the damage now: nothing new is built on it.
    public var isNoted = false
    public var durationNanoseconds: UInt64 = 0
    public init() {}

    public var isSound: Bool { problemCount == 0 }
    static let problemsMax = 1000

    mutating func add(_ problem: String, isUnreadable: Bool = false) {
        problemCount += 1
        if isUnreadable { unreadableCount += 1 }
        if problems.count < Self.problemsMax { problems.append(problem) }
    }
}

/// Reads a whole store and checks everything in it: packs with each chunk and node, that the index says of them what
/// they hold, and that each restore point's tree is complete. Memory does not grow with the store's content, only (a
/// little) with its number of packs.
public struct VerifyJob: Sendable {
    /// Do not decompress packs: checksums only.
    public var isQuick = false
    public var workers = 0

    public init() {}

    public func run(
        store: any StoreBackend, clock: any TimeSource = SystemTime(),
        progress: (_ done: UInt64, _ total: UInt64) -> Bool = { _, _ in true }
    ) throws(BackupError) -> VerifyReport {
        let started = clock.monotonic()
        var report = VerifyReport()
        let packs = try onStore { () throws(StoreError) in try store.list(.pack) }
        // Sizes are a peer's word.
        let total = packs.reduce(UInt64(0)) { $0.addingReportingOverflow($1.byteCount).partialValue }
        guard progress(0, total) else { throw Self.stopped }
        var audit: IndexAudit?
        if let local = store as? LocalStore {
            for pack in try onStore({ () throws(StoreError) in try local.misplacedPacks() }) {
                report.add("\(pack.path) is a pack's name in the wrong folder: 'godwit store repair' sees to it")
            }
        }
        if let local = store as? LocalStore { audit = try auditIndex(of: local, packs, &report) { progress(0, total) } }
        let found = try verifyPacks(store, packs, total, audit, &report, progress)
        // Before the points: should it be stopped there, what was found is not for nothing.
        if let local = store as? LocalStore, !found.damage.isEmpty {
            report.isNoted = (try? local.note(found.damage)) != nil
        }
        // Where the index can't be read in whole, each place that points need is compared with the pack.
        let places = PlaceCheck(
            store: store, listed: packs, damage: found.damage, suspects: audit == nil ? nil : found.misnamed)
        let notes = try (store as? LocalStore).map { local throws(BackupError) in
            try onStore { () throws(StoreError) in try local.lackingPoints() }
        }
        let points = try verifyPoints(store, places, &report) { progress(total, total) }
        if let local = store as? LocalStore, let notes {
            let isNoted = (try? points.note(in: local, notedBefore: notes)) != nil
            if !points.damaged.isEmpty { report.isNoted = isNoted && (report.isNoted || found.damage.isEmpty) }
        }
        if let audit {
            report.unusedPacks = packs.count { pack in Digest(hex: pack.name).map { !audit.names($0) } ?? false }
        }
        report.durationNanoseconds = clock.elapsed(since: started)
        return report
    }

    static var stopped: BackupError { BackupError(.cancelled, "the verification was stopped") }

    private func auditIndex(
        of store: LocalStore, _ packs: [StoredObject], _ report: inout VerifyReport, _ goesOn: () -> Bool
    ) throws(BackupError) -> IndexAudit {
        var problems: [StoreError] = []
        let audit = try onStore { () throws(StoreError) in
            try store.auditIndex(damaged: { problems.append($1) }, goesOn: goesOn)
        }
        guard let audit else { throw Self.stopped }
        for problem in problems { report.add(problem.message, isUnreadable: problem.code == .io) }
        report.indexEntries = audit.entryCount
        let places = PlaceCheck(store: store, listed: packs, damage: [:], suspects: [])
        for pack in audit.packs.sorted() {
            guard try !onStore({ () throws(StoreError) in try places.isThere(pack) }) else { continue }
            report.add("the index names pack \(pack), which is not there")
        }
        return audit
    }

    // MARK: Packs

    private func verifyPacks(
        _ store: any StoreBackend, _ packs: [StoredObject], _ total: UInt64, _ audit: IndexAudit?,
        _ report: inout VerifyReport, _ progress: (UInt64, UInt64) -> Bool
    ) throws(BackupError) -> PackQueue.Result {
        let queue = PackQueue(store: store, packs: packs, isQuick: isQuick, audit: audit)
        let count = min(max(1, packs.count), workers > 0 ? workers : processorCount())
        var threads: [OwnThread] = []
        do throws(SystemError) {
            for number in 0..<count { threads.append(try OwnThread(name: "verify-\(number)") { queue.work() }) }
        } catch {
            queue.stop()
            for thread in threads { thread.join() }
            throw BackupError(.io, error.description)
        }
        var isStopped = false
        while let done = queue.waitForProgress() {
            guard progress(done, total) else {
                isStopped = true
                queue.stop()
                break
            }
        }
        for thread in threads { thread.join() }
        if isStopped { throw Self.stopped }
        let result = queue.result
        if let failure = result.failure { throw BackupError(failure) }
        report.packs = packs.count
        report.bytesRead += result.bytesRead
        report.chunks = result.chunks
        report.nodes = result.nodes
        for problem in result.problems { report.add(problem) }
        report.problemCount += result.problemCount - result.problems.count
        report.unreadableCount += result.unreadableCount
        return result
    }

    // MARK: Points

    private func verifyPoints(
        _ store: any StoreBackend, _ places: PlaceCheck, _ report: inout VerifyReport, goesOn: () -> Bool
    ) throws(BackupError) -> PointCheck {
        let found = try PointCheck.run(store, places, goesOn: goesOn)
        guard let found else { throw Self.stopped }
        report.points = found.points
        report.damagedPoints = found.damaged
        report.bytesRead += found.bytesRead
        for problem in found.problems { report.add(problem.text, isUnreadable: problem.isUnreadable) }
        return found
    }
}

/// Walks the trees of all points of a store.
struct PointCheck {
    var points = 0
    /// Those of which more is known than that something can't be read now.
    var damaged: [String] = []
    /// Those of which nothing is wrong.
    var whole: [String] = []
    var problems: [PointProblem] = []
    var bytesRead: UInt64 = 0

    /// What is wrong with a point now; nothing with one that is not there any more.
    /// - Returns: `nil` when it was ended by `goesOn`.
    static func problems(
        of name: String, in store: LocalStore, goesOn: () -> Bool
    ) throws(StoreError) -> [PointProblem]? {
        // Whoever was told before looks again.
        try store.recheck([])
        let point: RestorePoint?
        do throws(StoreError) { point = try store.point(name) } catch {
            guard [.corrupt, .unsupported, .missing, .io].contains(error.code) else { throw error }
            if error.code == .missing { return [] }
            return [PointProblem(error.message, isUnreadable: error.code != .corrupt)]
        }
        guard let point else { return [] }
        let places = PlaceCheck(
            store: store, listed: try store.list(.pack), damage: try store.knownDamage(), suspects: [])
        return try withoutActuallyEscaping(goesOn) { (goesOn) throws(StoreError) in
            var walker = PointWalker(store: store) { (ids, isNode) throws(StoreError) in
                try places.problems(ids, isNode: isNode)
            }
            return try walker.walk(point.content.root, goesOn: goesOn)
        }
    }

    /// Notes what was found, so that nothing is built on what lacks something.
    func note(in store: LocalStore, notedBefore notes: [String: FileIdentity]) throws(StoreError) {
        try store.note(lacking: damaged, whole: whole, notedBefore: notes)
    }

    /// - Returns: `nil` when it was ended by `goesOn`.
    static func run(
        _ store: any StoreBackend, _ places: PlaceCheck, goesOn: () -> Bool
    ) throws(BackupError) -> PointCheck? {
        var check = PointCheck()
        let points = try onStore { () throws(StoreError) in
            try store.points { name, error in
                // One that was taken out since the list was made.
                if error.code == .missing { return }
                check.problems.append(PointProblem(error.message, isUnreadable: error.code == .io, of: name))
                if error.code != .unsupported, error.code != .io { check.damaged.append(name) }
            }
        }
        check.points = points.count + check.damaged.count
        // Points of one disk next to each other, so that neighbours share most.
        let ordered = points.sorted { ($0.content.disk, $0.content.time) < ($1.content.disk, $1.content.time) }
        return try withoutActuallyEscaping(goesOn) { (goesOn) throws(BackupError) in
            var walker = PointWalker(store: store) { (ids, isNode) throws(StoreError) in
                try places.problems(ids, isNode: isNode)
            }
            for point in ordered {
                let walked = try onStore { () throws(StoreError) in
                    try walker.walk(point.content.root, goesOn: goesOn)
                }
                guard let found = walked else { return nil }
                if found.contains(where: { !$0.isUnreadable }) { check.damaged.append(point.id) }
                if found.isEmpty { check.whole.append(point.id) }
                for problem in found {
                    let text = "restore point \(point.id): \(problem.text)"
                    check.problems.append(PointProblem(text, isUnreadable: problem.isUnreadable, of: point.id))
                }
            }
            check.bytesRead = walker.bytesRead
            return check
        }
    }
}
