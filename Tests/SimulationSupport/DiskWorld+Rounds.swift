import Backup
import BackupStore
import DiskImage
import TestSupport

/// The course of a run: lanes beside each other, and what happens between the owner's lives.
extension DiskWorld {
    /// Does all steps, each lane's one after the other.
    func run(_ steps: [Step], seed: UInt64) {
        let world = WorldProcess("world")
        take(world)
        do {
            try create()
            for step in steps { waiting[step.number] = step.lane }
            var queues = (0..<shape.lanes).map { lane in steps.filter { $0.lane == lane }[...] }
            others = (0..<shape.readers).map { WorldProcess("other \($0)") }
            var readers: [Scheduler.Actor] = []
            while finding == nil {
                let lanes = (0..<shape.lanes).filter { shape.isOwners($0) }
                let working = lanes.map { lane in spawn(lane, seed, owner, { queues[lane].popFirst() }) }
                if readers.isEmpty {
                    readers = (shape.guests + shape.maintainers..<shape.lanes).map { lane in
                        let process = others[lane - shape.guests - shape.maintainers]
                        return spawn(lane, seed, process, { queues[lane].popFirst() })
                    }
                }
                for lane in working { scheduler.join(lane) }
                guard end != nil, finding == nil else { break }
                // The power may go while the owner comes back.
                while let end, finding == nil {
                    if case .cut = end {
                        for reader in readers { scheduler.join(reader) }
                        readers = []
                    }
                    do { try recover(end) { for reader in readers { self.scheduler.join(reader) } } } catch {
                        guard self.end != nil, !(error is Finding) else { throw error }
                    }
                }
            }
            for reader in readers { scheduler.join(reader) }
            // The last of them may have met a power cut.
            while let end, finding == nil { try recover(end) {} }
            if finding == nil { try conclude() }
        } catch let error as Finding {
            fail(error)
        } catch {
            fail(Finding("\(error)"))
        }
        disk = nil
    }

    private func take(_ process: WorldProcess) { Scheduler.actor?.role = Work(process, nil) }

    /// A thread that does a lane's steps while its process lives.
    private func spawn(_ lane: Int, _ seed: UInt64, _ process: WorldProcess, _ next: @escaping () -> Step?)
        -> Scheduler.Actor
    {
        let body: () -> Void = { [self] in
            var process = process
            while finding == nil {
                if process.isDead { process = successor(of: process) }
                guard !process.isDead, let step = next() else { return }
                let actor = Scheduler.actor
                actor?.role = Work(process, step)
                actor?.task = "\(step)"
                actor?.reseed(seed &+ UInt64(step.number) &* 0x9e37_79b9)
                log.append("  \(step)")
                if case .meet = step.action {
                    meet(step)
                } else if lane < shape.guests {
                    guest(step)
                } else if shape.isOwners(lane) {
                    maintain(step)
                } else {
                    other(step, process)
                }
                log.append("  \(step.number) ended")
                waiting[step.number] = nil
                scheduler.wakePollers()
                actor?.role = Work(process, nil)
                actor?.task = "between steps"
            }
        }
        // One thread runs at a time.
        let sendable = unsafeBitCast(body, to: (@Sendable () -> Void).self)
        return scheduler.spawn("lane \(lane)", sendable)
    }

    /// Another process does the next step where one that only reads has died, and the host lives.
    private func successor(of process: WorldProcess) -> WorldProcess {
        guard let index = others.firstIndex(where: { $0 === process }) else { return process }
        if case .cut = end { return process }
        others[index] = WorldProcess(process.name)
        return others[index]
    }

    private func meet(_ step: Step) {
        while !isOver, waiting.contains(where: { $0.key < step.number && $0.value != step.lane }) { scheduler.idle() }
    }

    // MARK: A new life

    /// Starts the owner anew on what is left, and looks at all of it.
    private func recover(_ end: End, waitForReaders: () -> Void) throws {
        log.append("recover from \(end)")
        let gone = owner
        scheduler.joinAll { ($0.role as? Work)?.process === gone }
        disk = nil
        prepared = nil
        underWay = [:]
        changes = []
        isFaulty = false
        now = afterCrash
        var end = end
        if hasDropped, case .kill = end {
            waitForReaders()
            end = .cut(.nothing)
        }
        if case .cut(let survival) = end {
            fs = fs.afterPowerCut(survival)
            storeFS = storeFS.afterPowerCut(survival)
            watch()
            hasDropped = false
            others = others.map { WorldProcess($0.name) }
        }
        owner = WorldProcess("owner")
        self.end = nil
        take(owner)
        let disk: Disk
        do { disk = try Disk.open(Self.path, in: fs, options: options) } catch {
            guard [.busy, .inUse].contains(error.code) else { throw error }
            log.append("  \(error.message)")
            waitForReaders()
            disk = try Disk.open(Self.path, in: fs, options: options)
        }
        self.disk = disk
        guard sizesAfterCrash.contains(disk.byteCount) else {
            throw Finding("after \(end) the size is \(disk.byteCount), none of \(sizesAfterCrash.sorted())")
        }
        byteCount = disk.byteCount
        try settleSnapshots(disk, "after \(end)")
        try lookAtAll(disk, "after \(end)")
        if case .cut = end {
            sizesAfterCrash = [byteCount]
            afterCrash = now
        }
        try lookAtSnapshots("after \(end)")
        note("recovery")
    }

    /// Which snapshots there are now.
    private func settleSnapshots(_ disk: Disk, _ what: String) throws {
        let states = try disk.snapshots()
        let whole = Set(states.filter { !$0.isTemporary && !$0.isTop }.map(\.guid))
        snapshots = try snapshots.filter { state in
            if whole.contains(state.guid) { return true }
            guard state.isGoing || !state.isCertain else { throw Finding("\(what) snapshot \(state.guid) is lost") }
            return false
        }
        for index in snapshots.indices {
            snapshots[index].isCertain = true
            snapshots[index].isGoing = false
        }
        // A merge that was cut off goes on, at once or later.
        guard owner.name.isEmpty || states.count % 2 == 0 else { return }
        for state in states where state.isTemporary {
            // One that went with another is no failure, nor is one whose file failed a sync, and stays until a restart.
            do { try disk.deleteSnapshot(state.guid) } catch {
                guard [.notFound, .busy, .inUse].contains(error.code) || isFaulty && error.code == .io else {
                    throw error
                }
            }
        }
    }

    private func lookAtSnapshots(_ what: String) throws {
        for frozen in snapshots where frozen.isCertain && !frozen.isGoing {
            let state = try FrozenState.open(Self.path, snapshot: frozen.guid, in: fs, direct: shape.direct)
            try look(state, frozen, owner, what)
        }
    }

    // MARK: The end

    /// Nobody does anything any more: all must be in order, in the living disk, in the closed one, and after a cut.
    private func conclude() throws {
        // Nor to what a step has left in the background.
        hasFaults = false
        take(owner)
        try disk.map(lookWhileItLives)
        if isFaulty {
            stop(hasDropped ? .cut(.nothing) : .kill)
            if let end { try recover(end) {} }
        }
        if disk != nil {
            let (_, expected) = try expectedWhile { try disk?.close() }
            becameDurable(expected)
            disk = nil
            try check("at the end")
            sizesAfterCrash = [byteCount]
            stop(.cut(.nothing))
            if let end { try recover(end) {} }
        }
        for place in points.indices.suffix(6) { try checkPoint(place, "/last-\(place)", owner, "at the end") }
        try self.disk?.close()
    }

    private func lookWhileItLives(_ disk: Disk) throws {
        try lookAtAll(disk, "at the end")
        if !isFaulty { try expectNothingIsHeld(disk) }
        // What was being removed is there still, or not; in the first case it has to be right.
        try settleSnapshots(disk, "at the end")
        try lookAtSnapshots("at the end")
    }

    /// Looks at the files of the disk, which is closed.
    func check(_ what: String) throws {
        let report = try checkDisk(at: Self.path, in: fs)
        let all = report.images.flatMap(\.findings) + report.findings
        // An image below the top that somebody read, or that could not be finished, is closed by the next owner.
        let mayBeOpen = isFaulty || shape.readers > 0
        let bad = all.filter { $0.severity != .note && !(mayBeOpen && $0.kind == .inUse) }
        guard bad.isEmpty else { throw Finding("\(what): check: \(bad.map(\.message))") }
    }

    /// Nothing is under way, so nothing may be in the way.
    private func expectNothingIsHeld(_ disk: Disk) throws {
        if let prepared { disk.abandonSnapshot(prepared) }
        prepared = nil
        do {
            disk.abandonSnapshot(try disk.prepareSnapshot())
            try disk.grow(to: byteCount)
        } catch {
            throw Finding("at the end, with nothing under way: \(error.code): \(error.message)")
        }
    }
}
