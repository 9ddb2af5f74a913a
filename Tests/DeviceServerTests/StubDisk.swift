import AgentAPI
@testable import DeviceServer
import DiskImage
import Geometry
import LinuxSystem
import Synchronization

/// A disk that does what a test wants when it is asked for something; the rest succeeds without doing anything.
final class StubDisk: ControlledDisk {
    let onGrow: @Sendable () throws(DiskError) -> Void
    let onClose: @Sendable () throws(DiskError) -> Void

    init(
        onGrow: @escaping @Sendable () throws(DiskError) -> Void = {},
        onClose: @escaping @Sendable () throws(DiskError) -> Void = {}
    ) {
        self.onGrow = onGrow
        self.onClose = onClose
    }

    func status() throws(DiskError) -> DeviceStatus {
        DeviceStatus(folder: "/stub", pid: ownProcess(), sizeBytes: 1 << 20, clusterBytes: 1 << 16, deltas: 1)
    }
    func prepareSnapshot() throws(DiskError) -> any PreparedSwitch { throw Self.unsupported }
    func snapshots() throws(DiskError) -> [SnapshotInfo] { [] }
    func deleteSnapshot(_ guid: String, progress: (UInt64, UInt64) -> Bool) throws(DiskError) -> Bool { true }
    func grow(to bytes: UInt64) throws(DiskError) { try onGrow() }
    func compact(bytesPerSecond: UInt64, progress: (UInt64, UInt64) -> Bool) throws(DiskError) -> Bool { true }
    func startTracking(granuleBytes: UInt64) throws(DiskError) -> any ChangeTracker { throw Self.unsupported }
    func holdWrites(milliseconds: UInt64) throws(DiskError) {}
    func letWritesGo() {}
    let location = "/stub"
    func isGivenAway() throws(DiskError) -> Bool { false }
    func beginRelease() throws(DiskError) {}
    func finishRelease() {}
    func cancelRelease() {}
    func prepareToClose(isForced: Bool) throws(DiskError) {}
    func close() throws(DiskError) { try onClose() }

    private static let unsupported = DiskError(.unsupported, "a stub", path: "/stub")
}
