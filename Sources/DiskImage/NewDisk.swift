internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// Fills the base image of a new disk, which is empty. - Returns: the descriptor.
typealias NewDiskFill = (_ file: any StorageFile, _ path: String) throws(DiskError) -> DiskDescriptor

/// Makes a disk at `folder`, which has no disk and no name until it is whole: a new folder is filled under a partial
/// name. One that is there already is filled where it is, the image under a name that is on the list of leftovers.
func withNewDisk(at folder: String, in fs: any FileSystem, _ fill: NewDiskFill) throws(DiskError) {
    let folder = withoutSlashes(folder)
    let kind = try withPath(folder) { () throws(SystemError) in try fs.kind(of: folder) }
    switch kind {
    case nil: break
    case .folder: return try fillExisting(folder, in: fs, fill)
    default: throw DiskError(.exists, "\(folder) exists and is not a folder", path: folder)
    }
    let partial = try PartialName.folder(for: folder, in: fs)
    defer { withExtendedLifetime(partial) {} }
    do throws(DiskError) {
        try fillNew(partial.path, in: fs, fill)
        try partial.publish(in: fs)
        // Only then: without its lock the folder would be one that a killed run has left.
        partial.dropLockFile(in: fs)
    } catch {
        // The first failure is the one to report; what can't be removed now goes the next time.
        partial.discardFolder(in: fs)
        try? fs.synchronizeFolder(folderPart(of: folder))
        throw error
    }
}

/// Makes a disk in a folder to which the caller gives its name later. After a failure nothing is left.
func fillFolder(_ folder: String, in fs: any FileSystem, _ fill: NewDiskFill) throws(DiskError) {
    let folder = withoutSlashes(folder)
    do throws(SystemError) { try fs.createFolder(folder) } catch {
        guard error.kind == .exists else { throw DiskError(error, path: folder) }
        return try fillExisting(folder, in: fs, fill)
    }
    do throws(DiskError) {
        try fillNew(folder, in: fs, fill)
        let parent = folderPart(of: folder)
        try withPath(parent) { () throws(SystemError) in try fs.synchronizeFolder(parent) }
    } catch {
        let descriptor = "\(folder)/\(DiskDescriptor.fileName)"
        for name in [descriptor, descriptor + ".tmp", "\(folder)/\(baseImageName)"] { try? fs.remove(name) }
        try? fs.removeFolder(folder)
        throw error
    }
}

/// A folder that was just made here, so all in it is ours.
private func fillNew(_ path: String, in fs: any FileSystem, _ fill: NewDiskFill) throws(DiskError) {
    let disk = DiskFolder(resolvedPath: try withPath(path) { () throws(SystemError) in try fs.resolve(path) }, fs: fs)
    let image = disk.path(ofFile: baseImageName)
    let file = try withPath(image) { () throws(SystemError) in
        try fs.open(image, OpenMode(writable: true, creation: .exclusive))
    }
    let descriptor = try fill(file, image)
    // The image's name first: a descriptor must never name what isn't there.
    try disk.synchronizeNames()
    try disk.store(descriptor)
}

/// A folder that was there: others may have files in it, and another process may be making a disk there.
private func fillExisting(_ path: String, in fs: any FileSystem, _ fill: NewDiskFill) throws(DiskError) {
    let disk = DiskFolder(resolvedPath: try withPath(path) { () throws(SystemError) in try fs.resolve(path) }, fs: fs)
    try refuseTaken(in: disk)
    let lock = try disk.lockOwner()
    defer { withExtendedLifetime(lock) {} }
    let lockFile = "\(disk.path)/\(DiskFolder.ownerLockName)"
    let image = disk.path(ofFile: baseImageName)
    // Once more under the lock: of a disk that is there by now nothing is ours to clear.
    try refuseTaken(in: disk)
    do throws(DiskError) {
        try disk.removeLeftovers(keeping: [])
        guard let unique = GUID(random: randomBytes(16)) else {
            throw DiskError(.io, "\(path): the system has no random bytes", path: path)
        }
        let partialName = "\(baseImageName).\(unique)"
        let partial = disk.path(ofFile: partialName)
        try disk.noteLeftover(partialName)
        var isPlaced = false
        do throws(DiskError) {
            let file = try withPath(partial) { () throws(SystemError) in
                try fs.open(partial, OpenMode(writable: true, creation: .exclusive))
            }
            let descriptor = try fill(file, partial)
            try withPath(image) { () throws(SystemError) in try fs.renameExclusively(partial, to: image) }
            isPlaced = true
            try disk.synchronizeNames()
            try disk.store(descriptor)
        } catch {
            let ours = isPlaced ? [disk.descriptorPath, disk.descriptorPath + ".tmp", image] : [partial]
            for name in ours { try? fs.remove(name) }
            throw error
        }
        try disk.removeLeftovers(keeping: [baseImageName])
    } catch {
        try? disk.removeLeftovers(keeping: [])
        try? fs.remove(lockFile)
        try? fs.synchronizeFolder(disk.path)
        throw error
    }
    try? fs.remove(lockFile)
}

private func refuseTaken(in disk: DiskFolder) throws(DiskError) {
    // What was served last may be all that is left of a disk's descriptor.
    let served = disk.path(ofFile: DiskFolder.servedDescriptorName)
    for name in [disk.descriptorPath, served, disk.path(ofFile: baseImageName)] {
        let isTaken = try withPath(name) { () throws(SystemError) in try disk.fs.isTaken(name) }
        guard !isTaken else {
            throw DiskError(
                .exists, "there is a disk already, or a part of one: \(name); choose another folder", path: name)
        }
    }
}

private func withoutSlashes(_ path: String) -> String {
    PathText.withoutEndSlashes(path)
}
