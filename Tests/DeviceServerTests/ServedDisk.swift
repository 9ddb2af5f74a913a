import AgentAPI
import BlockIO
@testable import DeviceServer
import DiskImage
import Geometry
import LinuxSystem
import TestSupport

/// A server on a new disk, in this process.
final class ServedDisk: Sendable {
    let folder: TemporaryFolder
    let path: String
    let socket: String
    let server: DeviceServer

    init(byteCount: UInt64 = 16 << 20, onShutdown: @escaping @Sendable () -> Void = {}) throws {
        folder = try TemporaryFolder()
        path = folder.file("disk")
        socket = folder.file("control.sock")
        var options = CreateOptions(byteCount: byteCount)
        options.clusterSize = ClusterSize(bytes: 64 << 10) ?? .standard
        try createDisk(at: path, options: options, in: LinuxFileSystem())
        server = try DeviceServer.start(
            DeviceConfiguration(disk: path, controlSocket: socket), onShutdown: onShutdown)
    }

    deinit { try? server.stop() }

    func client() throws -> ControlClient { try ControlClient.connect(socket) }

    func write(_ byte: UInt8, at offset: UInt64, count: Int, durable: Bool = false) throws {
        let bytes = [UInt8](repeating: byte, count: count)
        try bytes.withUnsafeBytes { try server.write(at: offset, from: $0, durable: durable) }
    }

    func read(at offset: UInt64, count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: count)
        try bytes.withUnsafeMutableBytes { try server.read(at: offset, into: $0) }
        return bytes
    }
}

/// A thread whose end can be asked for and waited for.
final class Background: Sendable {
    private let thread: OwnThread
    private let ended: Pipe

    init(_ body: @escaping @Sendable () -> Void) throws {
        let pipe = try Pipe()
        let signal = try OwnedDescriptor(duplicating: pipe.writing.number)
        let holder = DescriptorHolder(signal)
        ended = pipe
        thread = try OwnThread(name: "background") {
            body()
            holder.write()
        }
    }

    /// Whether it ends within that time.
    func ends(withinMilliseconds milliseconds: Int) throws -> Bool {
        var entries = [PollEntry(ended.reading.number, .readable)]
        return try pollDescriptors(&entries, deadlineMilliseconds: milliseconds) > 0
    }

    func join() { thread.join() }
}

private final class DescriptorHolder: Sendable {
    private let descriptor: OwnedDescriptor
    init(_ descriptor: consuming OwnedDescriptor) { self.descriptor = descriptor }
    func write() { try? descriptor.writeAll([0]) }
}
