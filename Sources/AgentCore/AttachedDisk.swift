internal import BlockIO
internal import Geometry

/// Who moves the data of an attached disk.
public enum DiskBackend: String, Codable, Hashable, Sendable, CaseIterable {
    /// The driver in the kernel.
    case kernel
    /// The engine in a process of its own.
    case user
}

/// How a disk is attached.
public struct AttachOptions: Hashable, Sendable {
    /// `nil`: the driver when it is loaded and can take the disk, else the engine.
    public var backend: DiskBackend?
    public var readOnly = false
    /// Bypass the host's page cache where its file system allows it.
    public var direct = true
    /// How long the server may take to open the disk; repairing a large one after a crash takes a while.
    public var startSeconds: UInt64 = 600
    public init() {}
}

/// How an attached disk's file system is mounted.
public struct MountOptions: Hashable, Sendable {
    /// As in mount(8): `nil` lets the kernel's prober choose.
    public var fileSystem: String?
    /// As in mount(8) `-o`.
    public var options: String?
    /// 1 or more: a partition; `nil`: the whole disk.
    public var partition: Int?
    public var readOnly = false
    /// Make the device only, for mkfs or for a guest; nothing is mounted.
    public var deviceOnly = false
    public init() {}
}

/// A disk that a server of its own holds open. Stored as `attach.json` in the disk's run folder.
public struct AttachedDisk: Codable, Hashable, Sendable {
    /// The disk's folder or image, with symbolic links resolved.
    public var disk: String
    public var server: ProcessMark
    public var controlSocket: String
    /// Of the engine only.
    public var nbdSocket: String?
    public var readOnly: Bool
    public var device: BlockDevice?
    /// What a command has begun to make, until it is ``device``: who finds it here after a crash takes it away.
    /// Its path may be empty.
    public var intended: BlockDevice?
    public var mountpoint: String?
    /// The folder or image by its file system and number there, which a rename leaves; empty: not known.
    public var identity: String?
    /// A damaged or uncleanly closed image was repaired when the server opened it.
    public var repairedOnOpen: Bool

    public var backend: DiskBackend { nbdSocket == nil ? .kernel : .user }
    init(disk: String, server: ProcessMark, entry: RunEntry, backend: DiskBackend, readOnly: Bool) {
        self.disk = disk
        self.server = server
        controlSocket = entry.controlSocket
        nbdSocket = backend == .user ? entry.nbdSocket : nil
        self.readOnly = readOnly
        identity = Self.identity(of: disk)
        repairedOnOpen = false
    }

    /// As in ``identity``. - Returns: `nil` when there is nothing, or it can't be examined.
    static func identity(of disk: String) -> String? {
        guard let file = (try? LinuxFileSystem().identity(of: disk)).flatMap({ $0 }) else { return nil }
        return "\(file.device):\(file.inode)"
    }

    /// For NBD clients; the driver serves none.
    public var uri: String? { nbdSocket.map { Self.uri(of: $0) } }

    /// Of an export on a Unix socket; bytes that would end the path there are `%XX`.
    static func uri(of socket: String, export: String = "") -> String {
        let path = socket.utf8.map { byte in
            let isPlain =
                (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
                || (UInt8(ascii: "-")...UInt8(ascii: "9")).contains(byte) || byte == UInt8(ascii: "_")
            let digits = String(byte, radix: 16)
            return isPlain ? String(UnicodeScalar(byte)) : "%" + (digits.utf8.count < 2 ? "0" : "") + digits
        }
        return "nbd+unix:///\(export)?socket=\(path.joined())"
    }
}

/// A process that can be told from a later one of the same number.
public struct ProcessMark: Codable, Hashable, Sendable {
    public var pid: Int32
    /// Clock ticks from boot to the process's start.
    public var startTicks: UInt64
}

/// The kernel's block device of an attached disk.
public struct BlockDevice: Codable, Hashable, Sendable {
    public enum Way: String, Codable, Hashable, Sendable {
        /// The kernel's NBD client.
        case nbd
        /// A FUSE file with a loop device on it.
        case fuseLoop
        /// The driver's own device.
        case ploop
    }
    public var way: Way
    /// `/dev/nbd0`, `/dev/loop0` or `/dev/ploop0`.
    public var path: String
    /// The partition's device, when one was asked for.
    public var partitionPath: String?
    /// nbdfuse, with ``Way/fuseLoop``.
    public var fuse: ProcessMark?
    /// Of ``Way/nbd``: what the kernel names as its client, which tells a later user of the same device.
    public var client: Int32?

    /// What is mounted.
    public var mounted: String { partitionPath ?? path }
    /// The number at the end of ``partitionPath``, as in `/dev/nbd0p1`.
    var partition: Int? { partitionPath.flatMap { name in name.parts(between: "p").last.flatMap { Int($0) } } }
}
