import AgentAPI
import BlockIO
@testable import DeviceServer
import DiskImage
import Geometry
import LinuxSystem
@testable import NBDServer
import TestSupport

/// A server on a new disk, in this process.
final class ServedExport: Sendable {
    let folder: TemporaryFolder
    let path: String
    let socket: String
    let control: String
    let device: DeviceServer
    let listener: ExportListener
    static let byteCount: UInt64 = 64 << 20

    /// - Parameters:
    ///   - parent: where the disk's folder is made.
    ///   - fs: where the disk's files are.
    init(
        in parent: String? = nil, readOnly: Bool = false,
        limits: ExportListener.Limits = ExportListener.Limits(), fs: any FileSystem = LinuxFileSystem()
    ) throws {
        folder = try TemporaryFolder()
        path = "\(parent ?? folder.path)/disk"
        socket = folder.file("nbd.sock")
        control = folder.file("control.sock")
        var options = CreateOptions(byteCount: Self.byteCount)
        options.clusterSize = ClusterSize(bytes: 64 << 10) ?? .standard
        try createDisk(at: path, options: options, in: LinuxFileSystem())
        var configuration = DeviceConfiguration(disk: path, controlSocket: control)
        configuration.options.readOnly = readOnly
        device = try DeviceServer.start(Disk.open(path, in: fs, options: configuration.options), configuration)
        listener = try ExportListener.start(at: socket, device: device, limits: limits)
    }

    deinit {
        try? device.stop()
        listener.stop()
    }

    var uri: String { "nbd+unix:///?socket=\(socket)" }
    func controller() throws -> ControlClient { try ControlClient.connect(control) }
    func client() throws -> RawClient { try RawClient(socket) }

    /// The clients that the disk's owner counts.
    func clientCount() throws -> Int { try controller().status().clients?.count ?? 0 }
}
