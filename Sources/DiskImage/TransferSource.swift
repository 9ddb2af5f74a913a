internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// What an import or export reads, kept from those who would change it, as far as they can be told.
struct TransferSource {
    let content: ImageSource
    private let locks: [any HeldLock]

    /// - Parameter kind: of a file by itself; `nil`: an image if it looks like one, else the plain content of a device.
    static func open(
        _ path: String, kind: DiskDescriptor.ImageKind?, in fs: any FileSystem
    ) throws(DiskError) -> TransferSource {
        switch try DiskLocation.find(path, in: fs) {
        case .image(let file):
            let locks = try lockForReading(file, in: fs)
            let reader = try DeltaReader(file, in: fs, kind: kind, rawClusterBytes: ClusterSize.standard.bytes)
            if kind == nil, reader.header == nil { try refuseForeign(reader, path: path) }
            return TransferSource(content: try ImageSource(deltas: [reader]), locks: locks)
        case .folder(let folder):
            let lock = try folder.lockForReading()
            let descriptor = try folder.load()
            let chain = try parsing(path) { () throws(ImageError) in try descriptor.chain(to: descriptor.top) }
            var deltas: [DeltaReader] = []
            for image in chain.reversed() {
                deltas.append(
                    try DeltaReader(
                        folder.path(of: image), in: fs, kind: descriptor.kind(of: image.guid),
                        rawClusterBytes: UInt64(descriptor.clusterSectors) * sectorBytes))
            }
            return TransferSource(content: try ImageSource(deltas: deltas), locks: [lock].compactMap { $0 })
        }
    }

    /// The container of another format must not become the content of a disk.
    private static func refuseForeign(_ reader: DeltaReader, path: String) throws(DiskError) {
        let count = min(reader.fileBytes, UInt64(ForeignFormat.probeBytes))
        let (head, tail) = try withPath(path) { () throws(SystemError) in
            (
                try reader.file.readBytes(at: 0, count: Int(count)),
                try reader.file.readBytes(at: reader.fileBytes - count, count: Int(count))
            )
        }
        guard let format = ForeignFormat(head: head, tail: tail) else { return }
        throw DiskError(
            .unsupported,
            "\(path) looks like a \(format.rawValue) file: \(format.remedy), or give --raw if this is a disk's content",
            path: path)
    }
}

/// Keeps an image by itself from being changed while it is only read, with the disk that it belongs to.
func lockForReading(_ file: String, in fs: any FileSystem) throws(DiskError) -> [any HeldLock] {
    var locks: [any HeldLock] = []
    let folder = DiskFolder(resolvedPath: folderPart(of: file), fs: fs)
    let belongs = try withPath(file) { () throws(SystemError) in try fs.exists(folder.descriptorPath) }
    if belongs, let lock = try folder.lockForReading() { locks.append(lock) }
    // A block device has no lock of ours: it is claimed where it is opened.
    guard try withPath(file, { () throws(SystemError) in try fs.kind(of: file) }) == .regular else { return locks }
    do throws(DiskError) {
        locks += try SharedLeases.take([file], in: fs, waitNanoseconds: 0).held
    } catch {
        guard error.code == .busy else { throw error }
        throw DiskError(.inUse, error.message, path: file)
    }
    return locks
}

extension DiskFolder {
    /// Keeps the disk from being opened for writing. - Returns: `nil` on a file system that is mounted read-only.
    func lockForReading() throws(DiskError) -> (any HeldLock)? {
        do throws(DiskError) { return try lockOwner() } catch {
            guard error.code == .readOnly else { throw error }
            return nil
        }
    }
}
