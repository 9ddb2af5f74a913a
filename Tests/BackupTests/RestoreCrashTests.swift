import Backup
import BackupStore
import BlockIO
import DiskImage
import Geometry
import LinuxSystem
import TestSupport
import Testing

/// Restores under power cuts, full disks and failing media, at every call that changes something.
@Suite struct RestoreCrashTests {
    enum Kind: CaseIterable { case raw, disk }
    private static let path = "/restored/it"

    /// A store with one point, and an empty folder for the restore.
    private func prepared() throws -> (world: StoreWorld, point: RestorePoint, content: [UInt8]) {
        let world = try StoreWorld(backups: 2)
        try world.fs.createFolder("/restored")
        try world.fs.synchronizeFolder("/restored")
        try world.fs.synchronizeFolder("/")
        let last = try #require(world.kept.last)
        return (world, last.point, last.content)
    }

    private func restore(
        _ kind: Kind, _ point: RestorePoint, in world: StoreWorld, from store: LocalStore
    ) throws(BackupError) {
        var job = RestoreJob(
            point: point,
            target: kind == .raw
                ? .raw(file: Self.path) : .disk(folder: Self.path, clusterSize: ClusterSize.smallest))
        // With more, the order of the writes, and so what a number stands for, would change from run to run.
        job.workers = 1
        _ = try job.run(store: store, in: world.fs)
    }

    /// What is at the target, which must be whole.
    private func content(_ kind: Kind, in fs: SimulatedFileSystem) throws -> [UInt8] {
        if kind == .raw {
            let file = try fs.open(Self.path, .read)
            return try file.readBytes(at: 0, count: Int(try file.size()))
        }
        let report = try checkDisk(at: Self.path, in: fs)
        #expect(report.isSound, "\(report)")
        let disk = try Disk.open(Self.path, in: fs, options: .readOnly)
        var bytes = [UInt8](repeating: 1, count: StoreWorld.diskBytes)
        try bytes.withUnsafeMutableBytes { try disk.read(at: 0, into: $0) }
        return bytes
    }

    /// Whatever is left of a restore: the target is whole or not there, and a retry makes it whole and tidy.
    private func finish(
        _ kind: Kind, _ point: RestorePoint, _ expected: [UInt8], in world: StoreWorld, mustBeGone: Bool
    ) throws {
        if try world.fs.exists(Self.path) {
            guard !mustBeGone else { throw StoreWorld.Mismatch(description: "a failed restore left its target") }
            guard isSame(try content(kind, in: world.fs), expected) else {
                throw StoreWorld.Mismatch(description: "a half restored target")
            }
        } else {
            let store = try world.open()
            try restore(kind, point, in: world, from: store)
            store.close()
        }
        guard isSame(try content(kind, in: world.fs), expected) else {
            throw StoreWorld.Mismatch(description: "the retry made something else")
        }
        // A cut may have come when the target was there and the folder it was made in not gone: the next try tidies.
        let again = try world.open()
        #expect(throws: BackupError.self) { try restore(kind, point, in: world, from: again) }
        again.close()
        let names = try world.fs.list("/restored")
        guard names == ["it"] else { throw StoreWorld.Mismatch(description: "left: \(names)") }
    }

    @Test(
        "a cut at any change of a restore leaves nothing or all of it, and a retry is right", arguments: Kind.allCases)
    func powerCut(kind: Kind) throws {
        let (state, point, expected) = try prepared()
        let clean = state.duplicate()
        let store = try clean.open()
        let before = clean.calls()
        try restore(kind, point, in: clean, from: store)
        let changes = clean.calls() - before
        #expect(changes > 5)
        // A restore that has returned is there for good.
        let after = clean.afterPowerCut(.nothing)
        #expect(isSame(try content(kind, in: after.fs), expected))
        for number in 1...changes {
            for survival in StoreCrashTests.survivals(number) {
                let world = state.duplicate()
                let store = try world.open()
                world.fs.setPlan(.stop(atChange: number))
                try? restore(kind, point, in: world, from: store)
                do {
                    let after = world.afterPowerCut(survival)
                    try finish(kind, point, expected, in: after, mustBeGone: false)
                } catch {
                    Issue.record("\(kind), \(survival), change \(number) of \(changes): \(error)")
                    return
                }
            }
        }
    }

    @Test(
        "a full or failing file system at any call of a restore is told, leaves no target, and a retry is right",
        arguments: Kind.allCases, StoreCrashTests.faults.indices)
    func fault(kind: Kind, index: Int) throws {
        let fault = StoreCrashTests.faults[index]
        // A killed process leaves what is there: that is the cuts' part.
        guard fault.name != "killed process" else { return }
        let (state, point, expected) = try prepared()
        var number = 1
        while true {
            let world = state.duplicate()
            let store = try world.open()
            let before = world.calls(fault.calls)
            world.fs.setPlan(fault.plan(number))
            var failure: BackupError?
            do throws(BackupError) { try restore(kind, point, in: world, from: store) } catch { failure = error }
            let isOver = world.calls(fault.calls) - before < number
            world.fs.setPlan(nil)
            store.close()
            if isOver { break }
            do {
                if let failure {
                    let isFull = [.outOfSpace, .store(.outOfSpace), .disk(.outOfSpace)].contains(failure.code)
                    let isBroken = [.io, .store(.io), .disk(.io)].contains(failure.code)
                    guard fault.code == .outOfSpace ? isFull : isBroken, !failure.message.isEmpty else {
                        throw StoreWorld.Mismatch(description: "told as \(failure.code)")
                    }
                }
                try finish(kind, point, expected, in: world, mustBeGone: failure != nil)
                let after = world.afterPowerCut(.nothing)
                guard isSame(try content(kind, in: after.fs), expected) else {
                    throw StoreWorld.Mismatch(description: "not durable after the retry")
                }
            } catch {
                Issue.record(
                    "\(kind), \(fault.name), call \(number) (\(failure?.message ?? "no error")): \(error)")
                return
            }
            number += 1
        }
        #expect(number > 2)
    }

    @Test("a target that is taken is refused and stays as it is", arguments: Kind.allCases)
    func taken(kind: Kind) throws {
        let (world, point, _) = try prepared()
        let store = try world.open()
        defer { store.close() }
        if kind == .disk { try world.fs.createFolder(Self.path) }
        let path = kind == .raw ? Self.path : Self.path + "/note"
        try world.fs.open(path, OpenMode(writable: true, creation: .exclusive)).writeBytes([1, 2, 3], at: 0)
        let error = #expect(throws: BackupError.self) { try restore(kind, point, in: world, from: store) }
        #expect(error?.code == .exists)
        #expect(try world.fs.contents(of: path, limit: 100) == [1, 2, 3])
        #expect(try world.fs.list("/restored") == ["it"])
    }

    @Test("an empty folder may be where a disk is restored to") func emptyFolder() throws {
        let (world, point, expected) = try prepared()
        let store = try world.open()
        defer { store.close() }
        try world.fs.createFolder(Self.path)
        try restore(.disk, point, in: world, from: store)
        #expect(isSame(try content(.disk, in: world.fs), expected))
    }

    @Test("a restore that the user stops leaves nothing", arguments: Kind.allCases)
    func stopped(kind: Kind) throws {
        let (world, point, _) = try prepared()
        let store = try world.open()
        defer { store.close() }
        let target: RestoreTarget = kind == .raw ? .raw(file: Self.path) : .disk(folder: Self.path)
        let error = #expect(throws: BackupError.self) {
            _ = try RestoreJob(point: point, target: target).run(store: store, in: world.fs) { _, _ in false }
        }
        #expect(error?.code == .cancelled)
        #expect(try world.fs.list("/restored") == [])
    }
}
