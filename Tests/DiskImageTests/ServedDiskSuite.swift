import BlockIO
import DiskImage
import Geometry
import TestSupport

/// What suites about a disk in memory share whose descriptor somebody changes.
protocol ServedDiskSuite {}

extension ServedDiskSuite {
    static var cluster: ClusterSize { .smallest }
    static var descriptor: String { "/disk/DiskDescriptor.xml" }
    static var served: String { "/disk/DiskDescriptor.xml.served" }

    func newDisk() throws -> SimulatedFileSystem {
        let fs = SimulatedFileSystem()
        try createDisk(
            at: "/disk", options: CreateOptions(byteCount: 64 * Self.cluster.bytes, clusterSize: Self.cluster), in: fs)
        return fs
    }

    func open(_ fs: SimulatedFileSystem) throws -> Disk {
        var options = DiskOptions.standard
        options.finishInBackground = false
        return try Disk.open("/disk", in: fs, options: options)
    }

    func write(_ disk: Disk, _ byte: UInt8, at offset: UInt64 = 0) throws {
        try [UInt8](repeating: byte, count: 4096).withUnsafeBytes { try disk.write(at: offset, from: $0) }
        try disk.flush()
    }

    func contents(_ fs: SimulatedFileSystem) throws -> [UInt8] { try fs.contents(of: Self.descriptor, limit: 1 << 20) }

    func code(_ body: () throws -> Void) -> DiskError.Code? {
        do { try body() } catch { return (error as? DiskError)?.code }
        return nil
    }
}
