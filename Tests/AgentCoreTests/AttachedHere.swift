@testable import AgentCore
import BlockIO
import DeviceServer
import DiskImage
import Geometry
import LinuxSystem
import TestSupport
import Testing

/// A disk whose server runs in this process, and which the attachments of a run folder of its own know.
final class AttachedHere: Sendable {
    let path: String
    let server: DeviceServer
    let record: AttachedDisk

    init(_ name: String, in folder: TemporaryFolder, attachments: DeviceAttachments) throws {
        path = folder.file(name)
        var options = CreateOptions(byteCount: 16 << 20)
        options.clusterSize = ClusterSize(bytes: 64 << 10) ?? .standard
        try createDisk(at: path, options: options, in: LinuxFileSystem())
        let entry = RunEntry(runFolder: attachments.runFolder, disk: try LinuxFileSystem().resolve(path))
        try entry.create()
        server = try DeviceServer.start(DeviceConfiguration(disk: path, controlSocket: entry.controlSocket))
        let this = try #require(try ProcessHandle(ownProcess()))
        record = AttachedDisk(
            disk: try LinuxFileSystem().resolve(path),
            server: ProcessMark(pid: this.identifier, startTicks: this.startTicks), entry: entry, backend: .user,
            readOnly: false)
        try entry.store(record)
    }

    deinit { try? server.stop() }

    func write(_ number: UInt64, at offset: UInt64 = 0, durable: Bool = true) throws {
        let block = [UInt64](repeating: number, count: 512)
        try block.withUnsafeBytes { try server.write(at: offset, from: $0, durable: durable) }
    }

    /// The number that the state holds.
    func number(in snapshot: String) throws -> UInt64 {
        let state = try FrozenState.open(path, snapshot: snapshot, in: LinuxFileSystem())
        var block = [UInt64](repeating: 0, count: 512)
        try block.withUnsafeMutableBytes { try state.read(at: 0, into: $0) }
        return block[0]
    }
}
