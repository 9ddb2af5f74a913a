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
    /// Page of the child's table with which a stopped merge goes on.
    var mergeMarks: [MergeMark: UInt64] = [:]
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
        let thread = try? OwnThread(name: "finish delta") { [self] in try? finishFrozen() }
        maintenance.withLock { $0.finisher = thread }
    }

    /// Finishes all deltas that were frozen; returns when that is done, whoever does it.
    func finishFrozen() throws(DiskError) {
        while true {
            let next: WritableDelta? = maintenance.await { state -> WritableDelta?? in
                guard !state.isFinishing else { return nil }
                guard let next = state.unfinished.first else { return .some(nil) }
                state.isFinishing = true
                return next
            }
            guard let delta = next else { return }
            var failure: DiskError?
            do throws(DiskError) { try finish(delta) } catch { failure = error }
            maintenance.change { state in
                state.isFinishing = false
                // One that failed keeps its mark, and is repaired when the disk is opened next.
                state.unfinished.removeAll { $0 === delta }
            }
            if let failure { throw failure }
        }
    }

    /// Brings a delta that is not written to any more into the form of a closed image.
    func finish(_ delta: WritableDelta) throws(DiskError) {
        guard delta.isMarkedInUse, let allocator = delta.allocator, let bat = delta.delta.bat else { return }
        let usedEnd = allocator.trimEnd()
        if delta.isUntidy { try Tidying.run(delta.delta, usedEnd: usedEnd, pool) }
        try delta.markClosed(isEmpty: usedEnd == bat.firstDataCluster)
    }
}
