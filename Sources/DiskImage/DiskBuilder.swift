public import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import Synchronization

/// A new disk whose content is known in ascending order: clusters are placed one after the other by one thread, and
/// written by any.
public final class DiskBuilder: Sendable {
    public let clusterBytes: UInt64
    private let file: any StorageFile
    private let path: String
    private let writer: Mutex<SequentialImageWriter>

    fileprivate init(_ writer: sending SequentialImageWriter, file: any StorageFile, path: String, clusterBytes: UInt64)
    {
        self.writer = Mutex(writer)
        self.file = file
        self.path = path
        self.clusterBytes = clusterBytes
    }

    /// Gives a place in the file to virtual cluster `cluster`; each must be larger than the one before. The caller
    /// writes all of it before the end.
    /// - Returns: offset in the image file. Clusters placed one after the other are neighbours there.
    public func place(_ cluster: UInt64) throws(DiskError) -> UInt64 {
        try writer.withLock { (writer) throws(DiskError) in try writer.allocate(cluster) }
    }

    /// Writes at an offset in the image file.
    public func write(at fileOffset: UInt64, from memory: UnsafeRawBufferPointer) throws(DiskError) {
        do throws(SystemError) { try unsafe file.write(at: fileOffset, from: memory) } catch {
            throw DiskError(error, path: path)
        }
    }

    fileprivate func finish() throws(DiskError) {
        try writer.withLock { (writer) throws(DiskError) in try writer.finish() }
    }
}

/// Makes a disk at `folder` with what `fill` places and writes. After a failure or a crash there is no disk; the caller
/// gives the folder its name when it is whole.
/// - Throws: what ``createDisk(at:options:in:)`` throws, and what `fill` throws.
public func buildDisk(
    at folder: String, options: CreateOptions, in fs: any FileSystem, _ fill: (DiskBuilder) throws(DiskError) -> Void
) throws(DiskError) {
    let header = try newHeader(options, path: folder)
    try fillFolder(folder, in: fs) { (file, path) throws(DiskError) in
        let builder = DiskBuilder(
            try SequentialImageWriter(header, file: file, path: path), file: file, path: path,
            clusterBytes: header.clusterSize.bytes)
        try fill(builder)
        try builder.finish()
        return DiskDescriptor(header: header, file: baseImageName)
    }
}
