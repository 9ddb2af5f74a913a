import BlockIO
import LinuxSystem
@testable import Migration
import SystemPackage
import TestSupport

/// Two hosts with a folder each on this one.
struct World {
    let temporary: TemporaryFolder
    let fs = LinuxFileSystem()
    let here: String
    let host: TargetHost
    let source: ScriptedSource
    let guest = CountingGuest()
    var options = MigrationOptions()

    var recovery: MigrationRecovery {
        let host = self.host
        return MigrationRecovery(folder: here, fs: fs, reach: { _ in host.target }, retire: {})
    }

    init(_ bytes: [UInt8], cutAfter count: Int? = nil) throws {
        temporary = try TemporaryFolder()
        here = temporary.file("here")
        try fs.createFolder(here)
        try fs.createFolder(temporary.file("there"))
        try fs.open(here + "/DiskDescriptor.xml", OpenMode(writable: true, creation: .exclusive)).writeBytes(
            [60], at: 0)
        host = TargetHost(fs: fs, folder: temporary.file("there/disk"), cutAfter: count)
        source = ScriptedSource(bytes)
        options.commitTimeoutMilliseconds = 0
    }

    func controller(
        to target: MigrationTarget? = nil, time: any TimeSource = SystemTime(),
        tell: @escaping (MigrationProgress) -> Void = { _ in }, shouldStop: @escaping @Sendable () -> Bool = { false }
    ) -> MigrationController {
        MigrationController(
            disk: MigratedDisk(
                folder: here, clusterBytes: 1 << 20, imageVersion: 2, usedBytes: source.byteCount,
                sizeBytes: source.byteCount),
            target: target ?? host.target, source: source, guest: guest, options: options, fs: fs, time: time,
            tell: tell, shouldStop: shouldStop)
    }

    func arrived() throws -> [UInt8] {
        try fs.contents(of: host.folder + "/root.hds", limit: 1 << 30)
    }
    /// Exactly one side owns.
    var isOwnedHere: Bool { (try? MigrationRecovery.record(here, in: fs)) == .some(nil) }
    var isInPlaceThere: Bool { (try? fs.exists(host.folder + "/DiskDescriptor.xml")) == true }
}
