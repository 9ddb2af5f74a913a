import BlockIO
import Geometry
import LinuxSystem
@testable import Migration
import Synchronization
import SystemPackage
import TestSupport
import Testing

/// Lets a process die: from the nth change on nothing it does has any effect.
final class DyingProcess: Sendable {
    private let left: Mutex<Int>
    init(after count: Int) { left = Mutex(count) }
    var isDead: Bool { left.withLock { $0 < 0 } }
    func change() throws(SystemError) {
        try left.withLock { left throws(SystemError) in
            left -= left < 0 ? 0 : 1
            try Self.check(left)
        }
    }
    func look() throws(SystemError) { try left.withLock { left throws(SystemError) in try Self.check(left) } }
    private static func check(_ left: Int) throws(SystemError) {
        if left < 0 { throw SystemError(errno: .ioError, operation: "go on in", subject: "a dead process") }
    }
}

struct DyingFileSystem: FileSystem {
    let base: any FileSystem
    let process: DyingProcess

    func open(_ path: String, _ mode: OpenMode) throws(SystemError) -> any StorageFile {
        if mode.creation == .never { try process.look() } else { try process.change() }
        return DyingFile(base: try base.open(path, mode), process: process)
    }
    func rename(_ source: String, to target: String) throws(SystemError) {
        try process.change()
        try base.rename(source, to: target)
    }
    func remove(_ path: String) throws(SystemError) {
        try process.change()
        try base.remove(path)
    }
    func synchronizeFolder(_ path: String) throws(SystemError) {
        try process.change()
        try base.synchronizeFolder(path)
    }
    func createFolder(_ path: String) throws(SystemError) {
        try process.change()
        try base.createFolder(path)
    }
    func removeFolder(_ path: String) throws(SystemError) {
        try process.change()
        try base.removeFolder(path)
    }
    func exists(_ path: String) throws(SystemError) -> Bool {
        try process.look()
        return try base.exists(path)
    }
    func isFolder(_ path: String) throws(SystemError) -> Bool {
        try process.look()
        return try base.isFolder(path)
    }
    func list(_ path: String) throws(SystemError) -> [String] {
        try process.look()
        return try base.list(path)
    }
    func space(at path: String) throws(SystemError) -> SpaceInfo {
        try process.look()
        return try base.space(at: path)
    }
    func lock(_ path: String, wait: Bool) throws(SystemError) -> (any HeldLock)? {
        try process.look()
        return try base.lock(path, wait: wait)
    }
    func resolve(_ path: String) throws(SystemError) -> String {
        try process.look()
        return try base.resolve(path)
    }
}

final class DyingFile: StorageFile {
    let base: any StorageFile
    let process: DyingProcess
    init(base: any StorageFile, process: DyingProcess) {
        self.base = base
        self.process = process
    }
    var alignment: Int { base.alignment }
    func size() throws(SystemError) -> UInt64 { try base.size() }
    func allocatedBytes() throws(SystemError) -> UInt64 { try base.allocatedBytes() }
    func perform(_ transfers: [Transfer]) throws(SystemError) {
        if transfers.contains(where: { $0.operation == .write }) { try process.change() } else { try process.look() }
        try base.perform(transfers)
    }
    func synchronize() throws(SystemError) {
        try process.change()
        try base.synchronize()
    }
    func truncate(to size: UInt64) throws(SystemError) {
        try process.change()
        try base.truncate(to: size)
    }
    func reserve(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
        try process.change()
        return try base.reserve(offset: offset, count: count)
    }
    func zero(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
        try process.change()
        return try base.zero(offset: offset, count: count)
    }
    func punch(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
        try process.change()
        return try base.punch(offset: offset, count: count)
    }
    func nextData(from offset: UInt64) throws(SystemError) -> (offset: UInt64, count: UInt64)? {
        try process.look()
        return try base.nextData(from: offset)
    }
}

extension DyingFile {
    func unwrittenRanges(in range: ByteRange) throws(SystemError) -> [ByteRange]? {
        try process.look()
        return try base.unwrittenRanges(in: range)
    }
}

@Suite struct MigrationCrashTests {
    enum Side: CaseIterable { case source, target }

    @Test(
        "whichever side dies at whichever step, one side owns the disk, and it can be brought to its end",
        arguments: Side.allCases)
    func everyStep(side: Side) throws {
        let bytes = sampleDisk(600 << 10)
        let real = LinuxFileSystem()
        var step = 0
        while true {
            let temporary = try TemporaryFolder()
            let here = temporary.file("here")
            try real.createFolder(here)
            try real.createFolder(temporary.file("there"))
            try real.open(here + "/DiskDescriptor.xml", OpenMode(writable: true, creation: .exclusive)).writeBytes(
                [60], at: 0)
            let process = DyingProcess(after: step)
            let dying = DyingFileSystem(base: real, process: process)
            let host = TargetHost(fs: side == .target ? dying : real, folder: temporary.file("there/disk"))
            var source = ScriptedSource(bytes)
            func migrate(_ source: ScriptedSource, _ fs: any FileSystem, _ target: MigrationTarget)
                throws(MigrationError)
            {
                var options = MigrationOptions()
                options.usesThreads = false
                _ = try MigrationController(
                    disk: MigratedDisk(folder: here, clusterBytes: 1 << 20, imageVersion: 2, usedBytes: 600 << 10),
                    target: target, source: source, guest: CountingGuest(), options: options, fs: fs
                ).run()
            }
            var failure: MigrationError?
            do { try migrate(source, side == .source ? dying : real, host.target) } catch { failure = error }
            host.settle()
            let died = process.isDead

            // After the reboot: the folders tell who owns.
            let isInPlace = try real.exists(host.folder + "/DiskDescriptor.xml")
            let record = try MigrationRecovery.record(here, in: real)
            #expect(!(record == nil && isInPlace), "two owners when the \(side) dies at step \(step)")
            if failure == nil { #expect(record != nil && isInPlace) }
            if side == .target, record == nil {
                #expect(
                    source.state.withLock { !$0.isPaused && !$0.isReleased },
                    "the guest stands still after step \(step)")
            }
            let alive = TargetHost(fs: real, folder: host.folder)
            if record == nil {
                // The disk is attached again, and its guest writes.
                source = ScriptedSource(source.content)
                source.guestWrites([7, 7, 7], at: 12345)
                _ = try MigrationRecovery.run(folder: here, fs: real, reach: { _ in alive.target }, retire: {})
                try migrate(source, real, alive.target)
            } else {
                let outcome = try MigrationRecovery.run(
                    folder: here, fs: real, reach: { _ in alive.target }, retire: {})
                guard case .ownedThere = outcome else { throw MigrationError(.source, "\(outcome) after step \(step)") }
            }
            alive.settle()
            let arrived = try real.contents(of: host.folder + "/root.hds", limit: 1 << 30)
            #expect(arrived == source.content, "when the \(side) dies at step \(step)")
            #expect(try real.exists(host.folder + "/DiskDescriptor.xml"))
            #expect(try MigrationRecovery.record(here, in: real)?.state == .finished)
            #expect(try real.list(temporary.file("there")) == ["disk"])
            if !died { break }
            step += 1
        }
        #expect(step > 15)
    }
}
