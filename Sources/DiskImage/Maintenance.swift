internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// Who changes the stack, or files below its top.
struct MaintenanceState: Sendable {
    var activities = Activities()
    var prepared: PreparedSnapshot?
    /// Deltas that were frozen and are still to be brought into the form of a closed image.
    var unfinished: [WritableDelta] = []
    /// A merge failed that may have moved clusters below the top, or let them go, while the map still leads to where
    /// they were.
    var isMapStale = false
    var finisher: OwnThread?
    /// What the finisher met while nobody waited for it.
    var finishFailure: DiskError?
    /// Files below the top of which the host lost something: nothing counts on them any more until the next opening.
    var doubtful: [String: DiskError] = [:]
    /// Clusters allocated in deltas that are no longer the top.
    var allocatedBefore: UInt64 = 0
    var closeFailure: DiskError?
    /// The descriptor has yet to be told of a size that the images have.
    var isSizeUnrecorded = false
}

extension Disk {
    /// Waits for what ends soon. - Throws: `.busy`, with what excludes it.
    func begin(_ activity: Activity) throws(DiskError) {
        let refusal: Activity? = maintenance.await { state -> Activity?? in
            switch state.activities.begin(activity) {
            case .begun, .stopping: .some(nil)
            case .waits: nil
            case .refused(let running): running
            }
        }
        if let refusal { throw DiskError.busy(refusal, path: path) }
        maintenance.await { state -> Void? in state.activities.hasRoom(for: activity) ? () : nil }
    }

    func end(_ activity: Activity) { maintenance.change { $0.activities.end(activity) } }

    func during<R>(_ activity: Activity, _ body: () throws(DiskError) -> R) throws(DiskError) -> R {
        try begin(activity)
        defer { end(activity) }
        return try body()
    }

    func isAskedToStop(_ activity: Activity) -> Bool {
        maintenance.withLock { $0.activities.isAskedToStop(activity) }
    }

    /// The host reports once that it lost what was written: from then on nothing in that file is taken for durable. In
    /// the top that ends all changes; a file below it is left alone, and the guest goes on.
    func noteLoss(_ error: DiskError) {
        guard error.isFinal else { return }
        if gate.chain.top?.path.isSame(as: error.path) == true { return gate.fail(error) }
        maintenance.change { if $0.doubtful[error.path] == nil { $0.doubtful[error.path] = error } }
    }

    /// Runs a work on files of the stack, and keeps what it lost.
    func noting<R>(_ body: () throws(DiskError) -> R) throws(DiskError) -> R {
        do throws(DiskError) { return try body() } catch {
            noteLoss(error)
            throw error
        }
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
        let thread = try? OwnThread(name: "finish delta") { [self] in
            do throws(DiskError) { try finishFrozen(inBackground: true) } catch {
                maintenance.change { if $0.finishFailure == nil { $0.finishFailure = error } }
            }
        }
        maintenance.withLock { $0.finisher = thread }
    }

    /// Finishes all deltas that were frozen, but those that somebody reads: they stay for the next time. Returns when
    /// that is done, whoever does it.
    /// - Parameter inBackground: nobody waits for it: readers who want one are let in, and what takes space is left.
    /// - Throws: also what an earlier one met in the background, once.
    func finishFrozen(inBackground: Bool = false) throws(DiskError) {
        var left: [WritableDelta] = []
        while true {
            let next: WritableDelta? = maintenance.await { state -> WritableDelta?? in
                guard !state.activities.isUnderWay(.finish) else { return nil }
                guard let next = state.unfinished.first(where: { one in !left.contains { $0 === one } }) else {
                    return .some(nil)
                }
                guard state.activities.begin(.finish) == .begun else { return nil }
                return next
            }
            guard let delta = next else { break }
            var failure: DiskError?
            var isFinished = true
            do throws(DiskError) {
                isFinished = try noting { () throws(DiskError) in try finishIfFree(delta, inBackground) }
            } catch {
                // Without space it is whole all the same, and stays for a better time.
                if error.code == .outOfSpace { isFinished = false } else { failure = error }
            }
            maintenance.change { state in
                state.activities.end(.finish)
                // One that failed keeps its mark, and is repaired when the disk is opened next.
                if isFinished { state.unfinished.removeAll { $0 === delta } } else { left.append(delta) }
            }
            if let failure { throw failure }
        }
        let earlier: DiskError? = inBackground ? nil : maintenance.withLock { $0.finishFailure.take() }
        if let earlier { throw earlier }
    }

    private func finishIfFree(_ delta: WritableDelta, _ inBackground: Bool) throws(DiskError) -> Bool {
        let isClosing = maintenance.withLock { $0.activities.isUnderWay(.close) }
        // Holes would be filled, which a merge before long makes needless.
        if delta.hasHoles, !isClosing { return false }
        if maintenance.withLock({ $0.doubtful[delta.delta.path] != nil }) { return true }
        guard var lease = try ExclusiveLease.takeIfFree(delta.delta.path, in: fs) else { return false }
        // Who had the lease before may have merged into the file: what is known here of its places is out of date then.
        guard maintenance.withLock({ state in state.unfinished.contains { $0 === delta } }) else { return true }
        return try finish(delta, &lease, yields: inBackground)
    }

    /// Takes the right to change a file below the top, which the finisher then leaves alone.
    /// - Throws: `.busy`, naming who reads it.
    func leaseBelow(_ path: String) throws(DiskError) -> ExclusiveLease {
        if let lost = maintenance.withLock({ $0.doubtful[path] }) { throw lost }
        try begin(.finish)
        defer { end(.finish) }
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
