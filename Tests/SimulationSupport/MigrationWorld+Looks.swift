import BlockIO
import DiskImage
import Geometry
import LinuxSystem
import Migration
import TestSupport

/// Who owns the disk, and what it holds.
extension MigrationWorld {
    private var places: [String] {
        Array(Set(shape.folders.map { $0.replacing("/./", with: "/") })).sorted()
    }

    /// Where a disk is in place at the target.
    private func arrived() throws -> [String] {
        try places.filter { try theirs.exists($0 + "/DiskDescriptor.xml") }
    }

    /// At any time there is at most one owner, and where it is the source its guest writes on.
    func look(_ what: String) throws {
        let role = Scheduler.actor?.role
        Scheduler.actor?.role = Work(WorldProcess("look"), nil)
        defer { Scheduler.actor?.role = role }
        let isGivenUp = try MigrationRecovery.record(Self.here, in: ours) != nil
        let there = try arrived()
        guard there.count <= 1 else { throw Finding("\(what): the disk is in place at \(there)") }
        if !isGivenUp, !there.isEmpty { throw Finding("\(what): both sides own the disk") }
        if guestThere.wasStartedTwice { throw Finding("\(what): the guest was started twice") }
        if guestThere.isRunning, !isGivenUp {
            throw Finding("\(what): the guest runs there, the disk is here")
        }
    }

    /// Brings what is left to an end, and compares.
    func conclude() throws {
        Scheduler.actor?.role = Work(WorldProcess("look"), nil)
        clients = clients.map { WorldProcess($0.name) }
        target = WorldProcess("target")
        try look("at the end")
        let step = Step(number: 1_000_000, lane: 1, action: .recover(messages: 0))
        guard let record = try MigrationRecovery.record(Self.here, in: ours) else {
            guard source.write([1, 2, 3], at: 1024) else {
                throw Finding("at the end: the disk is the source's, and its guest stands still")
            }
            return
        }
        let outcome = try recovery(step, messages: 0).run()
        if record.state == .released, case .ownedThere(_, nil, _) = outcome, guestThere.starts == 0 {
            throw Finding("at the end: a recovery said that the guest runs there, and it was not started")
        }
        scheduler.joinAll { _ in true }
        try look("after the last recovery")
        let there = try arrived()
        guard there.count == 1 else {
            throw Finding("at the end: the disk was given up, and is nowhere in place")
        }
        let disk = try Disk.open(there[0], in: theirs)
        var bytes = [UInt8](repeating: 1, count: Int(disk.byteCount))
        try bytes.withUnsafeMutableBytes { try disk.read(at: 0, into: $0) }
        try disk.close()
        guard bytes == source.content else {
            throw Finding("at the end: the disk there holds something else")
        }
        // A start that failed was told, and is begun again by the unit at boot, or a command, there.
        if guestThere.starts == 0 { _ = try receiver.resume(folder: there[0]) }
        guard guestThere.starts > 0 else { throw Finding("at the end: the guest was not started") }
        note("moved")
    }
}

/// A migration's conversation with the disk's server: it ends with the migration.
final class SourceOfGuest: MigrationSource, @unchecked Sendable {
    // @unchecked: under a scheduler one thread runs at a time.
    private let disk: GuestDisk
    private let number: Int
    private let scheduler: Scheduler
    private let client: WorldProcess

    init(_ disk: GuestDisk, number: Int, _ scheduler: Scheduler, _ client: WorldProcess) {
        self.disk = disk
        self.number = number
        self.scheduler = scheduler
        self.client = client
    }

    var byteCount: UInt64 { UInt64(disk.content.count) }

    private func enter() throws(MigrationError) {
        scheduler.point()
        guard !client.isDead, !disk.isDown else {
            throw MigrationError(.link, "the disk's server is gone")
        }
    }

    /// The connection ends, also when the client dies: what is held goes on where there is no record.
    func hangUp(isGivenUp: Bool) {
        guard disk.holder == number else { return }
        disk.holder = nil
        if isGivenUp { disk.isReleased = true }
    }

    func read(_ ranges: [ByteRange], into memory: UnsafeMutableRawBufferPointer)
        throws(MigrationError)
    {
        try enter()
        var position = 0
        for range in ranges {
            UnsafeMutableRawBufferPointer(rebasing: memory[position..<position + Int(range.count)])
                .copyBytes(from: disk.content[Int(range.offset)..<Int(range.end)])
            position += Int(range.count)
        }
    }
    func dataRuns(in range: ByteRange) throws(MigrationError) -> (
        runs: [ByteRange], coveredTo: UInt64
    ) {
        try enter()
        return ([range], range.end)
    }
    func flush() throws(MigrationError) { try enter() }
    func startTracking(granuleBytes: UInt64) throws(MigrationError) {
        try enter()
        guard disk.tracker == nil else {
            throw MigrationError(.refused, "a migration of the disk is under way")
        }
        disk.tracker = DirtyTracking()
        tracking = disk.tracker
    }
    private var tracking: DirtyTracking?
    func takeDirty(from offset: UInt64) throws(MigrationError) -> (
        runs: [ByteRange], coveredTo: UInt64
    ) {
        try enter()
        guard offset == 0 else { return ([], byteCount) }
        let granules = disk.tracker?.take() ?? []
        return (
            granules.map { granule in
                let start = UInt64(granule) * 4096
                return ByteRange(offset: start, count: min(4096, byteCount - start))
            }, byteCount
        )
    }
    func dirtyBytes() throws(MigrationError) -> UInt64 {
        UInt64((disk.tracker?.dirty.count ?? 0) * 4096)
    }
    func stopTracking() {
        if let tracking, disk.tracker === tracking { disk.tracker = nil }
        tracking = nil
    }
    func pause(deadlineMilliseconds: UInt64) throws(MigrationError) -> Bool {
        try enter()
        guard disk.holder == nil else { throw MigrationError(.refused, "writes are held already") }
        disk.holder = number
        return true
    }
    func resume() { if disk.holder == number { disk.holder = nil } }
    func release() throws(MigrationError) {
        try enter()
        guard disk.holder == number else { throw MigrationError(.expired, "the pause has ended") }
    }
    func confirmRelease() {
        guard disk.holder == number else { return }
        disk.isReleased = true
        disk.holder = nil
    }
    func retire() throws(MigrationError) { disk.isReleased = true }
}
