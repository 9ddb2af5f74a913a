public import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// What can be told about a disk or an image without opening it.
public struct DiskInfo: Hashable, Sendable, Codable {
    /// The state of one image file.
    public struct Image: Hashable, Sendable, Codable {
        /// The state that the file belongs to; empty for a bare image.
        public var guid: String
        public var file: String
        /// 1 or 2; 0 for a raw base.
        public var version: Int
        /// Size of the file.
        public var fileBytes: UInt64
        /// What the file takes up on the host.
        public var allocatedBytes: UInt64
        /// Whether it was closed. The top of a disk in use is not.
        public var isClean: Bool
    }
    public var path: String
    /// Whether it is a folder with a descriptor.
    public var isDisk: Bool
    /// Size of the device.
    public var byteCount: UInt64
    public var clusterBytes: UInt64
    /// 1 or 2; of the top image.
    public var version: Int
    public var isPreallocated: Bool
    public var hasRawBase: Bool
    /// Frozen states, the top not counted.
    public var snapshotCount: Int
    /// Deltas that make up the top.
    public var chainLength: Int
    /// What all files take up on the host.
    public var allocatedBytes: UInt64
    public var images: [Image]
}

/// Looks at a disk or a bare image. Changes nothing and takes no lock, so the disk may be in use.
/// - Parameter path: a disk's folder, its descriptor, or an image.
public func diskInfo(at path: String, in fs: any FileSystem) throws(DiskError) -> DiskInfo {
    switch try DiskLocation.find(path, in: fs) {
    case .image(let file):
        let (image, header) = try examine(file, name: file, guid: "", kind: .expandable, in: fs)
        return DiskInfo(
            path: file, isDisk: false, byteCount: header?.byteCount ?? image.fileBytes,
            clusterBytes: header?.clusterBytes ?? 0, version: image.version, isPreallocated: false,
            hasRawBase: false, snapshotCount: 0, chainLength: 1, allocatedBytes: image.allocatedBytes, images: [image])
    case .folder(let folder):
        let descriptor = try folder.load()
        var info = DiskInfo(
            path: folder.path, isDisk: true, byteCount: 0,
            clusterBytes: UInt64(descriptor.clusterSectors) * sectorBytes, version: 0,
            isPreallocated: descriptor.isPreallocated, hasRawBase: descriptor.hasRawBase,
            snapshotCount: descriptor.shots.count - 1,
            chainLength: try parsing(path) { () throws(ImageError) in try descriptor.chain(to: descriptor.top).count },
            allocatedBytes: 0, images: [])
        for image in descriptor.images {
            let (found, header) = try examine(
                folder.path(of: image), name: image.file, guid: image.guid.description,
                kind: descriptor.kind(of: image.guid), in: fs)
            info.images.append(found)
            info.allocatedBytes += found.allocatedBytes
            if image.guid == descriptor.top {
                info.version = found.version
                // The descriptor is a copy, and an online grow touches it last.
                info.byteCount = header?.byteCount ?? found.fileBytes
            }
        }
        return info
    }
}

private func examine(
    _ path: String, name: String, guid: String, kind: DiskDescriptor.ImageKind, in fs: any FileSystem
) throws(DiskError) -> (DiskInfo.Image, ForeignHeader?) {
    let (fileBytes, allocated, head) = try withPath(path) { () throws(SystemError) in
        let file = try fs.open(path, .read)
        let size = try file.size()
        let count = Int(min(size, UInt64(HeaderFields.byteCount)))
        return (size, try file.allocatedBytes(), try file.readBytes(at: 0, count: count))
    }
    var image = DiskInfo.Image(
        guid: guid, file: name, version: 0, fileBytes: fileBytes, allocatedBytes: allocated, isClean: true)
    guard kind == .expandable else { return (image, nil) }
    // Other software's odd clusters are none of ours to open, but can be looked at and imported.
    let header = try parsing(path) { () throws(ImageError) in try ForeignHeader(parsing: head, fileBytes: fileBytes) }
    image.version = header.fields.version.rawValue
    image.isClean = header.fields.inUse.isClean
    return (image, header)
}
