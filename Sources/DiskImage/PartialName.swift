internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import SystemPackage

/// The name that something has until it is whole: beside its later one, with a part that nobody else has, and locked as
/// long as somebody works on it. What such a name belongs to without a lock was left by a run that was killed, and goes
/// when the same is begun again.
struct PartialName {
    private static let mark = ".godwit-partial."
    private static let attemptsMax = 4

    /// Where it is to be.
    let target: String
    /// Where it is made.
    let path: String
    /// Of the file, or of the folder's owner.
    let lock: (any HeldLock)?

    private static func new(for target: String) throws(DiskError) -> String {
        guard let unique = GUID(random: randomBytes(16)) else {
            throw DiskError(.io, "\(target): the system has no random bytes", path: target)
        }
        return target + mark + "\(unique)"
    }

    /// Makes an empty file.
    static func file(for target: String, in fs: any FileSystem) throws(DiskError) -> PartialName {
        try refuseTaken(target, in: fs)
        clear(target, in: fs) { path in
            if (try? fs.kind(of: path)) == .regular, let lock = try? fs.lock(path, wait: false) {
                try? fs.remove(path)
                withExtendedLifetime(lock) {}
            }
        }
        for _ in 0..<attemptsMax {
            let path = try new(for: target)
            do throws(SystemError) {
                if let lock = try fs.lock(path, wait: false) {
                    return PartialName(target: target, path: path, lock: lock)
                }
            } catch {
                guard error.hasNoLocks else { throw DiskError(error, path: path) }
                return PartialName(target: target, path: path, lock: nil)
            }
            // Who clears up just had it, and removes it.
        }
        throw DiskError(.busy, "\(target): another process is making it; try again later", path: target)
    }

    /// Makes an empty folder of a disk.
    static func folder(for target: String, in fs: any FileSystem) throws(DiskError) -> PartialName {
        try refuseTaken(target, in: fs)
        clear(target, in: fs) { path in
            guard (try? fs.kind(of: path)) == .folder, isNoLink(path, in: fs),
                let lock = try? fs.lock("\(path)/\(DiskFolder.ownerLockName)", wait: false)
            else { return }
            removeFolder(path, in: fs)
            withExtendedLifetime(lock) {}
        }
        for _ in 0..<attemptsMax {
            let path = try new(for: target)
            do throws(SystemError) { try fs.createFolder(path) } catch {
                guard error.kind == .notFound else { throw DiskError(error, path: target) }
                throw DiskError(.notFound, "\(target): the folder above it does not exist; create it", path: target)
            }
            do throws(SystemError) {
                if let lock = try fs.lock("\(path)/\(DiskFolder.ownerLockName)", wait: false) {
                    return PartialName(target: target, path: path, lock: lock)
                }
            } catch {
                if error.kind == .notFound { continue }
                removeFolder(path, in: fs)
                guard error.hasNoLocks else { throw DiskError(error, path: path) }
                do throws(SystemError) { try fs.createFolder(path) } catch { throw DiskError(error, path: path) }
                return PartialName(target: target, path: path, lock: nil)
            }
        }
        throw DiskError(.busy, "\(target): another process is making it; try again later", path: target)
    }

    /// Gives what is durable its name, durably. Nothing is replaced.
    func publish(in fs: any FileSystem) throws(DiskError) {
        do throws(SystemError) { try fs.renameExclusively(path, to: target) } catch {
            throw error.kind == .exists ? Self.taken(target) : DiskError(error, path: target)
        }
        let folder = folderPart(of: target)
        do throws(SystemError) { try fs.synchronizeFolder(folder) } catch {
            // A crash could leave either name: then neither is better.
            try? fs.renameExclusively(target, to: path)
            throw DiskError(error, path: folder)
        }
    }

    func discardFile(in fs: any FileSystem) { try? fs.remove(path) }
    func discardFolder(in fs: any FileSystem) { Self.removeFolder(path, in: fs) }

    /// The lock file of what has its name now. Where it stays it is the disk's.
    func dropLockFile(in fs: any FileSystem) {
        if lock != nil { try? fs.remove("\(target)/\(DiskFolder.ownerLockName)") }
    }

    private static func removeFolder(_ path: String, in fs: any FileSystem) {
        let descriptor = "\(path)/\(DiskDescriptor.fileName)"
        for name in [
            descriptor, descriptor + ".tmp", "\(path)/\(baseImageName)", "\(path)/\(DiskFolder.ownerLockName)",
        ] { try? fs.remove(name) }
        try? fs.removeFolder(path)
    }

    /// Whether nothing on the path but its folder is a link.
    private static func isNoLink(_ path: String, in fs: any FileSystem) -> Bool {
        guard let place = try? fs.resolve(path), let folder = try? fs.resolve(folderPart(of: path)) else {
            return false
        }
        return place.isSame(as: PathText.join(folder, PathText.lastPart(of: path)))
    }

    /// What can't be listed or removed now stays until the next time.
    private static func clear(_ target: String, in fs: any FileSystem, _ body: (String) -> Void) {
        let folder = folderPart(of: target)
        guard let leaf = PathText.parts(of: target).last, let names = try? fs.list(folder) else { return }
        let prefix = leaf + mark
        for name in names {
            guard let unique = name.rest(after: prefix), GUID(unique) != nil else { continue }
            body(folder == "." ? name : PathText.join(folder, name))
        }
    }

    private static func refuseTaken(_ target: String, in fs: any FileSystem) throws(DiskError) {
        let isTaken = try withPath(target) { () throws(SystemError) in try fs.isTaken(target) }
        guard !isTaken else { throw taken(target) }
    }

    private static func taken(_ target: String) -> DiskError {
        DiskError(.exists, "\(target) exists already; choose another name or remove it", path: target)
    }
}

extension SystemError {
    /// The file system has no locks, as some network file systems.
    var hasNoLocks: Bool { [.noLocks, .notSupported, .noFunction].contains(errno) }
}
