internal import BackupStore
internal import BlockIO
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

// Where a restore builds its target: a folder beside it, TARGET.restoring-NAME, that this restore made and holds a lock
// in. NAME is random, so it is nobody else's, and what is renamed at the end is what was written here. A folder of such
// a name whose lock nobody holds is of a restore that was killed: it is removed, as far as there is nothing in it but
// what a restore makes.

/// The folder that a restore works in.
final class RestoreWorkspace {
    /// What is built, a file or a folder.
    var contentPath: String { path + "/" + Self.contentName }
    private let path: String
    private let target: String
    private let fs: any FileSystem
    private let lock: any HeldLock

    static let infix = ".restoring-"
    private static let digits = 16
    private static let lockName = "lock"
    private static let contentName = "content"
    /// What the making of a disk leaves in its folder.
    private static let diskNames: Set = [
        "root.hds", "DiskDescriptor.xml", "DiskDescriptor.xml.tmp", "DiskDescriptor.xml.lck", "godwit.lock",
    ]

    /// Removes what killed restores to the same place left, and begins.
    /// - Parameter target: its name is free.
    init(beside target: String, in fs: any FileSystem) throws(BackupError) {
        self.target = target
        self.fs = fs
        var attempts = 3
        while true {
            let name = randomBytes(Self.digits / 2).map { byte in
                let text = String(byte, radix: 16)
                return text.count == 1 ? "0" + text : text
            }.joined()
            let path = target + Self.infix + name
            do throws(SystemError) {
                try fs.createFolder(path)
                guard let lock = try fs.lock("\(path)/\(Self.lockName)", wait: false) else {
                    throw SystemError(errno: .resourceBusy, operation: "lock", subject: path)
                }
                // Whatever a power cut leaves: where there is something in it there is also the lock, which tells whose
                // it is.
                try fs.synchronizeFolder(path)
                self.path = path
                self.lock = lock
                return
            } catch {
                // Somebody took it for what a killed one left, before it was locked.
                attempts -= 1
                guard attempts > 0, error.errno == .noSuchFileOrDirectory, try Self.isParentThere(target, fs) else {
                    try? fs.removeFolder(path)
                    throw BackupError(error)
                }
            }
        }
    }

    private static func isParentThere(_ target: String, _ fs: any FileSystem) throws(BackupError) -> Bool {
        try onHost { () throws(SystemError) in try fs.isFolder(RestoreJob.folderPart(of: target)) }
    }

    /// Gives what is whole and durable its name, durably, and ends.
    func show(replacesEmptyFolder: Bool) throws(BackupError) {
        do throws(SystemError) {
            if replacesEmptyFolder {
                try fs.rename(contentPath, to: target)
            } else {
                try fs.renameExclusively(contentPath, to: target)
            }
        } catch {
            guard error.errno == .fileExists || error.errno == .directoryNotEmpty else {
                throw BackupError(error)
            }
            throw BackupError(.exists, "\(target) was made by somebody else meanwhile: give a new name")
        }
        do throws(BackupError) {
            try onHost { () throws(SystemError) in try fs.synchronizeFolder(RestoreJob.folderPart(of: target)) }
        } catch {
            // A power cut could still take it, and it would be in the way of the next attempt.
            try? Self.removeContent(target, fs)
            throw error
        }
        end()
    }

    /// Removes all that was made. What can't be removed now is by the next restore to the same place.
    func end() {
        do throws(SystemError) {
            try Self.removeContent(contentPath, fs)
            try fs.synchronizeFolder(path)
            try fs.remove("\(path)/\(Self.lockName)")
            try fs.removeFolder(path)
        } catch { return }
        try? fs.synchronizeFolder(RestoreJob.folderPart(of: target))
    }

    private static func removeContent(_ path: String, _ fs: any FileSystem) throws(SystemError) {
        guard try fs.exists(path) else { return }
        guard try fs.isFolder(path) else { return try fs.remove(path) }
        for name in try fs.list(path) where diskNames.contains(name) { try fs.remove("\(path)/\(name)") }
        try fs.removeFolder(path)
    }

    // MARK: Others

    /// Looks at the restores to the same place: removes what killed ones left, refuses beside a living one.
    static func clear(beside target: String, in fs: any FileSystem) throws(BackupError) {
        let folder = RestoreJob.folderPart(of: target)
        guard try isParentThere(target, fs) else {
            throw BackupError(.disk(.notFound), "there is no folder \(folder): make it first")
        }
        let base = PathText.lastPart(of: target)
        let prefix = base + infix
        let names = try onHost { () throws(SystemError) in try fs.list(folder) }
        for name in names where name.begins(with: prefix) && name.utf8.count == prefix.utf8.count + digits {
            let hex = name.utf8.suffix(digits)
            guard hex.allSatisfy({ (48...57).contains($0) || (97...102).contains($0) }) else { continue }
            let path = PathText.join(folder, name)
            guard try !isAlive(path, fs) else {
                throw BackupError(
                    .busy, "another restore to \(target) is running: wait for its end, or give another name")
            }
        }
    }

    /// - Returns: whether somebody works there; otherwise it is gone now, if it was a restore's.
    private static func isAlive(_ path: String, _ fs: any FileSystem) throws(BackupError) -> Bool {
        try onHost { () throws(SystemError) in
            do throws(SystemError) {
                guard try fs.isFolder(path) else { return false }
                let names = try fs.list(path)
                guard names.allSatisfy({ $0 == lockName || $0 == contentName }) else { return false }
                // A link leads to what is somebody else's.
                let parent = try fs.resolve(RestoreJob.folderPart(of: path))
                let own = PathText.join(parent, PathText.lastPart(of: path))
                for name in [""] + names.map({ "/" + $0 }) {
                    guard try fs.resolve(path + name).isSame(as: own + name) else { return false }
                }
                guard names.contains(lockName) else {
                    if names.isEmpty { try fs.removeFolder(path) }
                    return false
                }
                guard let lock = try fs.lock("\(path)/\(lockName)", wait: false) else { return true }
                defer { withExtendedLifetime(lock) {} }
                let content = "\(path)/\(contentName)"
                if try fs.isFolder(content), try !fs.list(content).allSatisfy(diskNames.contains) { return false }
                try removeContent(content, fs)
                try fs.remove("\(path)/\(lockName)")
                try fs.removeFolder(path)
                return false
            } catch {
                // It was ending just now.
                guard error.errno == .noSuchFileOrDirectory else { throw error }
                return false
            }
        }
    }
}
