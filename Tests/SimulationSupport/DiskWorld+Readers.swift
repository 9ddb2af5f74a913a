import Backup
import BackupStore
import BlockIO
import DiskImage
import Geometry
import TestSupport

/// What other processes do: they read frozen states, back them up, and restore.
extension DiskWorld {
    func other(_ step: Step, _ process: WorldProcess) {
        switch step.action {
        case .readFrozen(let index): readFrozen(step, index, process)
        case .backup(let index, let incremental): backup(step, index, incremental, process)
        case .restore(let index): restore(step, index, process)
        default: break
        }
    }

    private func choose(_ index: Int) -> Frozen? {
        let candidates = snapshots.filter(\.isCertain)
        return candidates.isEmpty ? nil : candidates[index % candidates.count]
    }

    /// Takes what was read of a state for the truth.
    private func learn(_ guid: String, _ expected: Expected) {
        guard let index = snapshots.firstIndex(where: { $0.guid == guid }) else { return }
        snapshots[index].expected = expected
    }

    private func readFrozen(_ step: Step, _ index: Int, _ process: WorldProcess) {
        guard let frozen = choose(index) else { return }
        attempt(step, process, allowing: [.notFound, .inUse]) {
            let state = try FrozenState.open(Self.path, snapshot: frozen.guid, in: fs, direct: shape.direct)
            try look(state, frozen, process, "\(step)")
            note("readFrozen")
        }
    }

    func look(_ state: FrozenState, _ frozen: Frozen, _ process: WorldProcess, _ what: String) throws {
        guard state.byteCount == frozen.byteCount else {
            throw Finding("\(what): \(frozen.guid) has \(state.byteCount) bytes, not \(frozen.byteCount)")
        }
        var expected = snapshots.first { $0.guid == frozen.guid }?.expected ?? frozen.expected
        try forEachTouched(below: frozen.byteCount) { range in
            try Self.withMemory(sectors: range.count) { memory in
                try state.read(at: UInt64(range.lowerBound) * 512, into: memory)
                guard !process.isDead else { return }
                try expected.look(
                    UnsafeRawBufferPointer(memory), from: range.lowerBound, "\(what) of snapshot \(frozen.guid)")
            }
        }
        if !process.isDead { learn(frozen.guid, expected) }
    }

    private func backup(_ step: Step, _ index: Int, _ incremental: Bool, _ process: WorldProcess) {
        guard let frozen = choose(index) else { return }
        attempt(step, process, allowing: [.notFound, .inUse]) {
            var storeOptions = LocalStore.Options()
            storeOptions.unindexedEntriesMax = 16
            let store = try LocalStore(opening: Self.storePath, options: storeOptions, in: storeFS)
            defer { store.close() }
            let state = try FrozenState.open(Self.path, snapshot: frozen.guid, in: fs, direct: shape.direct)
            var base: BackupJob.Base?
            if incremental, let last = points.last(where: { point in isBelow(point.snapshot, frozen.guid) }) {
                base = BackupJob.Base(point: last.point, snapshot: last.snapshot)
            }
            let options = BackupJob.Options(workers: 1 + step.number % 2, packBytesTarget: 100_000)
            let job = BackupJob(
                disk: "disk", name: "disk", snapshot: frozen.guid, time: UInt64(1_700_000_000 + step.number),
                base: base,
                options: options)
            var calls = 0
            let outcome = try job.run(source: FrozenSource(state), store: store) { _, _ in
                calls += 1
                return calls != step.stop
            }
            guard !process.isDead else { return }
            // What is known of the state by now.
            let known = snapshots.first { $0.guid == frozen.guid } ?? frozen
            points.append(
                Point(
                    point: outcome.point, expected: known.expected, byteCount: frozen.byteCount,
                    snapshot: frozen.guid))
            note(base == nil ? "backup" : "incremental backup")
        }
    }

    /// Whether a state is one that another was made after, and still there.
    private func isBelow(_ lower: String, _ upper: String) -> Bool {
        guard let low = snapshots.firstIndex(where: { $0.guid == lower && !$0.isGoing }),
            let high = snapshots.firstIndex(where: { $0.guid == upper })
        else { return false }
        return low < high
    }

    private func restore(_ step: Step, _ index: Int, _ process: WorldProcess) {
        guard !points.isEmpty else { return }
        let place = index % points.count
        attempt(step, process) { try checkPoint(place, "/restored-\(step.number)", process, "\(step)") }
    }

    /// Restores a point into the store's host, and compares.
    func checkPoint(_ place: Int, _ path: String, _ process: WorldProcess, _ what: String) throws {
        let point = points[place]
        let store = try LocalStore(opening: Self.storePath, writable: false, in: storeFS)
        defer { store.close() }
        var job = RestoreJob(point: point.point, target: .raw(file: path))
        job.workers = 1
        _ = try job.run(store: store, in: storeFS)
        let file = try storeFS.open(path, .read)
        guard try file.size() == point.byteCount || process.isDead else {
            throw Finding("\(what): a point has \(try file.size()) bytes, not \(point.byteCount)")
        }
        var expected = points[place].expected
        try forEachTouched(below: point.byteCount) { range in
            try Self.withMemory(sectors: range.count) { memory in
                try file.read(at: UInt64(range.lowerBound) * 512, into: memory)
                try expected.look(
                    UnsafeRawBufferPointer(memory), from: range.lowerBound,
                    "\(what) of point \(point.point.id) of snapshot \(point.snapshot)")
            }
        }
        points[place].expected = expected
        try storeFS.remove(path)
        note("restore")
    }
}
