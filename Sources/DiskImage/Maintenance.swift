internal import ImageFormat
internal import LinuxSystem

/// Who changes the stack, or files below its top.
struct MaintenanceState: Sendable {
    /// A merge runs; snapshots are taken meanwhile.
    var isMerging = false
    /// The device is getting larger: nothing else may run.
    var isGrowing = false
    /// A chain is being put on: the moment in which snapshot and merge exclude each other.
    var isSwitching = false
    /// A delta is being made, or waits to become the top.
    var isPreparing = false
    var prepared: PreparedSnapshot?
    var trackers = 0
    /// Deltas that were frozen and are still to be brought into the form of a closed image.
    var unfinished: [WritableDelta] = []
    var isFinishing = false
    var finisher: OwnThread?
    /// Clusters allocated in deltas that are no longer the top.
    var allocatedBefore: UInt64 = 0
    var isClosed = false
}

extension Disk {
    /// Lets `take` claim something for the caller.
    /// - Throws: `.busy` when it returns `nil`.
    func beginMaintenance(_ take: (inout MaintenanceState) -> Void?) throws(DiskError) {
        let isTaken = maintenance.change { state in !state.isClosed && take(&state) != nil }
        guard isTaken else {
            throw DiskError(
                .busy, "\(path): a snapshot, merge, resize or migration of this disk is under way; try again later",
                path: path)
        }
    }

    func endMaintenance(_ give: (inout MaintenanceState) -> Void) { maintenance.change { give(&$0) } }

    /// Runs `body` while nobody else puts a chain on.
    func whileSwitching<R>(_ body: () throws(DiskError) -> R) throws(DiskError) -> R {
        maintenance.await { state -> Void? in
            guard !state.isSwitching else { return nil }
            state.isSwitching = true
            return ()
        }
        defer { endMaintenance { $0.isSwitching = false } }
        return try body()
    }

    // MARK: Finishing what was frozen

    /// A delta that is no longer the top keeps its in-use mark until it has the form of a closed image: after a crash
    /// it is then repaired like a top.
    func noteFrozen(_ delta: WritableDelta) {
        maintenance.change { state in
            state.allocatedBefore += delta.allocator?.allocatedCount ?? 0
            state.unfinished.append(delta)
        }
        guard options.finishInBackground else { return }
        // Without a thread it is done by the next operation on snapshots.
        let thread = try? OwnThread(name: "finish delta") { [self] in try? finishFrozen(yields: true) }
        maintenance.withLock { $0.finisher = thread }
    }

    /// Finishes all deltas that were frozen, but those that somebody reads: they stay for the next time. Returns when
    /// that is done, whoever does it.
    /// - Parameter yields: readers who want one are let in.
    func finishFrozen(yields: Bool = false) throws(DiskError) {
        var left: [WritableDelta] = []
        while true {
            let next: WritableDelta? = maintenance.await { state -> WritableDelta?? in
                guard !state.isFinishing else { return nil }
                guard let next = state.unfinished.first(where: { one in !left.contains { $0 === one } }) else {
                    return .some(nil)
                }
                state.isFinishing = true
                return next
            }
            guard let delta = next else { return }
            var failure: DiskError?
            var isFinished = true
            do throws(DiskError) { isFinished = try finishIfFree(delta, yields) } catch { failure = error }
            maintenance.change { state in
                state.isFinishing = false
                // One that failed keeps its mark, and is repaired when the disk is opened next.
                if isFinished { state.unfinished.removeAll { $0 === delta } } else { left.append(delta) }
            }
            if let failure { throw failure }
        }
    }

    private func finishIfFree(_ delta: WritableDelta, _ yields: Bool) throws(DiskError) -> Bool {
        guard var lease = try ExclusiveLease.takeIfFree(delta.delta.path, in: fs) else { return false }
        return try finish(delta, &lease, yields: yields)
    }

    /// Takes the right to change a file below the top, which the finisher then leaves alone.
    /// - Throws: `.busy`, naming who reads it.
    func leaseBelow(_ path: String) throws(DiskError) -> ExclusiveLease {
        maintenance.await { state -> Void? in
            guard !state.isFinishing else { return nil }
            state.isFinishing = true
            return ()
        }
        defer { endMaintenance { $0.isFinishing = false } }
        return try ExclusiveLease.take(path, in: fs)
    }

    /// Brings a delta that is not written to any more into the form of a closed image.
    /// - Returns: whether it was finished, and not left to a reader.
    func finish(_ delta: WritableDelta, _ lease: inout ExclusiveLease, yields: Bool = false) throws(DiskError) -> Bool {
        guard delta.isMarkedInUse, let allocator = delta.allocator, let bat = delta.delta.bat else { return true }
        let usedEnd = allocator.trimEnd()
        if delta.isUntidy {
            guard try Tidying.run(delta.delta, usedEnd: usedEnd, pool, &lease, yields: yields) else { return false }
        }
        try delta.markClosed(isEmpty: usedEnd == bat.firstDataCluster)
        return true
    }
}
