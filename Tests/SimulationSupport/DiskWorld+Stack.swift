import BlockIO
import DiskImage
import Geometry
import TestSupport

/// What is done to the stack of deltas while guests go on.
extension DiskWorld {
    static let snapshotsMax = 5
    private static let compactLooksMax = 100

    func maintain(_ step: Step) {
        guard let disk else { return }
        switch step.action {
        case .snapshot:
            if let made = prepare(step, disk) { commit(step, disk, made) }
        case .prepare:
            if prepared == nil, let made = prepare(step, disk) {
                if prepared == nil { prepared = made } else { disk.abandonSnapshot(made) }
            }
        case .commit:
            if let made = takePrepared() { commit(step, disk, made) }
        case .abandon:
            if let made = takePrepared() { disk.abandonSnapshot(made) }
        case .delete(let index): delete(step, disk, index)
        case .compact:
            attempt(step, owner) {
                var calls = 0
                let isDone = try disk.compactNow { _, _ in
                    calls += 1
                    // It waits for a prepared snapshot, which a later step of this same lane may have to end.
                    return calls != step.stop && (prepared == nil || calls < Self.compactLooksMax)
                }
                if isDone { note("compact") }
            }
        case .grow(let clusters): grow(step, disk, clusters)
        case .follow(let rounds): attempt(step, owner) { try follow(step, disk, rounds) }
        case .reopen: reopen(step, disk)
        case .clock(let nanoseconds): scheduler.clockOffset += nanoseconds
        case .cut(let survival): stop(.cut(survival))
        case .kill: stop(.kill)
        default: break
        }
    }

    private func takePrepared() -> PreparedSnapshot? {
        defer { prepared = nil }
        return prepared
    }

    private func prepare(_ step: Step, _ disk: Disk) -> PreparedSnapshot? {
        guard snapshots.count < Self.snapshotsMax else { return nil }
        return attempt(step, owner) { try disk.prepareSnapshot() }
    }

    private func commit(_ step: Step, _ disk: Disk, _ made: PreparedSnapshot) {
        // Before it has returned, it may be there after a crash, with what it began with or what came meanwhile.
        let start = changes.count
        snapshots.append(Frozen(guid: made.guid, expected: now, byteCount: byteCount, isCertain: false))
        func settle(_ change: (inout Frozen) -> Void) {
            guard let index = snapshots.firstIndex(where: { $0.guid == made.guid }) else { return }
            snapshots[index].expected.allow(changes[start...])
            change(&snapshots[index])
        }
        let isDone: Void? = attempt(step, owner, allowing: [.invalid]) {
            _ = try disk.commitSnapshot(made)
            settle { $0.isCertain = true }
            guard !owner.isDead else { return }
            if let frozen = snapshots.last(where: { $0.guid == made.guid }) { becameDurable(frozen.expected) }
            note("snapshot")
        }
        if isDone == nil {
            settle { _ in }
            // To be tried again or abandoned.
            disk.abandonSnapshot(made)
        }
    }

    private func delete(_ step: Step, _ disk: Disk, _ index: Int) {
        let candidates = snapshots.filter(\.isCertain)
        guard !candidates.isEmpty else { return }
        let guid = candidates[index % candidates.count].guid
        func set(_ isGoing: Bool) {
            if let index = snapshots.firstIndex(where: { $0.guid == guid }) { snapshots[index].isGoing = isGoing }
        }
        set(true)
        attempt(step, owner, allowing: [.notFound, .inUse]) {
            var calls = 0
            let isDone = try disk.deleteSnapshot(guid) { _, _ in
                calls += 1
                return calls != step.stop
            }
            guard isDone, !owner.isDead else { return }
            snapshots.removeAll { $0.guid == guid }
            note("delete")
        }
    }

    private func grow(_ step: Step, _ disk: Disk, _ clusters: Int) {
        let wanted = byteCount + UInt64(clusters) * clusterSize.bytes
        guard wanted <= UInt64(shape.byteCount) * 3 else { return }
        sizesAfterCrash.insert(wanted)
        attempt(step, owner) {
            try disk.grow(to: wanted)
            guard !owner.isDead else { return }
            byteCount = wanted
            sizesAfterCrash = [wanted]
            note("grow")
        }
        // A failure may come after the size was changed.
        if !owner.isDead, isFaulty, disk.byteCount == wanted { byteCount = wanted }
    }

    /// Copies the disk like a migration: all of it, then what was changed, the rest with writes held.
    private func follow(_ step: Step, _ disk: Disk, _ rounds: Int) throws {
        let tracker = try disk.startTracking()
        defer { disk.stopTracking(tracker) }
        var copy = RunMap<UInt32>(0)
        func take(_ range: Range<Int>) throws {
            try Self.withMemory(sectors: range.count) { memory in
                try disk.read(at: UInt64(range.lowerBound) * 512, into: memory)
                try Pattern.forEachRun(UnsafeRawBufferPointer(memory), from: range.lowerBound, "\(step)") {
                    copy.set($0, $1)
                }
            }
        }
        func takeDirty() throws {
            var position: UInt64 = 0
            while position < byteCount {
                let part = ByteRange(offset: position, count: byteCount - position)
                let found = tracker.take(in: part, limit: 3)
                for run in found.runs {
                    for start in stride(from: run.offset, to: run.end, by: 1 << 20) {
                        try take(Int(start / 512)..<Int(min(run.end, start + 1 << 20) / 512))
                    }
                }
                position = found.coveredTo
            }
        }
        try forEachTouched(below: byteCount, take)
        for _ in 0..<rounds { try takeDirty() }
        try disk.pauseWrites()
        defer { disk.resumeWrites() }
        try takeDirty()
        guard !isOver else { return }
        let live = now
        // Held writes have not begun; those that failed may be there in part.
        try forEachTouched(below: byteCount) { range in
            for run in copy.runs(in: range) {
                for part in live.sectors.runs(in: run.range) where !part.value.contains(run.value) {
                    throw Finding(
                        "\(step): the copy has \(run.value) at sectors \(part.range.lowerBound)+\(part.range.count), "
                            + "not \(part.value)")
                }
            }
        }
        note("follow")
    }

    /// Detach, check, attach.
    private func reopen(_ step: Step, _ disk: Disk) {
        guard !isClosing else { return }
        isClosing = true
        closings += 1
        defer { isClosing = false }
        let start = changes.count
        var expected = now
        let isClosed: Void? = attempt(step, owner) { try disk.close() }
        guard !owner.isDead else { return }
        self.disk = nil
        prepared = nil
        guard isClosed != nil, !hasDropped else { return stop(hasDropped ? .cut(.nothing) : .kill) }
        expected.allow(changes[start...])
        becameDurable(expected)
        attempt(step, owner, allowing: [.inUse]) {
            try check("\(step)")
            note("check")
        }
        guard !isOver else { return }
        isFaulty = false
        let opened = attempt(step, owner) { try Disk.open(Self.path, in: fs, options: options) }
        guard let opened, !owner.isDead else { return stop(.kill) }
        self.disk = opened
        attempt(step, owner) {
            guard opened.byteCount == byteCount else {
                throw Finding("\(step): the size is \(opened.byteCount), not \(byteCount)")
            }
        }
        note("reopen")
    }
}
