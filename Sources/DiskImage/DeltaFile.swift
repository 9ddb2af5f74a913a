internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// One file of a chain, as it was when it was opened: geometry and access, no state.
final class DeltaFile: Sendable {
    /// The unit in which a block table is read, cached and written.
    static let pageBytes = 4096
    /// Entries on a page; page 0 starts with the header, so cluster `c` stands in slot `c + 16` of the file.
    static let pageSlots = 1024
    static let headerSlots = 16

    let path: String
    let file: any StorageFile
    /// `nil` for a raw file, whose clusters stand where they are on the device.
    let header: ImageHeader?
    let bat: BatGeometry?
    let clusterSize: ClusterSize
    /// Size of the device that this delta describes.
    let byteCount: UInt64

    var isRaw: Bool { bat == nil }
    var clusterCount: UInt64 { byteCount.dividedRoundingUp(by: clusterSize.bytes) }

    init(path: String, file: any StorageFile, header: ImageHeader) {
        self.path = path
        self.file = file
        self.header = header
        bat = header.bat
        clusterSize = header.clusterSize
        byteCount = header.byteCount
    }

    init(rawAt path: String, file: any StorageFile, byteCount: UInt64, clusterSize: ClusterSize) {
        self.path = path
        self.file = file
        header = nil
        bat = nil
        self.clusterSize = clusterSize
        self.byteCount = byteCount
    }

    /// Opens an image and checks its header.
    static func open(
        _ path: String, in fs: any FileSystem, writable: Bool, direct: Bool
    ) throws(DiskError) -> DeltaFile {
        let file = try openFile(path, in: fs, writable: writable, direct: direct)
        let header = try readHeader(of: file, path: path)
        return DeltaFile(path: path, file: file, header: header)
    }

    /// Opens a raw base.
    static func openRaw(
        _ path: String, clusterSize: ClusterSize, in fs: any FileSystem, writable: Bool
    ) throws(DiskError) -> DeltaFile {
        // Buffered: its size may be no multiple of a block, and must not become one.
        let file = try openFile(path, in: fs, writable: writable, direct: false)
        let size = try withPath(path) { () throws(SystemError) in try file.size() }
        guard size > 0 else { throw DiskError(.corrupt, "\(path): the raw image is empty", path: path) }
        return DeltaFile(
            rawAt: path, file: file, byteCount: size / sectorBytes * sectorBytes, clusterSize: clusterSize)
    }

    /// The same file as the medium has it. Whoever had it open may have died after the host had lost what was written,
    /// which the host's cache would still show, and take for stored.
    func readAnew() throws(DiskError) -> DeltaFile {
        file.dropCache()
        guard header != nil else { return self }
        return DeltaFile(path: path, file: file, header: try Self.readHeader(of: file, path: path))
    }

    private static func openFile(
        _ path: String, in fs: any FileSystem, writable: Bool, direct: Bool
    ) throws(DiskError) -> any StorageFile {
        if writable { try refuseOtherNames(of: path, in: fs) }
        return try withPath(path) { () throws(SystemError) in
            var mode = OpenMode(writable: writable, direct: direct)
            // The path was looked at before; somebody may have put a link there since.
            mode.followsLink = DiskFolder.allowsOutside
            return try fs.open(path, mode)
        }
    }

    static func readHeader(of file: any StorageFile, path: String) throws(DiskError) -> ImageHeader {
        let size = try withPath(path) { () throws(SystemError) in try file.size() }
        let page = try withPath(path) { () throws(SystemError) in try readPage(0, of: file) }
        // What a short file lacks was read as zeros.
        let bytes = [UInt8](page.prefix(Int(clamping: size)))
        return try parsing(path) { () throws(ImageError) in try ImageHeader(parsing: bytes, fileBytes: size) }
    }

    /// A page of a file, whatever its alignment.
    static func readPage(_ page: UInt64, of file: any StorageFile) throws(SystemError) -> [UInt8] {
        let buffer = AlignedBuffer(byteCount: pageBytes)
        try unsafe file.read(at: page * UInt64(pageBytes), into: buffer.memory)
        return unsafe [UInt8](buffer.memory)
    }

    /// Writes the header over the start of the file and keeps what else stands on its page. Nobody else may be writing
    /// that page.
    static func writeHeader(_ header: ImageHeader, to file: any StorageFile) throws(SystemError) {
        let buffer = AlignedBuffer(byteCount: pageBytes)
        try unsafe file.read(at: 0, into: buffer.memory)
        unsafe buffer.memory.copyBytes(from: header.encode())
        try unsafe file.write(at: 0, from: UnsafeRawBufferPointer(buffer.memory))
    }

    /// Number of the page that holds a cluster's entry, and its slot there.
    static func place(of cluster: UInt64) -> (page: UInt64, slot: Int) {
        let slot = cluster + UInt64(headerSlots)
        return (slot / UInt64(pageSlots), Int(slot % UInt64(pageSlots)))
    }

    /// The cluster whose entry stands in slot 0 of a page; for page 0, of the first slot behind the header.
    static func firstCluster(ofPage page: UInt64) -> UInt64 {
        page == 0 ? 0 : page * UInt64(pageSlots) - UInt64(headerSlots)
    }

    func failure(_ error: SystemError) -> DiskError { DiskError(error, path: path) }

    /// Runs `body` on the file and gives its failure the file's name.
    func attempt<R: ~Copyable>(_ body: () throws(SystemError) -> R) throws(DiskError) -> R {
        do throws(SystemError) { return try body() } catch { throw failure(error) }
    }

    /// Makes what was written durable. A failure is final: ``DiskError/isFinal``.
    func synchronize() throws(DiskError) {
        do throws(SystemError) { try file.synchronize() } catch {
            var lost = failure(error)
            lost.isFinal = true
            lost.mayPass = false
            throw lost
        }
    }

    /// Bytes of the device that a cluster holds: fewer in the last one of a device of odd size.
    func validBytes(of cluster: UInt64, deviceBytes: UInt64) -> UInt64 {
        min(clusterSize.bytes, deviceBytes - clusterSize.offset(of: cluster))
    }
}
