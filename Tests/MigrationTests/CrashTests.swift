import BlockIO
import DiskImage
import LinuxSystem
@testable import Migration
import Synchronization
import SystemPackage
import TestSupport
import Testing

/// Two hosts, each with a disk of its own that can lose its power.
private struct TwoHosts {
    static let here = "/disks/one"
    static let there = "/disks/two"
    static let bytes = 448 << 10
    let ours: SimulatedFileSystem
    let theirs: SimulatedFileSystem
    let source: ScriptedSource

    init(content: [UInt8]) throws {
        ours = SimulatedFileSystem()
        theirs = SimulatedFileSystem()
        source = ScriptedSource(content)
        for fs in [ours, theirs] {
            try fs.createFolder("/disks")
            try fs.synchronizeFolder("/")
        }
        try ours.createFolder(Self.here)
        let descriptor = try ours.open(
            Self.here + "/DiskDescriptor.xml", OpenMode(writable: true, creation: .exclusive))
        try descriptor.writeBytes([60], at: 0)
        try descriptor.synchronize()
        try ours.synchronizeFolder(Self.here)
        try ours.synchronizeFolder("/disks")
    }

    init(ours: SimulatedFileSystem, theirs: SimulatedFileSystem, source: ScriptedSource) {
        self.ours = ours
        self.theirs = theirs
        self.source = source
    }

    /// As it is after the power of one side was cut: there the disk is attached again, if it is still in place.
    func rebooted(_ side: MigrationCrashTests.Side, _ survival: Survival) -> TwoHosts {
        TwoHosts(
            ours: side == .source ? ours.afterPowerCut(survival) : ours,
            theirs: side == .target ? theirs.afterPowerCut(survival) : theirs, source: ScriptedSource(source.content))
    }

    var host: TargetHost { TargetHost(fs: theirs, folder: Self.there, disks: DiskFolders(fs: theirs)) }

    func migrate() throws(MigrationError) {
        let host = self.host
        defer { host.settle() }
        var options = MigrationOptions()
        options.usesThreads = false
        options.granuleBytes = 64 << 10
        options.commitTimeoutMilliseconds = 0
        // So that the last copy, too, has something that must be durable.
        let source = self.source
        var hasWritten = false
        _ = try MigrationController(
            disk: MigratedDisk(
                folder: Self.here, clusterBytes: 32 << 10, imageVersion: 2, usedBytes: UInt64(Self.bytes),
                sizeBytes: UInt64(Self.bytes)),
            target: host.target, source: source, guest: CountingGuest(), options: options, fs: ours,
            tell: { progress in
                guard case .round = progress, !hasWritten else { return }
                hasWritten = source.guestWrites([8, 8, 8], at: 200_000)
            }
        ).run()
    }

    func recover() throws(MigrationError) -> MigrationOutcome {
        let host = self.host
        defer { host.settle() }
        return try MigrationRecovery(folder: Self.here, fs: ours, reach: { _ in host.target }, retire: {}).run()
    }

    var isOwnedHere: Bool {
        get throws { try MigrationRecovery.record(Self.here, in: ours) == nil }
    }
    var isInPlaceThere: Bool {
        get throws { try theirs.exists(Self.there + "/DiskDescriptor.xml") }
    }

    func arrived() throws -> [UInt8] {
        let disk = try Disk.open(Self.there, in: theirs)
        var bytes = [UInt8](repeating: 1, count: Int(disk.byteCount))
        try bytes.withUnsafeMutableBytes { try disk.read(at: 0, into: $0) }
        try disk.close()
        return bytes
    }
}

@Suite struct MigrationCrashTests {
    enum Side: CaseIterable { case source, target }
    private static let content = sampleDisk(TwoHosts.bytes, seed: 5)

    /// Brings what a fault has left to its end, and checks that nothing is lost.
    private func finish(_ hosts: TwoHosts, _ when: String) throws {
        if try hosts.isOwnedHere {
            #expect(try !hosts.isInPlaceThere, "two owners \(when)")
            // The guest runs on, and writes what the target does not have.
            #expect(hosts.source.guestWrites([7, 7, 7], at: 12345), "the guest stands still \(when)")
            _ = try hosts.recover()
            try hosts.migrate()
        } else if case .ownedThere = try hosts.recover() {
        } else {
            Issue.record("a disk without an owner \(when)")
        }
        #expect(try hosts.arrived() == hosts.source.content, "\(when)")
        #expect(try MigrationRecovery.record(TwoHosts.here, in: hosts.ours)?.state == .finished, "\(when)")
        #expect(try hosts.theirs.list("/disks") == ["two"], "\(when)")
    }

    @Test(
        "whichever side loses its power at whichever step, one side owns the disk, and all is brought to its end",
        arguments: Side.allCases, [.everything, .nothing, .random(seed: 3)] as [Survival])
    func powerCuts(side: Side, survival: Survival) throws {
        var number = 1
        while true {
            let hosts = try TwoHosts(content: Self.content)
            let cut = side == .source ? hosts.ours : hosts.theirs
            cut.setPlan(.stop(atChange: number))
            var failure: MigrationError?
            do { try hosts.migrate() } catch { failure = error }
            let when = "when the \(side) stops at change \(number) (\(survival))"
            guard cut.isStopped else {
                #expect(failure == nil)
                // What was told to be done is done: both sides may lose their power after that.
                let after = TwoHosts(
                    ours: hosts.ours.afterPowerCut(survival), theirs: hosts.theirs.afterPowerCut(survival),
                    source: hosts.source)
                #expect(try !after.isOwnedHere && after.isInPlaceThere, "after success")
                #expect(try after.arrived() == hosts.source.content, "after success")
                break
            }
            if side == .target, try hosts.isOwnedHere {
                #expect(hosts.source.guestWrites([1], at: 99), "the guest stands still \(when)")
            }
            try finish(hosts.rebooted(side, survival), when)
            number += 1
        }
        #expect(number > 15)
    }

    /// Both hosts after the source lost its power between giving the disk up and hearing that the target has it.
    private func released() throws -> TwoHosts {
        for number in 1... {
            let hosts = try TwoHosts(content: Self.content)
            hosts.ours.setPlan(.stop(atChange: number))
            do { try hosts.migrate() } catch {}
            guard hosts.ours.isStopped else { break }
            let after = hosts.rebooted(.source, .nothing)
            if try MigrationRecovery.record(TwoHosts.here, in: after.ours)?.state == .released { return after }
        }
        throw SystemError(errno: .notSupported, operation: "find", subject: "a cut that leaves a released disk")
    }

    @Test("a damaged record of a migration is told, and never makes a second owner", arguments: Side.allCases)
    func damagedRecords(side: Side) throws {
        let state = try released()
        let fs = side == .source ? state.ours : state.theirs
        let folders = side == .source ? [TwoHosts.here] : try fs.list("/disks").map { "/disks/" + $0 }
        var paths: [String] = []
        for folder in folders {
            paths += try fs.list(folder).filter { $0.hasSuffix(".json") }.map { folder + "/" + $0 }
        }
        #expect(!paths.isEmpty)
        var random = SeededRandom("damaged records at the \(side)")
        for path in paths {
            let bytes = try fs.contents(of: path, limit: 1 << 16)
            for sample in 0..<150 {
                let hosts = TwoHosts(
                    ours: state.ours.duplicate(), theirs: state.theirs.duplicate(),
                    source: ScriptedSource(state.source.content))
                let damaged = side == .source ? hosts.ours : hosts.theirs
                let file = try damaged.open(path, .update)
                let byte = random.below(bytes.count)
                if sample % 3 == 0 {
                    try file.truncate(to: UInt64(byte))
                } else {
                    try file.writeBytes([bytes[byte] ^ 1 << UInt8(random.below(8))], at: UInt64(byte))
                }
                var outcome: MigrationOutcome?
                do { outcome = try hosts.recover() } catch { #expect(!error.message.isEmpty) }
                let what = "seed \(random.seed), sample \(sample) of \(path)"
                if case .ownedHere = outcome { Issue.record("a second owner: \(what)") }
                // The record's name is what keeps the source's disk from being used.
                #expect(try hosts.ours.exists(TwoHosts.here + "/godwit-migrated.json"), "\(what)")
                if try hosts.isInPlaceThere { #expect(try hosts.arrived() == state.source.content, "\(what)") }
            }
        }
    }

    @Test(
        "a full or failing file system on either side stops nothing but the migration", arguments: Side.allCases,
        [true, false])
    func faults(side: Side, isFull: Bool) throws {
        var number = 1
        while true {
            let hosts = try TwoHosts(content: Self.content)
            let cut = side == .source ? hosts.ours : hosts.theirs
            let calls: Set<FaultPlan.Call> = isFull ? FaultPlan.Call.taking : FaultPlan.Call.changes
            cut.setPlan(FaultPlan(.fail(isFull ? .noSpace : .ioError), at: number, of: calls))
            var failure: MigrationError?
            do { try hosts.migrate() } catch { failure = error }
            let made = cut.counts.filter { calls.contains($0.key) }.values.reduce(0, +)
            cut.setPlan(nil)
            let when = "when call \(number) fails at the \(side) (\(failure?.message ?? "without effect"))"
            if failure != nil {
                try finish(hosts, when)
            } else {
                #expect(try hosts.arrived() == hosts.source.content, "\(when)")
            }
            guard made >= number else { break }
            number += 1
        }
        #expect(number > 8)
    }
}
