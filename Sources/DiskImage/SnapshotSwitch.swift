public import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import SystemPackage

/// Goes back to a snapshot: what was written since is dropped, and a new, empty top begins on it. The disk must not be
/// in use. The new descriptor is the point of no return: a crash before it leaves the disk as it was, one after it as
/// it shall be; a file may be left over, which a check names.
/// - Throws: `.invalid` for a snapshot that does not exist, is being removed, or is the top; `.inUse`.
public func switchSnapshot(of path: String, to guid: String, in fs: any FileSystem) throws(DiskError) {
    guard case .folder(let folder) = try DiskLocation.find(path, in: fs) else {
        throw DiskError(.invalid, "\(path): an image without a descriptor has no snapshots", path: path)
    }
    guard let target = GUID(typed: guid) else {
        throw DiskError(.invalid, "\"\(guid)\" is no snapshot's name", path: path)
    }
    let lock = try folder.lockOwner()
    defer { withExtendedLifetime(lock) {} }
    try folder.withDescriptorLock { () throws(DiskError) in
        var descriptor = try folder.load()
        try folder.settleServed(descriptor)
        guard let image = descriptor.image(target), let unique = GUID(random: randomBytes(16)) else {
            throw DiskError(.notFound, "\(path): the disk has no snapshot \(target)", path: path)
        }
        let header = try emptyHeader(like: image, of: descriptor, in: folder)
        let oldPath = folder.path(ofFile: descriptor.image(descriptor.top)?.file ?? "")
        let lease = try ExclusiveLease.take(oldPath, in: fs)
        let newFile = descriptor.newDeltaFile(unique)
        let oldFile = try parsing(path) { () throws(ImageError) in
            try descriptor.switchTop(to: target, newTopFile: newFile)
        }
        let newPath = folder.path(ofFile: newFile)
        do throws(DiskError) {
            try withPath(newPath) { () throws(SystemError) in
                let file = try fs.open(newPath, OpenMode(writable: true, creation: .exclusive))
                file.takeAttributes(of: folder.path(of: image))
                try NewImage.writeEmpty(header, to: file)
                try file.synchronize()
            }
            try folder.synchronizeNames(besides: [newFile])
            try folder.store(descriptor)
        } catch {
            // The new descriptor may be in place all the same: then its file must stay.
            if let now = try? folder.load(), !now.images.map(\.file).hasSame(as: newFile) { try? fs.remove(newPath) }
            throw error
        }
        // What is left over now does no harm: a check tells of it.
        try? fs.remove("\(folder.path)/.statfs")
        try? fs.remove(folder.path(ofFile: oldFile))
        try? folder.synchronizeNames(besides: [oldFile])
        _ = consume lease
    }
}

/// The header of an empty delta on top of an image: of the same version and cluster, and as large.
func emptyHeader(
    like image: DiskDescriptor.Image, of descriptor: DiskDescriptor, in folder: DiskFolder
) throws(DiskError) -> ImageHeader {
    let path = folder.path(of: image)
    let (size, head) = try withPath(path) { () throws(SystemError) in
        let file = try folder.fs.open(path, .read)
        let size = try file.size()
        return (size, try file.readBytes(at: 0, count: Int(min(size, UInt64(HeaderFields.byteCount)))))
    }
    return try parsing(path) { () throws(ImageError) in
        if descriptor.kind(of: image.guid) == .raw {
            guard let cluster = ClusterSize(sectors: descriptor.clusterSectors) else {
                throw ImageError(.unsupported, "the cluster is not one that images can have")
            }
            return try ImageHeader(version: .v2, sectorCount: size / sectorBytes, clusterSize: cluster)
        }
        let header = try ImageHeader(parsing: head, fileBytes: size)
        return try ImageHeader(
            version: header.version, sectorCount: header.sectorCount, clusterSize: header.clusterSize)
    }
}
