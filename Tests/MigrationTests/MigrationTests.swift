import BlockIO
import Codecs
import Geometry
import LinuxSystem
@testable import Migration
import Synchronization
import TestSupport
import Testing

@Suite struct MigrationTests {
    @Test("a disk arrives whole while its guest writes", arguments: [true, false], [64 << 10, 4 << 10] as [UInt64])
    func arrives(usesThreads: Bool, granule: UInt64) throws {
        var world = try World(sampleDisk(20 << 20 | 512))
        world.options.usesThreads = usesThreads
        world.options.granuleBytes = granule
        let random = Mutex(SeededRandom("a guest that writes"))
        let looks = Mutex(0)
        world.source.onLook.withLock {
            $0 = { source in
                guard
                    looks.withLock({
                        $0 += 1; return $0
                    }) < 40
                else { return }
                random.withLock { random in
                    for _ in 0..<4 {
                        let count = random.oneIn(3) ? random.below(200_000) + 1 : 4096
                        let zero = random.oneIn(4)
                        source.guestWrites(
                            zero ? [UInt8](repeating: 0, count: count) : random.bytes(count),
                            at: random.below(20 << 20 | 512 - count))
                    }
                }
            }
        }
        // Rounds that find something: the first write comes before the second round.
        let rounds = Mutex(0)
        let source = world.source
        let report = try world.controller(tell: { event in
            if case .round = event,
                rounds.withLock({
                    $0 += 1; return $0
                }) < 4
            {
                source.guestWrites([UInt8](repeating: 7, count: 3 << 20), at: 1 << 20)
            }
        }).run()
        world.host.settle()
        #expect(try world.arrived() == world.source.content)
        #expect(report.sourceDigest == report.targetDigest)
        #expect(Digest(hex: report.sourceDigest) != nil)
        #expect(!world.isOwnedHere && world.isInPlaceThere)
        #expect(world.source.state.withLock { $0.isReleased && $0.isRetired })
        #expect(world.host.guest.state.withLock { $0.starts } == 1)
        #expect(try world.fs.list(world.here).contains("DiskDescriptor.xml.migrated"))
        #expect(try !world.fs.exists(world.host.folder + ".godwit-partial"))
        #expect(MigrationFiles.obstacle(world.here, in: world.fs)?.contains("there:") == true)
        // Nobody can say whose it is then.
        let record = "\(world.here)/\(MigrationFiles.migrated)"
        try expectTool("mv", record, record + ".away")
        try world.fs.createFolder(record)
        #expect(MigrationFiles.obstacle(world.here, in: world.fs) != nil)
        try world.fs.removeFolder(record)
        #expect(MigrationFiles.obstacle(world.here, in: world.fs) == nil)
        try expectTool("mv", record + ".away", record)
    }

    @Test("what both sides have is not sent")
    func sparse() throws {
        let world = try World([UInt8](repeating: 0, count: 64 << 20))
        world.source.guestWrites([1, 2, 3], at: 40 << 20)
        let report = try world.controller().run()
        world.host.settle()
        #expect(report.sentBytes < 100 << 10)
        #expect(world.source.state.withLock { $0.readBytes } < 1 << 20)
        #expect(try world.arrived() == world.source.content)
    }

    @Test("all that is in the way is told at once, and nothing is changed")
    func refused() throws {
        let world = try World(sampleDisk(1 << 20))
        try world.fs.createFolder(world.host.folder)
        try world.fs.createFolder(world.host.folder + ".godwit-partial")
        try world.fs.open(world.host.folder + ".godwit-partial/x", OpenMode(writable: true, creation: .exclusive))
            .writeBytes([1], at: 0)
        #expect {
            try world.controller().run()
        } throws: { error in
            let error = error as? MigrationError
            return error?.code == .refused && error?.message.contains("exists already") == true
                && error?.message.contains("part of another disk") == true
        }
        world.host.settle()
        #expect(try world.fs.list(world.here) == ["DiskDescriptor.xml", "godwit-migration.lock"])
        #expect(try world.fs.list(world.host.folder + ".godwit-partial") == ["x"])
    }

    @Test("a guest that writes too fast runs on, and a second attempt reuses what is there")
    func notConverging() throws {
        var world = try World(sampleDisk(8 << 20))
        world.options.limits.downtimeNanoseconds = 0
        world.options.limits.roundsMax = 3
        #expect { try world.controller().run() } throws: { ($0 as? MigrationError)?.code == .notConverging }
        world.host.settle()
        #expect(world.isOwnedHere && !world.isInPlaceThere)
        #expect(world.source.guestWrites([9], at: 5))
        #expect(world.guest.state.withLock { $0.isRunning })
        #expect(
            try world.fs.list(world.here) == [
                "DiskDescriptor.xml", "godwit-migration.json", "godwit-migration.lock",
            ])
        world.options.limits = PrecopyLimits()
        let report = try world.controller().run()
        world.host.settle()
        #expect(report.reusedBytes > 4 << 20)
        #expect(report.sentBytes < 200 << 10)
        #expect(try world.arrived() == world.source.content)
    }

    @Test("a forced switch keeps its promise of a switch")
    func forced() throws {
        var world = try World(sampleDisk(1 << 20))
        world.options.limits.downtimeNanoseconds = 0
        world.options.limits.roundsMax = 2
        world.options.limits.forcesSwitch = true
        let report = try world.controller().run()
        world.host.settle()
        #expect(report.isForced)
        #expect(try world.arrived() == world.source.content)
    }

    @Test("a guest that does not stop, or a pause that runs out, rolls back")
    func rollsBack() throws {
        let world = try World(sampleDisk(1 << 20))
        world.guest.state.withLock { $0.failsToStop = true }
        #expect { try world.controller().run() } throws: { ($0 as? MigrationError)?.code == .guest }
        world.guest.state.withLock { $0.failsToStop = false }
        world.source.state.withLock { $0.expires = true }
        #expect { try world.controller().run() } throws: { ($0 as? MigrationError)?.code == .expired }
        world.host.settle()
        #expect(world.isOwnedHere && !world.isInPlaceThere)
        #expect(world.guest.state.withLock { $0.isRunning })
        #expect(world.source.guestWrites([1, 2], at: 0))
        // The target had said that it is prepared; it can still be gone on from.
        world.source.state.withLock { $0.expires = false }
        _ = try world.controller().run()
        world.host.settle()
        #expect(try world.arrived() == world.source.content)
    }

    @Test("the user can stop it")
    func cancelled() throws {
        let world = try World(sampleDisk(4 << 20))
        #expect { try world.controller(shouldStop: { true }).run() } throws: {
            ($0 as? MigrationError)?.code == .cancelled
        }
        world.host.settle()
        #expect(world.isOwnedHere && world.source.guestWrites([1], at: 0))
    }

    @Test("with --remove-source nothing is left here")
    func removesSource() throws {
        var world = try World(sampleDisk(1 << 20))
        world.options.removesSource = true
        let report = try world.controller().run()
        world.host.settle()
        #expect(report.leftBehind == nil)
        #expect(try !world.fs.exists(world.here))
        #expect(world.isInPlaceThere)
    }

    @Test("a link that is cut after any message leaves one owner, and a rerun or recovery ends it")
    func cuts() throws {
        let bytes = sampleDisk(1 << 20)
        var count = 0
        while true {
            var world = try World(bytes, cutAfter: count)
            world.options.usesThreads = false
            var completed = false
            do {
                _ = try world.controller().run()
                completed = true
            } catch {
                #expect([.link, .unconfirmed, .protocolViolation].contains(error.code), "\(count): \(error)")
                #expect(error.code == .unconfirmed ? !world.isOwnedHere : world.isOwnedHere, "\(count)")
            }
            world.host.settle()
            #expect(!(world.isOwnedHere && world.isInPlaceThere), "two owners after \(count) messages")
            if world.isOwnedHere {
                #expect(world.source.state.withLock { !$0.isPaused && !$0.isReleased }, "after \(count) messages")
                #expect(world.guest.state.withLock { $0.isRunning })
            }
            let wasCut = world.host.cutter.withLock { $0.isCut }
            world.host.cutter.withLock { $0 = Cutter(after: nil) }
            if !completed, world.isOwnedHere {
                world.source.guestWrites([3, 3, 3], at: 700_000)
                _ = try world.controller().run()
            } else if !completed {
                let host = world.host
                let outcome = try MigrationRecovery(
                    folder: world.here, fs: world.fs, reach: { _ in host.target }, retire: {}
                ).run()
                guard case .ownedThere = outcome else {
                    throw MigrationError(.source, "owned by \(outcome) after \(count)")
                }
            }
            world.host.settle()
            #expect(!world.isOwnedHere && world.isInPlaceThere)
            #expect(try world.arrived() == world.source.content, "after \(count) messages")
            if !wasCut { break }
            count += 1
        }
        #expect(count > 15)
    }
}
