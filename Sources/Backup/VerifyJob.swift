public import BackupStore
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
    /// Packs that no index names: left by a backup that did not end; harmless.
    public var unusedPacks = 0
    /// What is wrong, one sentence each; the first thousand.
    public var problems: [String] = []
    public var problemCount = 0
    /// Restore points that can't be restored in whole.
    public var damagedPoints: [String] = []
    public var durationNanoseconds: UInt64 = 0
    public init() {}

    public var isSound: Bool { problemCount == 0 }
    static let problemsMax = 1000

    mutating func add(_ problem: String) {
        problemCount += 1
        if problems.count < Self.problemsMax { problems.append(problem) }
    }
}

/// Reads a whole store and checks everything in it: index pages, packs with each chunk and node, and that each restore
/// point's tree is complete. Memory does not grow with the store's content, only (a little) with its number of packs.
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
        var state = VerifyState(presence: PackPresence(store: store, listed: packs))
        let total = packs.reduce(0) { $0 + $1.byteCount }
        guard progress(0, total) else { throw Self.stopped }
        if let local = store as? LocalStore { try verifyIndex(of: local, &state, &report) }
        try verifyPacks(store, packs, total, &state, &report, progress)
        try verifyPoints(store, state, &report, progress, total)
        report.unusedPacks = state.hasIndex ? packs.count { !state.named.contains($0.name) } : 0
        report.durationNanoseconds = clock.monotonic() - started
        return report
    }

    private static var stopped: BackupError { BackupError(.cancelled, "the verification was stopped") }

    private func verifyIndex(
        of store: LocalStore, _ state: inout VerifyState, _ report: inout VerifyReport
    ) throws(BackupError) {
        var presence = state.presence
        var named: Set<Digest> = []
        var missing: Set<Digest> = []
        var problems: [String] = []
        var entries: UInt64 = 0
        try onStore { () throws(StoreError) in
            try store.verifyIndex(
                { (_, location) throws(StoreError) in
                    entries += 1
                    if try presence.has(location) {
                        named.insert(location.pack)
                    } else if missing.insert(location.pack).inserted {
                        problems.append("the index names pack \(location.pack), which is not there")
                    }
                }, damaged: { problems.append($0.message) })
        }
        report.indexEntries = entries
        state.presence = presence
        state.hasIndex = true
        state.named = Set(named.map(\.description))
        for problem in problems { report.add(problem) }
    }

    // MARK: Packs

    private func verifyPacks(
        _ store: any StoreBackend, _ packs: [StoredObject], _ total: UInt64, _ state: inout VerifyState,
        _ report: inout VerifyReport, _ progress: (UInt64, UInt64) -> Bool
    ) throws(BackupError) {
        let queue = PackQueue(store: store, packs: packs, isQuick: isQuick)
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
        state.damagedPacks = result.damagedPacks
        for problem in result.problems { report.add(problem) }
        report.problemCount += result.problemCount - result.problems.count
    }

    // MARK: Points

    /// Walks what each point's tree has that the one before had not: shared subtrees are looked at once.
    private func verifyPoints(
        _ store: any StoreBackend, _ state: VerifyState, _ report: inout VerifyReport,
        _ progress: (UInt64, UInt64) -> Bool, _ total: UInt64
    ) throws(BackupError) {
        var problems: [String] = []
        let points = try onStore { () throws(StoreError) in try store.points { problems.append($0.message) } }
        for problem in problems { report.add(problem) }
        report.points = points.count
        // Points of one disk next to each other, so that neighbours share most.
        let ordered = points.sorted { ($0.content.disk, $0.content.time) < ($1.content.disk, $1.content.time) }
        var walker = PointWalker(store: store, presence: state.presence, damagedPacks: state.damagedPacks)
        for point in ordered {
            guard progress(total, total) else { throw Self.stopped }
            let found = try walker.walk(point)
            if !found.isEmpty {
                report.damagedPoints.append(point.id)
                for problem in found { report.add("restore point \(point.id): \(problem)") }
            }
        }
        report.bytesRead += walker.bytesRead
    }
}

struct VerifyState {
    var presence: PackPresence
    var hasIndex = false
    var named: Set<String> = []
    var damagedPacks: [Digest: Set<UInt32>] = [:]
}
