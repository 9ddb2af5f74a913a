import BlockIO
import ImageFormat
import LinuxSystem
@testable import Migration
import Synchronization
import TestSupport
import Testing
import Transport

/// A clock that goes on when it is told to.
private final class StepClock: TimeSource {
    private let now = Mutex<UInt64>(1)
    func monotonic() -> UInt64 { now.withLock { $0 } }
    func realtime() -> UInt64 { monotonic() }
    func advance(_ nanoseconds: UInt64) { now.withLock { $0 += nanoseconds } }
}

@Suite struct SourceSideTests {
    @Test("two migrations of one disk, and a recovery beside one, leave each other alone")
    func oneAtATime() throws {
        let world = try World(sampleDisk(4 << 20))
        let second = try TemporaryFolder()
        let other = TargetHost(fs: world.fs, folder: second.file("disk"))
        let seen = Mutex<[MigrationError.Code]>([])
        let report = try world.controller { event in
            guard case .round = event else { return }
            for target in [world.host.target, other.target] {
                do { _ = try world.controller(to: target).run() } catch {
                    seen.withLock { $0.append((error as? MigrationError)?.code ?? .source) }
                }
            }
            do { _ = try world.recovery.run() } catch {
                seen.withLock { $0.append((error as? MigrationError)?.code ?? .source) }
            }
        }.run()
        world.host.settle()
        other.settle()
        let codes = seen.withLock { $0 }
        #expect(codes.count >= 3 && codes.allSatisfy { $0 == .busy })
        #expect(report.sourceDigest == report.targetDigest)
        #expect(try world.arrived() == world.source.content)
        #expect(try !world.fs.exists(other.folder + ".godwit-partial"))
    }

    @Test("the disk does not grow from before anything is asked of the target until it is handed over")
    func growth() throws {
        let world = try World(sampleDisk(1 << 20))
        let grown = Mutex<[Bool]>([])
        let host = world.host
        let source = world.source
        let target = MigrationTarget(name: "there:/disk", folder: host.folder) { () throws(TransportError) in
            grown.withLock { $0.append(source.grows()) }
            return FilterPeer(try host.connect()) { _, _ in
                // Once it is given up nobody uses it any more.
                grown.withLock { $0.append(source.grows()) }
                return true
            }
        }
        #expect(source.grows())
        _ = try world.controller(to: target).run()
        host.settle()
        #expect(grown.withLock { $0.count > 10 && !$0.contains(true) })
    }

    @Test("a record that can't be made leaves the disk and its running guest here")
    func recordFails() throws {
        let world = try World(sampleDisk(1 << 20))
        let (fs, here) = (world.fs, world.here)
        world.source.onRelease.withLock { $0 = { try? fs.remove(here + "/godwit-migrated.json.pending") } }
        #expect { _ = try world.controller().run() } throws: { ($0 as? MigrationError)?.code == .source }
        world.host.settle()
        #expect(world.isOwnedHere && !world.isInPlaceThere)
        #expect(world.source.guestWrites([1], at: 0))
        #expect(world.guest.state.withLock { $0.isRunning })
    }

    @Test("a guest that can't be started again is what is told, and a recovery starts it")
    func guestDown() throws {
        let world = try World(sampleDisk(1 << 20))
        world.guest.state.withLock {
            $0.hasHook = true
            $0.failsToRestart = true
        }
        world.source.state.withLock { $0.expires = true }
        #expect { _ = try world.controller().run() } throws: {
            let error = $0 as? MigrationError
            return error?.code == .guestDown && error?.message.contains("start hook failed") == true
                && error?.message.contains("ended by itself") == true
        }
        world.host.settle()
        #expect(world.isOwnedHere)
        // A rerun would take the guest for one that runs.
        world.source.state.withLock { $0.expires = false }
        #expect { _ = try world.controller().run() } throws: {
            let error = $0 as? MigrationError
            return error?.code == .guestDown && error?.message.contains("an earlier migration") == true
        }
        world.host.settle()
        let restarted = Mutex<[String?]>([])
        let recovery = MigrationRecovery(
            folder: world.here, fs: world.fs, reach: { _ in world.host.target }, retire: {},
            restart: { note in restarted.withLock { $0.append(note.mountpoint) } })
        guard case .ownedHere(let left) = try recovery.run() else { throw MigrationError(.source, "not here") }
        #expect(left.wasRestarted && left.restartFailure == nil)
        // Once is enough.
        _ = try recovery.run()
        #expect(restarted.withLock { $0 } == ["/srv/one"])
    }

    @Test(
        "a switch that takes too long is given up and the guest goes on, unless it is forced",
        arguments: [false, true])
    func slowSwitch(isForced: Bool) throws {
        var world = try World(sampleDisk(1 << 20))
        let clock = StepClock()
        world.options.usesThreads = false
        world.options.limits.forcesSwitch = isForced
        world.source.onLook.withLock {
            $0 = { source in
                guard source.state.withLock({ $0.isPaused }) else { return }
                clock.advance(1_100_000_000)
            }
        }
        if isForced {
            _ = try world.controller(time: clock).run()
            world.host.settle()
            #expect(try world.arrived() == world.source.content)
        } else {
            #expect { _ = try world.controller(time: clock).run() } throws: {
                let error = $0 as? MigrationError
                return error?.code == .expired && error?.message.contains("--force-switch") == true
            }
            world.host.settle()
            #expect(world.isOwnedHere && world.source.guestWrites([1], at: 0))
            #expect(world.guest.state.withLock { $0.isRunning })
        }
    }

    @Test("a target that hangs in the switch does not keep the guest")
    func hangingSwitch() throws {
        let world = try World(sampleDisk(1 << 20))
        let target = MigrationTarget(name: "there:/disk", folder: "/disk") {
            ScriptedPeer { request in
                switch request {
                case .check: .checked(problems: [], partialBytes: 0)
                case .begin: .begun
                case .sync: .synced(nanoseconds: 1)
                case .prepare: nil
                case .commit: .active(nanoseconds: 1, startFailure: nil)
                case .abort, .ping: .done
                }
            }
        }
        #expect { _ = try world.controller(to: target).run() } throws: { ($0 as? MigrationError)?.code == .expired }
        #expect(world.isOwnedHere && world.source.guestWrites([1], at: 0))
        #expect(world.guest.state.withLock { $0.isRunning })
    }

    @Test("with --remove-source only the disk's own files go, and the rest is told")
    func removesItsOwn() throws {
        var world = try World(sampleDisk(1 << 20))
        world.options.removesSource = true
        for name in ["notes.txt", "godwit-marks.json", "godwit.leftovers"] {
            try world.fs.open(world.here + "/" + name, OpenMode(writable: true, creation: .exclusive))
                .writeBytes([1], at: 0)
        }
        try world.fs.createFolder(world.here + "/hooks")
        let report = try world.controller().run()
        world.host.settle()
        #expect(report.leftBehind?.contains("hooks, notes.txt") == true)
        #expect(
            try world.fs.list(world.here) == [
                "godwit-migrated.json", "godwit-migration.lock", "hooks", "notes.txt",
            ])
        #expect(!world.isOwnedHere && world.isInPlaceThere)
        // The target has confirmed, and is asked no more, whatever is left here.
        for name in ["notes.txt", ""] {
            if !name.isEmpty {
                // Put back by hand: it was confirmed by nobody.
                for put in ["DiskDescriptor.xml", "root.hds"] {
                    try world.fs.open(world.here + "/" + put, OpenMode(writable: true, creation: .exclusive))
                        .writeBytes([1], at: 0)
                }
            }
            let outcome = try MigrationRecovery(
                folder: world.here, fs: world.fs,
                reach: { _ throws(MigrationError) in throw MigrationError(.link, "asked again") }, retire: {}
            ).run()
            guard case .ownedThere(_, nil, let left) = outcome else { throw MigrationError(.source, "\(outcome)") }
            #expect(left.isEmpty == name.isEmpty)
            if name.isEmpty { break }
            #expect(left.contains("root.hds") && left.contains("DiskDescriptor.xml"), "\(left)")
            for put in [name, "DiskDescriptor.xml", "root.hds"] { try world.fs.remove(world.here + "/" + put) }
            try world.fs.removeFolder(world.here + "/hooks")
        }
        #expect(try !world.fs.exists(world.here))
    }

    @Test("no image of a disk is called like a file of a migration") func names() {
        for name in [
            MigrationFiles.outgoing, MigrationFiles.migrated, MigrationFiles.migratedPending, MigrationFiles.incoming,
            MigrationFiles.arrived, MigrationFiles.descriptor, MigrationFiles.descriptorPartial,
            MigrationFiles.descriptorMigrated, MigrationFiles.tree, MigrationFiles.probe, MigrationFiles.lock,
        ] {
            #expect(!DiskDescriptor.isPlainName(name) && !DiskDescriptor.isPlainName(name + ".tmp"), "\(name)")
        }
    }

    @Test("another folder in the place of the source's is neither given up nor removed")
    func replaced() throws {
        let world = try World(sampleDisk(1 << 20))
        let place = SourcePlace(folder: world.here, fs: world.fs)
        try world.fs.rename(world.here, to: world.here + ".old")
        try world.fs.createFolder(world.here)
        for name in [
            "DiskDescriptor.xml", "godwit-migrated.json.pending", "godwit-marks.json", "godwit-migration.tree",
        ] {
            try world.fs.open(world.here + "/" + name, OpenMode(writable: true, creation: .exclusive))
                .writeBytes([60], at: 0)
        }
        let names = try world.fs.list(world.here)
        #expect { try place.giveUp() } throws: { ($0 as? MigrationError)?.code == .refused }
        for removes in [true, false] {
            #expect { _ = try place.finish(removesSource: removes, retire: {}) } throws: {
                ($0 as? MigrationError)?.code == .refused
            }
        }
        place.forgetGivingUp()
        place.removeTree()
        #expect(throws: MigrationError.self) { try place.provenRecord() }
        #expect(try world.fs.list(world.here) == names)
    }

    @Test("a folder that is moved away once the disk is given up leaves its guest stopped: the record is in it")
    func movedAfterGivingUp() throws {
        let world = try World(sampleDisk(1 << 20))
        let (fs, here, host) = (world.fs, world.here, world.host)
        let target = MigrationTarget(name: "there:/disk", folder: host.folder) { () throws(TransportError) in
            FilterPeer(try host.connect()) { payload, isRequest in
                guard isRequest, payload.contains("\"commit\"") else { return true }
                try? fs.rename(here, to: here + ".old")
                return false
            }
        }
        #expect { _ = try world.controller(to: target).run() } throws: {
            ($0 as? MigrationError)?.code == .unconfirmed
        }
        host.settle()
        #expect(try fs.exists(here + ".old/godwit-migrated.json"))
        #expect(world.guest.state.withLock { !$0.isRunning })
        // Back in its place it is gone on with.
        try fs.rename(here + ".old", to: here)
        guard case .ownedThere = try world.recovery.run() else { throw MigrationError(.source, "not there") }
        host.settle()
    }

    @Test("a folder that is moved away before the disk is given up leaves the guest running here")
    func movedBeforeGivingUp() throws {
        let world = try World(sampleDisk(1 << 20))
        let (fs, here) = (world.fs, world.here)
        world.source.onRelease.withLock { $0 = { try? fs.rename(here, to: here + ".old") } }
        #expect { _ = try world.controller().run() } throws: { ($0 as? MigrationError)?.code == .refused }
        world.host.settle()
        #expect(world.source.guestWrites([1], at: 0) && world.guest.state.withLock { $0.isRunning })
        #expect(try !fs.exists(here + ".old/godwit-migrated.json"))
    }

    @Test("what a target may run is asked before anything moves")
    func commands() throws {
        var world = try World(sampleDisk(1 << 20))
        world.options.startCommand = "true"
        world.host.guest.state.withLock { $0.refusesCommands = true }
        #expect { _ = try world.controller().run() } throws: {
            let error = $0 as? MigrationError
            return error?.code == .refused && error?.message.contains("runs no commands") == true
        }
        world.host.settle()
        #expect(try !world.fs.exists(world.host.folder + ".godwit-partial"))
    }

    @Test("attempts to several targets are all remembered, and one disk goes on wherever it left off")
    func severalTargets() throws {
        var world = try World(sampleDisk(4 << 20))
        let other = TargetHost(fs: world.fs, folder: world.temporary.file("there/other"))
        world.options.limits.downtimeNanoseconds = 0
        world.options.limits.roundsMax = 2
        for target in [world.host.target, other.target] {
            #expect { _ = try world.controller(to: target).run() } throws: {
                ($0 as? MigrationError)?.code == .notConverging
            }
        }
        guard case .ownedHere(let left) = try world.recovery.run() else { throw MigrationError(.source, "not here") }
        #expect(left.targets == [world.host.target.name, other.target.name])
        world.options.limits = PrecopyLimits()
        let report = try world.controller().run()
        world.host.settle()
        other.settle()
        #expect(report.reusedBytes > 1 << 20)
        #expect(try world.arrived() == world.source.content)
    }
}
