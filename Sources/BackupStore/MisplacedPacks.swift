internal import BlockIO
public import Codecs
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

// A pack lies in the folder of the first two digits of its name. Where somebody has put one into another folder, it is
// not there for anybody: the index says which pack, and the name says where. A repair puts it in its place.

/// A file with the name of a pack, in another folder than that name says.
public struct MisplacedPack: Hashable, Sendable {
    public var pack: Digest
    public var path: String
}

extension LocalStore {
    /// Whether a pack of that name belongs into that folder.
    static func belongs(_ name: String, in folder: String) -> Bool {
        folder.ends(with: "/" + String(name.prefix(2)))
    }

    public func misplacedPacks() throws(StoreError) -> [MisplacedPack] {
        var found: [MisplacedPack] = []
        for folder in try packFolders() {
            for name in try storing({ () throws(SystemError) in try fs.list(folder) })
            where ObjectName.isValid(name, as: .pack) && !Self.belongs(name, in: folder) {
                let path = "\(folder)/\(name)"
                guard let pack = Digest(hex: name),
                    try storing({ () throws(SystemError) in try fs.kind(of: path) == .regular })
                else { continue }
                found.append(MisplacedPack(pack: pack, path: path))
            }
        }
        return found
    }

    /// Puts a pack in its place, where there is none, or none that is whole. What was there is set aside.
    /// - Returns: what was done, or why nothing was.
    func place(_ misplaced: MisplacedPack) throws(StoreError) -> String {
        let name = misplaced.pack.description
        let target = try path(.pack, name)
        guard try isWholePack(at: misplaced.path, misplaced.pack) else {
            return "\(misplaced.path) has the name of a pack, lies in the wrong folder, and is not that pack, or is "
                + "damaged: remove it"
        }
        let lock = try lockReplacing()
        defer { withExtendedLifetime(lock) {} }
        try storing { () throws(SystemError) in try makeDurable(folder: folderPart(of: target)) }
        if try storing({ () throws(SystemError) in try fs.isTaken(target) }) {
            guard try !isWholePack(at: target, misplaced.pack) else {
                return "\(misplaced.path) lies in the wrong folder, and pack \(name) is in its place, too: remove it"
            }
            _ = try setAside(pack: name)
        }
        try storing { () throws(SystemError) in
            try fs.rename(misplaced.path, to: target)
            try fs.synchronizeFolder(folderPart(of: target))
            try fs.synchronizeFolder(folderPart(of: misplaced.path))
        }
        forgetOpen(pack: name)
        try forgetDamage(of: misplaced.pack)
        return "pack \(name) lay in the wrong folder, as \(misplaced.path): it was put in its place"
    }

    /// Whether a file is the pack of that name, down to the last byte.
    private func isWholePack(at path: String, _ pack: Digest) throws(StoreError) -> Bool {
        do throws(StoreError) {
            guard try storing({ () throws(SystemError) in try fs.kind(of: path) == .regular }) else { return false }
            let file = try storing { () throws(SystemError) in try fs.open(path, .read) }
            guard let directory = try storing({ () throws(SystemError) in try Self.directory(of: file, pack) }) else {
                return false
            }
            let check = PackFileCheck()
            for frame in directory.frames where try check.problem(frame, in: file) != nil { return false }
            return true
        } catch {
            guard [.io, .missing, .corrupt].contains(error.code) else { throw error }
            return false
        }
    }

    private static func directory(of file: any StorageFile, _ pack: Digest) throws(SystemError) -> PackDirectory? {
        let size = try file.size()
        guard size >= packBytesMin else { return nil }
        let trailerBytes = PackDirectory.trailerBytes
        let trailer = try file.readBytes(at: size - UInt64(trailerBytes), count: trailerBytes)
        guard let place = try? PackDirectory.parseTrailer(trailer, packBytes: size) else { return nil }
        let header = try file.readBytes(at: 0, count: PackDirectory.headerBytes)
        let encoded = try file.readBytes(at: place.offset, count: place.count)
        return try? PackDirectory.parse(
            header: header, directory: encoded, trailer: trailer, packBytes: size, name: pack)
    }
}
