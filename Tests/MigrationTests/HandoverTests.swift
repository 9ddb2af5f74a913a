import BlockIO
import LinuxSystem
@testable import Migration
import Synchronization
import TestSupport
import Testing
import Transport

/// A clock that goes on only when somebody waits.
private final class ScriptedClock: TimeSource {
    private let now = Mutex<UInt64>(1)
    func monotonic() -> UInt64 { now.withLock { $0 } }
    func realtime() -> UInt64 { monotonic() }
    func advance(_ nanoseconds: UInt64) { now.withLock { $0 += nanoseconds } }
}

extension World {
    /// The target behind a link that drops what `lets` says no to.
    fileprivate func target(_ lets: @escaping @Sendable (String, Bool) -> Bool) -> MigrationTarget {
        let host = self.host
        return MigrationTarget(name: host.target.name, folder: host.folder) { () throws(TransportError) in
            FilterPeer(try host.connect(), lets)
        }
    }
}

@Suite struct HandoverTests {
    @Test("a commit whose answer is lost is asked again until it comes, each try is told, and the guest starts once")
    func lostAnswers() throws {
        var world = try World(sampleDisk(1 << 20))
        let clock = ScriptedClock()
        world.options.commitTimeoutMilliseconds = 60_000
        world.options.wait = { clock.advance($0) }
        let lost = Mutex(0)
        let target = world.target { payload, isRequest in
            guard !isRequest, payload.contains("\"active\"") else { return true }
            return lost.withLock {
                $0 += 1
                return $0 > 3
            }
        }
        let told = Mutex<[Int]>([])
        let report = try world.controller(to: target, time: clock) { event in
            if case .unanswered(let attempt, _, let next) = event {
                #expect(next != nil)
                told.withLock { $0.append(attempt) }
            }
        }.run()
        world.host.settle()
        #expect(report.startFailure == nil)
        #expect(told.withLock { $0 } == [1, 2])
        #expect(world.host.guest.state.withLock { $0.starts } == 1)
        #expect(try world.arrived() == world.source.content)
        #expect(!world.isOwnedHere)
    }

    @Test("a target that stays away is given up after the time for it, with a status of its own, and recovered later")
    func awayTarget() throws {
        var world = try World(sampleDisk(1 << 20))
        let clock = ScriptedClock()
        world.options.commitTimeoutMilliseconds = 60_000
        world.options.wait = { clock.advance($0) }
        let target = world.target { payload, isRequest in !(isRequest && payload.contains("\"commit\"")) }
        let tries = Mutex(0)
        let start = clock.monotonic()
        #expect {
            _ = try world.controller(to: target, time: clock) { event in
                if case .unanswered = event { tries.withLock { $0 += 1 } }
            }.run()
        } throws: {
            ($0 as? MigrationError)?.code == .unconfirmed
        }
        #expect((4...60).contains(tries.withLock { $0 }))
        #expect((30...61).contains((clock.monotonic() - start) / 1_000_000_000))
        #expect(!world.isOwnedHere && world.host.guest.state.withLock { $0.starts } == 0)
        guard case .ownedThere(_, nil, _) = try world.recovery.run() else {
            throw MigrationError(.source, "not recovered")
        }
        world.host.settle()
        #expect(try world.arrived() == world.source.content)
    }

    @Test("who wants to stop while the target does not answer is heard")
    func stopped() throws {
        var world = try World(sampleDisk(1 << 20))
        let clock = ScriptedClock()
        let wants = Mutex(false)
        world.options.commitTimeoutMilliseconds = 600_000
        world.options.wait = { nanoseconds in
            clock.advance(nanoseconds)
            wants.withLock { $0 = true }
        }
        let target = world.target { payload, isRequest in !(isRequest && payload.contains("\"commit\"")) }
        let controller = world.controller(to: target, time: clock, shouldStop: { wants.withLock { $0 } })
        #expect { _ = try controller.run() } throws: { ($0 as? MigrationError)?.code == .unconfirmed }
        #expect(clock.monotonic() < 10_000_000_000)
        world.host.settle()
    }

    @Test("a name that leads to another place later never activates the older copy there")
    func otherPlace() throws {
        var world = try World(sampleDisk(1 << 20))
        world.options.usesThreads = false
        // The same name, another place: as where a file system was not mounted.
        let other = TargetHost(fs: world.fs, folder: world.temporary.file("there/mounted"))
        let host = world.host
        let isMounted = Mutex(false)
        let lost = Mutex("\"prepared\"")
        let target = MigrationTarget(name: "there:/disk", folder: host.folder) { () throws(TransportError) in
            let word = lost.withLock { $0 }
            let peer = try isMounted.withLock { $0 } ? other.connect() : host.connect()
            return FilterPeer(peer) { payload, _ in word.isEmpty || !payload.contains(word) }
        }
        // The first attempt gets as far as a prepared copy whose answer is lost; the guest writes on.
        #expect { _ = try world.controller(to: target).run() } throws: { ($0 as? MigrationError)?.code == .link }
        #expect(world.source.guestWrites([7, 7, 7], at: 5000))
        // The second one goes elsewhere, and its commit is lost.
        isMounted.withLock { $0 = true }
        lost.withLock { $0 = "\"commit\"" }
        let elsewhere = Self.redirected(target, to: other.folder)
        #expect { _ = try world.controller(to: elsewhere).run() } throws: {
            ($0 as? MigrationError)?.code == .unconfirmed
        }
        lost.withLock { $0 = "" }
        // Back at the first place: that copy is not what was handed over.
        isMounted.withLock { $0 = false }
        #expect {
            _ = try MigrationRecovery(folder: world.here, fs: world.fs, reach: { _ in target }, retire: {}).run()
        } throws: {
            ($0 as? MigrationError)?.code == .refused
        }
        #expect(try !world.fs.exists(host.folder))
        isMounted.withLock { $0 = true }
        guard
            case .ownedThere = try MigrationRecovery(
                folder: world.here, fs: world.fs, reach: { _ in elsewhere }, retire: {}
            ).run()
        else { throw MigrationError(.source, "not recovered") }
        host.settle()
        other.settle()
        #expect(try world.fs.contents(of: other.folder + "/root.hds", limit: 1 << 30) == world.source.content)
    }

    private static func redirected(_ target: MigrationTarget, to folder: String) -> MigrationTarget {
        MigrationTarget(name: target.name, folder: folder, open: target.open)
    }

    @Test("a target that names another digest gets nothing, and the guest runs on")
    func otherDigest() throws {
        let world = try World(sampleDisk(1 << 20))
        let target = MigrationTarget(name: "there:/disk", folder: "/disk") {
            ScriptedPeer { request in
                switch request {
                case .check: .checked(problems: [], partialBytes: 0)
                case .begin: .begun
                case .sync: .synced(nanoseconds: .max)
                case .prepare: .prepared(root: String(repeating: "0", count: 64))
                case .commit: .active(nanoseconds: 1, startFailure: nil)
                case .abort, .ping: .done
                }
            }
        }
        #expect { _ = try world.controller(to: target).run() } throws: {
            ($0 as? MigrationError)?.code == .digestMismatch
        }
        #expect(world.isOwnedHere && world.source.guestWrites([1], at: 0))
        #expect(world.guest.state.withLock { $0.isRunning })
        #expect(try !world.fs.list(world.here).contains { $0.hasPrefix("godwit-migrated") })
    }

    @Test("a switch that outlasts the time for which writes are held back is given up, forced or not")
    func pauseIsOver() throws {
        for isForced in [true, false] {
            var world = try World(sampleDisk(1 << 20))
            world.options.limits.forcesSwitch = isForced
            world.options.limits.downtimeNanoseconds = 3_600_000_000_000
            let clock = ScriptedClock()
            let target = MigrationTarget(name: "there:/disk", folder: "/disk") {
                ScriptedPeer { asked in
                    switch asked {
                    case .check: return .checked(problems: [], partialBytes: 0)
                    case .begin: return .begun
                    case .sync: return .synced(nanoseconds: 1)
                    case .prepare:
                        clock.advance(61_000_000_000)
                        return nil
                    case .commit: return .active(nanoseconds: 1, startFailure: nil)
                    case .abort, .ping: return .done
                    }
                }
            }
            #expect { _ = try world.controller(to: target, time: clock).run() } throws: {
                let error = $0 as? MigrationError
                return error?.code == .expired && error?.message.contains("60 s") == true
            }
            #expect(world.isOwnedHere && world.source.guestWrites([1], at: 0))
            #expect(world.guest.state.withLock { $0.isRunning })
        }
    }

    @Test(
        "a target that does not answer keeps nobody who wants to stop",
        arguments: ["check", "begin", "sync", "prepare"])
    func silentTarget(request: String) throws {
        let world = try World(sampleDisk(1 << 20))
        let wants = Mutex(false)
        let target = MigrationTarget(name: "there:/disk", folder: "/disk") {
            ScriptedPeer { asked in
                if String(decoding: encodeJSON(asked), as: UTF8.self).contains("\"\(request)\"") {
                    wants.withLock { $0 = true }
                    return nil
                }
                return switch asked {
                case .check: .checked(problems: [], partialBytes: 0)
                case .begin: .begun
                case .sync: .synced(nanoseconds: 1)
                case .prepare: .prepared(root: "")
                case .commit: .active(nanoseconds: 1, startFailure: nil)
                case .abort, .ping: .done
                }
            }
        }
        #expect { _ = try world.controller(to: target, shouldStop: { wants.withLock { $0 } }).run() } throws: {
            ($0 as? MigrationError)?.code == .cancelled
        }
        #expect(world.isOwnedHere && world.source.guestWrites([1], at: 0))
        #expect(world.guest.state.withLock { $0.isRunning })
    }
}
