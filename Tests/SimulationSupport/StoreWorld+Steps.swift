import Backup
import BackupStore
import BlockIO
import LinuxSystem
import SystemPackage
import TestSupport

/// What hosts do, and how the store is looked at.
extension StoreWorld {
    func perform(_ step: Step, _ host: Host) {
        switch step.action {
        case .change(let amount): change(host.disk, amount, Scheduler.actor)
        case .backup(_, let incremental): attempt(step, host) { try backup(step, host, incremental) }
        case .restore(let index):
            guard !kept.isEmpty else { return }
            attempt(step, host) { try check(kept[index % kept.count], "\(step)", "/out-\(step.number)", host.process) }
        case .verify: attempt(step, host) { try verify(step, host) }
        case .damage(let index): damage(step, index)
        case .clock(let nanoseconds): scheduler.clockOffset += nanoseconds
        case .cut(let survival): cutPower(survival)
        case .kill: host.process.isDead = true
        default: break
        }
    }

    private func attempt(_ step: Step, _ host: Host, _ body: () throws -> Void) {
        do { try body() } catch let error as Finding {
            if !host.process.isDead { fail(error) }
        } catch let error as BackupError {
            log.append("    \(step.number): \(error.code) \(error.message)")
            guard !host.process.isDead, !isFaulty, !isDamaged, cut == nil, error.code != .cancelled else { return }
            fail(Finding("\(step): \(error.code): \(error.message)"))
        } catch {
            log.append("    \(step.number): \(error)")
            guard !host.process.isDead, !isFaulty, !isDamaged, cut == nil else { return }
            fail(Finding("\(step): \(error)"))
        }
    }

    /// New bytes, bytes that other places and hosts have, and zeros.
    private func change(_ disk: MemoryDisk, _ amount: Int, _ actor: Scheduler.Actor?) {
        guard let actor else { return }
        for _ in 0..<amount {
            let offset = actor.below(shape.diskBytes)
            let count = 1 + actor.below(20_000)
            switch actor.below(4) {
            case 0: disk.write([UInt8](repeating: 0, count: count), at: offset & ~4095)
            case 1: disk.write([UInt8](repeating: UInt8(1 + actor.below(3)), count: count), at: offset & ~4095)
            default:
                var random = SeededRandom(seed: UInt64(actor.below(1 << 30)))
                disk.write(random.bytes(count), at: offset)
            }
        }
    }

    private func backup(_ step: Step, _ host: Host, _ incremental: Bool) throws {
        var storeOptions = LocalStore.Options()
        storeOptions.unindexedEntriesMax = shape.indexEntriesMax
        let store = try LocalStore(opening: Self.path, options: storeOptions, in: fs)
        defer { store.close() }
        let (name, state) = host.disk.freeze()
        let options = BackupJob.Options(
            workers: 1 + step.number % 3, packBytesTarget: [30_000, 120_000, 64 << 20][step.number % 3])
        let job = BackupJob(
            disk: host.name, name: host.name, snapshot: name, time: SystemTime().realtime(),
            base: incremental ? host.base : nil, options: options)
        attempts.append((name, host.name, state.content))
        var calls = 0
        let process = host.process
        let outcome = try job.run(source: state, store: store) { _, _ in
            calls += 1
            return calls != step.stop
        }
        guard !process.isDead, cut == nil else { return }
        kept.append(Kept(point: outcome.point, content: state.content))
        host.base = BackupJob.Base(point: outcome.point, snapshot: name)
        note("store backup")
    }

    private func verify(_ step: Step, _ host: Host) throws {
        let store = try LocalStore(opening: Self.path, writable: false, in: fs)
        defer { store.close() }
        var job = VerifyJob()
        job.workers = 1
        let wasDamaged = isDamaged
        let report = try job.run(store: store)
        guard !host.process.isDead, !isFaulty else { return }
        if !report.isSound, !isDamaged { throw Finding("\(step): not sound: \(report.problems)") }
        if report.isSound, wasDamaged { try expectAllWhole("\(step): verify says sound") }
        note("verify")
    }

    /// After a verification that found nothing every point restores.
    private func expectAllWhole(_ what: String) throws {
        for one in kept { try check(one, what, "/whole", WorldProcess("look"), mayFail: false) }
    }

    /// Somebody's disk or hand spoils a file of the store, or takes one away.
    private func damage(_ step: Step, _ index: Int) {
        var files: [String] = []
        do {
            for folder in ["packs", "index", "points"] {
                let path = "\(Self.path)/\(folder)"
                for name in try fs.list(path) {
                    let inner = "\(path)/\(name)"
                    files += try fs.isFolder(inner) ? try fs.list(inner).map { "\(inner)/\($0)" } : [inner]
                }
            }
            // A point that is gone is no longer expected: that is what removing one means.
            files.removeAll { $0.contains("/points/") }
            guard !files.isEmpty else { return }
            let path = files[index % files.count]
            isDamaged = true
            let file = try fs.open(path, .update)
            let size = try file.size()
            switch index / files.count % 3 {
            case 0 where size > 0:
                let offset = UInt64(index) &* 7919 % size
                let byte = try file.readBytes(at: offset, count: 1)
                try file.writeBytes([byte[0] ^ UInt8(1 + index % 255)], at: offset)
            case 1: try file.truncate(to: size / 2)
            default: try fs.remove(path)
            }
            log.append("    damaged \(path)")
            note("damage")
        } catch { log.append("    \(step.number): \(error)") }
    }

    private func cutPower(_ survival: Survival) {
        guard cut == nil else { return }
        cut = survival
        for host in hosts { host.process.isDead = true }
    }

    // MARK: Looks

    /// Restores a point and compares.
    func check(_ one: Kept, _ what: String, _ path: String, _ process: WorldProcess, mayFail: Bool = true) throws {
        let content: [UInt8]
        do {
            let store = try LocalStore(opening: Self.path, writable: false, in: fs)
            defer { store.close() }
            if try fs.exists(path) { try fs.remove(path) }
            var job = RestoreJob(point: one.point, target: .raw(file: path))
            job.workers = 1
            _ = try job.run(store: store, in: fs)
            let file = try fs.open(path, .read)
            content = try file.readBytes(at: 0, count: Int(try file.size()))
            try fs.remove(path)
        } catch {
            if isDamaged, mayFail { return }
            throw error
        }
        guard !process.isDead else { return }
        guard content == one.content else { throw Finding("\(what): point \(one.point.id) holds something else") }
        note("store restore")
    }

    /// All that was told of is there, and whatever else is there is whole, too.
    func look(_ what: String) throws {
        isFaulty = false
        let process = WorldProcess("look")
        Scheduler.actor?.role = Work(process, nil)
        let points: [RestorePoint]
        do {
            let store = try LocalStore(opening: Self.path, writable: false, in: fs)
            defer { store.close() }
            var bad: StoreError?
            points = try store.points { _, error in bad = bad ?? error }
            if let bad, !isDamaged { throw bad }
        } catch {
            if isDamaged { return }
            throw error
        }
        for one in kept where !points.contains(where: { $0.id == one.point.id }) {
            throw Finding("\(what): point \(one.point.id) is lost")
        }
        for point in points where !kept.contains(where: { $0.point.id == point.id }) {
            let candidates = attempts.filter { $0.snapshot == point.content.snapshot && $0.host == point.content.disk }
            guard let candidate = candidates.last else { throw Finding("\(what): point \(point.id) is nobody's") }
            kept.append(Kept(point: point, content: candidate.content))
        }
        for one in kept { try check(one, what, "/look", process) }
        guard !isDamaged else { return }
        let store = try LocalStore(opening: Self.path, in: fs)
        defer { store.close() }
        var job = VerifyJob()
        job.workers = 1
        let report = try job.run(store: store)
        guard report.isSound else { throw Finding("\(what): not sound: \(report.problems)") }
    }
}
