import AgentCore
import Backup
import BackupStore
import BlockIO
import DiskImage
import Geometry
import Glibc
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

/// Equality of large arrays at the C library's speed.
private func isSame(_ a: [UInt8], _ b: [UInt8]) -> Bool { a.count == b.count && memcmp(a, b, a.count) == 0 }

/// A host in memory with two disks and a store, and what the disks must hold.
private struct BackedHost {
    struct Mismatch: Error, CustomStringConvertible {
        var description: String
    }
    static let folders = ["/disks/one", "/disks/two"]
    static let storePath = "/store"
    static let byteCount: UInt64 = 512 << 10

    var fs = SimulatedFileSystem()
    var contents = [[UInt8]](repeating: [UInt8](repeating: 0, count: Int(byteCount)), count: 2)
    /// Points that were acknowledged.
    var points: [String] = []
    let attachments: DeviceAttachments

    init(_ runFolder: TemporaryFolder) throws {
        attachments = DeviceAttachments(runFolder: runFolder.path)
        try fs.createFolder("/disks")
        try fs.synchronizeFolder("/")
        for folder in Self.folders {
            try createDisk(
                at: folder, options: CreateOptions(byteCount: Self.byteCount, clusterSize: .smallest), in: fs)
        }
        try LocalStore.create(at: Self.storePath, uuid: "uuid-1", chunkBytes: 4096, in: fs)
    }

    /// Changes both disks, durably.
    mutating func change(_ random: inout SeededRandom) throws {
        for (index, folder) in Self.folders.enumerated() {
            let disk = try Disk.open(folder, in: fs)
            for _ in 0..<3 {
                let bytes = random.bytes(512 * (1 + random.below(40)))
                let offset = 512 * random.below((Int(Self.byteCount) - bytes.count) / 512)
                try bytes.withUnsafeBytes { try disk.write(at: UInt64(offset), from: $0) }
                contents[index].replaceSubrange(offset..<offset + bytes.count, with: bytes)
            }
            let hole = UInt64(random.below(14)) * (32 << 10)
            try disk.discard(ByteRange(offset: hole, count: 64 << 10))
            contents[index].replaceSubrange(
                Int(hole)..<Int(hole) + 64 << 10, with: [UInt8](repeating: 0, count: 64 << 10))
            try disk.close()
        }
    }

    /// Backs both up in one freeze.
    mutating func backup() throws -> [BackupService.Outcome] {
        let store = try LocalStore(opening: Self.storePath, in: fs)
        defer { store.close() }
        var options = BackupService.Options()
        options.job.workers = 1
        let report = try BackupService(attachments: attachments, fs: fs).run(
            Self.folders.map { ($0, String($0.dropFirst(7))) }, store: store, hooks: nil, options: options)
        let outcomes = report.outcomes
        points += outcomes.map(\.point.id)
        if let (_, failure) = report.failures.first { throw failure }
        return outcomes
    }

    func afterPowerCut(_ survival: Survival) -> BackedHost {
        var copy = self
        copy.fs = fs.afterPowerCut(survival)
        return copy
    }

    func duplicate() -> BackedHost {
        var copy = self
        copy.fs = fs.duplicate()
        return copy
    }

    /// The store is sound and has all points that were acknowledged; both disks hold what they must.
    func expectSound() throws {
        let store = try LocalStore(opening: Self.storePath, in: fs)
        defer { store.close() }
        var verify = VerifyJob()
        verify.workers = 1
        let report = try verify.run(store: store)
        guard report.isSound else { throw Mismatch(description: "the store: \(report.problems)") }
        let there = Set(try store.points { _, error in Issue.record("\(error)") }.map(\.id))
        for id in points where !there.contains(id) { throw Mismatch(description: "point \(id) is lost") }
        for (index, folder) in Self.folders.enumerated() {
            let disk = try Disk.open(folder, in: fs)
            var bytes = [UInt8](repeating: 1, count: Int(Self.byteCount))
            try bytes.withUnsafeMutableBytes { try disk.read(at: 0, into: $0) }
            try disk.close()
            guard isSame(bytes, contents[index]) else { throw Mismatch(description: "\(folder) holds something else") }
        }
    }

    /// The next backup reads only what changed, and its points hold what the disks do.
    mutating func expectNextBackup(_ random: inout SeededRandom) throws {
        try change(&random)
        let outcomes = try backup()
        let store = try LocalStore(opening: Self.storePath, in: fs)
        defer { store.close() }
        for (index, outcome) in outcomes.enumerated() {
            guard outcome.statistics.isIncremental, outcome.leftBehind == nil else {
                throw Mismatch(description: "\(outcome.disk) was read in whole, or not tidied: \(outcome)")
            }
            var job = RestoreJob(point: outcome.point, target: .raw(file: "/out"))
            job.workers = 1
            _ = try job.run(store: store, in: fs)
            let bytes = try fs.contents(of: "/out", limit: 1 << 30)
            try fs.remove("/out")
            guard isSame(bytes, contents[index]) else {
                throw Mismatch(description: "point \(outcome.point.id) of \(outcome.disk) holds something else")
            }
        }
    }

    /// Frozen states of a disk.
    func states(_ folder: String) throws -> Int {
        try Disk.open(folder, in: fs, options: .readOnly).snapshots().count { !$0.isTop }
    }
}

@Suite struct BackupServiceTests {
    /// Two disks that were backed up and have changed since.
    private func prepared(_ folder: TemporaryFolder, _ random: inout SeededRandom) throws -> BackedHost {
        var host = try BackedHost(folder)
        try host.change(&random)
        let first = try host.backup()
        #expect(first.count == 2 && first.allSatisfy { !$0.statistics.isIncremental && $0.isConsistent })
        try host.change(&random)
        return host
    }

    @Test("backups of two disks are incremental, right, and leave one state in each disk") func roundTrip() throws {
        let folder = try TemporaryFolder()
        var random = SeededRandom("backups of two disks")
        var host = try prepared(folder, &random)
        for _ in 0..<3 {
            try host.expectNextBackup(&random)
            for disk in BackedHost.folders { #expect(try host.states(disk) == 1) }
        }
        try host.expectSound()
    }

    @Test("a cut at any change of a backup loses nothing, and the change map counts on") func powerCut() throws {
        let folder = try TemporaryFolder()
        var random = SeededRandom("a cut at any change of a backup")
        let state = try prepared(folder, &random)
        var clean = state.duplicate()
        _ = try clean.backup()
        let changes = clean.fs.changeCount
        // The parts have tests of their own at every change; here a fifth of them each time.
        for number in stride(from: 1 + random.below(5), through: changes, by: 5) {
            let seed = UInt64(number)
            let survivals: [Survival] = [.nothing, .everything, .prefix(seed: seed), .random(seed: seed)]
            let survival = survivals[random.below(4)]
            var host = state.duplicate()
            host.fs.setPlan(.stop(atChange: number))
            do {
                do { _ = try host.backup() } catch {
                    guard host.fs.isStopped else { throw error }
                }
                var after = host.afterPowerCut(survival)
                try after.expectSound()
                try after.expectNextBackup(&random)
                try after.afterPowerCut(.nothing).expectSound()
            } catch {
                Issue.record("seed \(random.seed), \(survival), change \(number) of \(changes): \(error)")
                return
            }
        }
    }

    @Test(
        "a killed process, a failing or a full file system at any call loses nothing, and the change map counts on",
        arguments: ["killed", "failing", "full"])
    func faults(kind: String) throws {
        let folder = try TemporaryFolder()
        var random = SeededRandom("backup \(kind)")
        let state = try prepared(folder, &random)
        let calls = kind == "full" ? FaultPlan.Call.taking : FaultPlan.Call.changes
        // The parts have tests of their own at every call; here a fifth of them each time.
        var number = 1 + random.below(5)
        while true {
            var host = state.duplicate()
            host.fs.setPlan(
                FaultPlan(
                    .fail(kind == "full" ? .noSpace : .ioError), at: number, of: calls, isLasting: kind != "failing"))
            var failure: (any Error)?
            do { _ = try host.backup() } catch { failure = error }
            let isOver = host.fs.counts.filter { calls.contains($0.key) }.values.reduce(0, +) < number
            host.fs.setPlan(nil)
            if isOver { break }
            do {
                try host.expectSound()
                try host.expectNextBackup(&random)
                try host.afterPowerCut(.nothing).expectSound()
            } catch {
                let told = failure.map { "\($0)" } ?? "no error"
                Issue.record("seed \(random.seed), \(kind) at call \(number) (\(told)): \(error)")
                return
            }
            number += 5
        }
        #expect(number > 30)
    }

    private func service(_ host: BackedHost, at time: UInt64) -> BackupService {
        BackupService(attachments: host.attachments, fs: host.fs, time: FixedTime(realtime: time))
    }

    private func run(
        _ host: BackedHost, at time: UInt64, age: UInt64? = nil, folders: [String] = BackedHost.folders
    ) throws -> BackupService.Report {
        var opening = LocalStore.Options()
        opening.clock = FixedTime(realtime: time)
        let store = try LocalStore(opening: BackedHost.storePath, options: opening, in: host.fs)
        defer { store.close() }
        var options = BackupService.Options()
        options.job.workers = 1
        options.ageMinNanoseconds = age
        return try service(host, at: time).run(
            folders.map { ($0, "name") }, store: store, hooks: nil, options: options)
    }

    @Test("a freeze that failed leaves nothing to be told by the next backup, and one bad disk leaves the others alone")
    func failures() throws {
        let folder = try TemporaryFolder()
        let host = try BackedHost(folder)
        let store = try LocalStore(opening: BackedHost.storePath, in: host.fs)
        defer { store.close() }
        let hooks = HookRunner(hooks: [.preFreeze: Hook(command: "exit 1")])
        #expect(throws: BackupFailure.self) {
            try service(host, at: Self.now).run(
                [(BackedHost.folders[0], "name")], store: store, hooks: hooks, options: BackupService.Options())
        }
        let own = try Disk.open(BackedHost.folders[0], in: host.fs)
        _ = try own.commitSnapshot(try own.prepareSnapshot())
        try own.close()
        let next = try run(host, at: Self.now, folders: [BackedHost.folders[0], "/not-there"])
        #expect(next.outcomes.map(\.remarks) == [[]])
        #expect(next.failures.map(\.disk) == ["/not-there"])
    }

    @Test("a state that a failed freeze has left is told by the next backup") func leftState() throws {
        let folder = try TemporaryFolder()
        let fs = LinuxFileSystem()
        let disk = folder.file("disk")
        try createDisk(
            at: disk, options: CreateOptions(byteCount: BackedHost.byteCount, clusterSize: .smallest), in: fs)
        try LocalStore.create(at: folder.file("store"), uuid: "uuid-1", chunkBytes: 4096, in: fs)
        let service = BackupService(
            attachments: DeviceAttachments(runFolder: folder.file("run")), fs: fs, time: FixedTime(realtime: Self.now))
        var opening = LocalStore.Options()
        opening.clock = FixedTime(realtime: Self.now)
        let store = try LocalStore(opening: folder.file("store"), options: opening, in: fs)
        defer { store.close() }
        // With the owner's lock gone nothing of the disk's is changed, so what was taken can't be merged again.
        let hooks = HookRunner(hooks: [.postThaw: Hook(command: "rm '\(disk)/godwit.lock'; exit 1")])
        #expect { _ = try service.run([(disk, "name")], store: store, hooks: hooks) } throws: {
            ($0 as? BackupFailure)?.message.contains("is left, delete it") == true
        }
        let own = try Disk.open(disk, in: fs)
        let left = try #require(try own.snapshots().first { !$0.isTop }).guid
        try own.close()
        let report = try service.run([(disk, "name")], store: store, hooks: nil)
        #expect(report.outcomes.first?.remarks.contains { $0.contains(left) } == true)
    }

    private static let day: UInt64 = 86_400_000_000_000
    private static let now: UInt64 = 1_800_000_000_000_000_000

    @Test("a point from a clock that was ahead is no reason to leave a disk out; a young one is, and is told")
    func clockAhead() throws {
        let folder = try TemporaryFolder()
        let host = try BackedHost(folder)
        #expect(try run(host, at: Self.now + 400 * Self.day).outcomes.count == 2)
        let late = try run(host, at: Self.now, age: Self.day).outcomes
        #expect(late.count == 2 && late.allSatisfy { $0.remarks.contains { $0.contains("later time") } })
        let again = try run(host, at: Self.now + Self.day / 2, age: Self.day)
        #expect(again.outcomes.isEmpty && again.leftOut.count == 2)
        #expect(try run(host, at: Self.now + 2 * Self.day, age: Self.day).outcomes.count == 2)
    }

    @Test("a mark whose point is gone or damaged does not count: the disk is backed up in whole", arguments: 0..<3)
    func badMark(kind: Int) throws {
        let folder = try TemporaryFolder()
        var random = SeededRandom("a mark without its point")
        var host = try prepared(folder, &random)
        for name in try host.fs.list("/store/points") {
            let path = "/store/points/" + name
            switch kind {
            case 0: try host.fs.remove(path)
            case 1: try host.fs.open(path, .update).writeBytes([0], at: 30)
            default: try host.fs.open(path, .update).truncate(to: 3)
            }
        }
        host.points = []
        let report = try run(host, at: Self.now, age: 100 * Self.day)
        #expect(report.outcomes.count == 2 && report.leftOut.isEmpty)
        #expect(report.outcomes.allSatisfy { !$0.statistics.isIncremental && !$0.remarks.isEmpty })
        let made = Set(report.outcomes.map(\.point.id))
        for name in try host.fs.list("/store/points") where !made.contains(name) {
            try host.fs.remove("/store/points/" + name)
        }
        try host.expectSound()
    }

    private func copy(_ host: BackedHost, _ source: String, to target: String) throws {
        try host.fs.createFolder(target)
        for name in try host.fs.list(source) {
            let bytes = try host.fs.contents(of: "\(source)/\(name)", limit: 1 << 30)
            let file = try host.fs.open(target + "/" + name, OpenMode(writable: true, creation: .exclusive))
            try file.writeBytes(bytes, at: 0)
        }
    }

    @Test(
        "a point that is known to lack something is not built on, though nothing else tells of that",
        arguments: [false, true])
    func lacking(isRepaired: Bool) throws {
        let folder = try TemporaryFolder()
        var random = SeededRandom("a point that lacks something, \(isRepaired)")
        var host = try prepared(folder, &random)
        // As of a copy of the store that was made while a backup ran: neither a pack nor what named it has come.
        var store = try LocalStore(opening: BackedHost.storePath, in: host.fs)
        let pack = try #require(
            try store.list(.pack).first { pack in
                try store.packDirectory(pack.name, byteCount: pack.byteCount).frames.contains { !$0.isNodes }
            })
        store.close()
        try host.fs.remove("\(BackedHost.storePath)/packs/\(pack.name.prefix(2))/\(pack.name)")
        for name in try host.fs.list("\(BackedHost.storePath)/index") {
            try host.fs.remove("\(BackedHost.storePath)/index/\(name)")
        }
        store = try LocalStore(opening: BackedHost.storePath, in: host.fs)
        let lost: [String]
        if isRepaired {
            lost = try RepairJob().run(store: store).damagedPoints
        } else {
            let found = try VerifyJob().run(store: store)
            lost = found.damagedPoints
            #expect(found.isNoted)
        }
        #expect(!lost.isEmpty)
        store.close()
        let before = host.points
        host.points.removeAll()
        for (point, outcome) in zip(before, try host.backup()) {
            #expect(outcome.statistics.isIncremental == !lost.contains(point))
        }
        try host.expectNextBackup(&random)
        // All that the first points lacked and the disks still had is there again; whole ones are not noted any more.
        store = try LocalStore(opening: BackedHost.storePath, in: host.fs)
        let left = try VerifyJob().run(store: store).damagedPoints
        #expect(Set(left).isSubset(of: lost))
        #expect(try Set(store.lackingPoints().keys) == Set(left))
        store.close()
    }

    @Test("a copy is another disk also while its original is backed up, or can't be read")
    func copyBesideOriginal() throws {
        let folder = try TemporaryFolder()
        var random = SeededRandom("a copy beside its original")
        let host = try prepared(folder, &random)
        let one = BackedHost.folders[0]
        let first = try run(host, at: Self.now, folders: [one]).outcomes[0].point.content.disk
        try copy(host, one, to: "/disks/copy")
        let report = try run(host, at: Self.now, folders: [one, "/disks/copy"])
        let disks = report.outcomes.map(\.point.content.disk)
        #expect(disks.count == 2 && disks[0] == first && disks[1] != first)
        // Moved; what is at the old place can't be read, so it counts as a copy, and the backup goes on.
        try host.fs.rename(one, to: "/disks/moved")
        try host.fs.createFolder(one)
        try copy(host, "/disks/moved", to: "/disks/back")
        try host.fs.replaceContents(of: one + "/" + DiskMarks.fileName, with: [1])
        host.fs.setObserver { call, subject in
            call == .read && subject.hasPrefix(one + "/" + DiskMarks.fileName) ? .fail(.ioError) : nil
        }
        let moved = try run(host, at: Self.now, folders: ["/disks/moved"]).outcomes[0]
        host.fs.setObserver(nil)
        #expect(moved.point.content.disk != first && moved.remarks.count == 2)
    }

    @Test("a folder that was moved, or is reached by a link, is the same disk, and a copy of it is not")
    func sameFolder() throws {
        let folder = try TemporaryFolder()
        let fs = LinuxFileSystem()
        let attachments = DeviceAttachments(runFolder: folder.file("run"))
        try LocalStore.create(at: folder.file("store"), uuid: "uuid-1", in: fs)
        try createDisk(at: folder.file("disk"), options: CreateOptions(byteCount: 1 << 20), in: fs)
        func backup(_ path: String) throws -> String {
            let store = try LocalStore(opening: folder.file("store"), in: fs)
            defer { store.close() }
            let report = try BackupService(attachments: attachments, fs: fs).run(
                [(folder.file(path), path)], store: store, hooks: nil, options: BackupService.Options())
            if let (_, failure) = report.failures.first { throw failure }
            return report.outcomes[0].point.content.disk
        }
        let first = try backup("disk")
        // By a link above it: resolved, the same path; then moved for good.
        try expectTool("ln", "-s", folder.path, folder.file("way"))
        #expect(try backup("way/disk") == first)
        try fs.rename(folder.file("disk"), to: folder.file("moved"))
        #expect(try backup("moved") == first)
        try expectTool("cp", "-a", folder.file("moved"), folder.file("copy"))
        #expect(try backup("copy") != first && backup("moved") == first)
    }

    @Test("a mark that names a point of another disk or state is no base") func foreignMark() throws {
        let folder = try TemporaryFolder()
        var random = SeededRandom("a foreign mark")
        var host = try prepared(folder, &random)
        let points = try host.backup().map(\.point)
        for (folder, mine, other) in [(BackedHost.folders[0], points[0], points[1])] {
            let marks = folder + "/" + DiskMarks.fileName
            let text = String(decoding: try host.fs.contents(of: marks, limit: 1 << 20), as: UTF8.self)
            #expect(text.contains(mine.id))
            try host.fs.replaceContents(of: marks, with: Array(text.replacing(mine.id, with: other.id).utf8))
        }
        let next = try host.backup()
        #expect(!next[0].statistics.isIncremental && next[1].statistics.isIncremental)
        try host.expectSound()
    }

    @Test(
        "where a repair changes a state that backups count from, the next one reads everything",
        arguments: ["", "/DiskDescriptor.xml", "/root.hds"])
    func repaired(path: String) throws {
        let folder = try TemporaryFolder()
        var random = SeededRandom("a repaired state")
        var host = try prepared(folder, &random)
        _ = try host.backup()
        let one = BackedHost.folders[0]
        // The frozen image was not closed, as after a crash in a merge: a repair says what it is about to do.
        let file = try host.fs.open(one + "/root.hds", .update)
        var header = try file.readBytes(at: 0, count: 64)
        header.replaceSubrange(44..<48, with: [0x59, 0x6e, 0x6f, 0x74])
        try file.writeBytes(header, at: 0)
        var told: [String] = []
        _ = try checkDisk(at: one + path, repair: true, in: host.fs) { (folder) throws(DiskError) in
            told.append(folder)
            try forgetBackupBases(of: folder, in: host.fs)
        }
        #expect(told == [one])
        let next = try host.backup()
        #expect(!next[0].statistics.isIncremental && next[1].statistics.isIncremental)
        // The state that it no longer needs goes with it.
        #expect(try host.fs.list(one).count == host.fs.list(BackedHost.folders[1]).count)
    }

    @Test("marks that can't be understood are kept and told of; a copied folder is another disk")
    func identities() throws {
        let folder = try TemporaryFolder()
        var random = SeededRandom("identities of disks")
        let host = try prepared(folder, &random)
        let one = BackedHost.folders[0]
        let first = try run(host, at: Self.now, folders: [one]).outcomes[0].point.content.disk
        // A copy.
        try copy(host, one, to: "/disks/copy")
        let copy = try run(host, at: Self.now, folders: ["/disks/copy"]).outcomes[0]
        #expect(copy.point.content.disk != first && !copy.statistics.isIncremental && copy.remarks.count == 1)
        let next = try run(host, at: Self.now, folders: ["/disks/copy"]).outcomes[0]
        #expect(next.point.content.disk == copy.point.content.disk && next.statistics.isIncremental)
        #expect(try run(host, at: Self.now, folders: [one]).outcomes[0].point.content.disk == first)
        // Moved, and not copied: the same disk.
        try host.fs.rename("/disks/copy", to: "/disks/moved")
        let moved = try run(host, at: Self.now, folders: ["/disks/moved"]).outcomes[0]
        #expect(moved.point.content.disk == copy.point.content.disk && moved.statistics.isIncremental)
        // Marks that somebody has spoilt.
        let marks = one + "/" + DiskMarks.fileName
        try host.fs.open(marks, .update).truncate(to: 1)
        let spoilt = try run(host, at: Self.now, folders: [one]).outcomes[0]
        #expect(spoilt.remarks.count == 1 && spoilt.point.content.disk != first)
        #expect(try host.fs.exists(marks + ".unreadable"))
    }
}

/// A clock that stands still.
private struct FixedTime: TimeSource {
    private let now: UInt64
    init(realtime: UInt64) { now = realtime }
    func monotonic() -> UInt64 { 0 }
    func realtime() -> UInt64 { now }
}
