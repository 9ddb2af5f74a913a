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
                // What is too short for one has no more than the name of a pack.
                guard let pack = Digest(hex: name), try hasPackBytes(path),
                    ((try? fs.kind(of: path)) ?? .regular) == .regular
                else { continue }
                found.append(MisplacedPack(pack: pack, path: path))
            }
        }
        return found
    }

    /// Puts a pack in its place, where there is none, or none that is whole. What was there is set aside.
    /// - Returns: what was done, or why nothing was, and whether another repair may do more; `nil` when it has gone.
    func place(_ misplaced: MisplacedPack) throws(StoreError) -> PointProblem? {
        let name = misplaced.pack.description
        let target = try path(.pack, name)
        let remark = "\(misplaced.path) lies in the wrong folder"
        // From before it is read: what is noted meanwhile stays.
        let marks = try noteMarks()
        let own = try state(ofPackAt: misplaced.path, misplaced.pack)
        if own == .missing { return nil }
        if own == .unreadable { return PointProblem("\(remark), and can't be read now", isUnreadable: true) }
        let lock = try lockReplacing()
        defer { withExtendedLifetime(lock) {} }
        try storing { () throws(SystemError) in try makeDurable(folder: folderPart(of: target)) }
        // What can't be examined is there.
        if (try? fs.isTaken(target)) ?? true {
            switch try state(ofPackAt: target, misplaced.pack) {
            case .whole: return PointProblem("\(remark), and the one in its place is whole: remove it")
            case .unreadable:
                return PointProblem("\(remark), and what is in its place can't be read now", isUnreadable: true)
            case .damaged where own == .damaged:
                return PointProblem(
                    "\(remark), and is damaged, as is what is in its place: the next repair looks what is left of it",
                    isUnreadable: true)
            // A link that leads nowhere is taken, and not there.
            case .damaged, .missing: _ = try setAside(pack: name)
            }
        }
        // What is left of it is worth something; until the repair knows what, nobody builds on it.
        if own == .damaged { try note([misplaced.pack: PackDamage(isWhole: true)]) }
        do throws(SystemError) {
            // A writer that begins where there is nothing takes no lock.
            try fs.renameExclusively(misplaced.path, to: target)
            try fs.synchronizeFolder(folderPart(of: target))
            try fs.synchronizeFolder(folderPart(of: misplaced.path))
        } catch {
            guard error.errno == .fileExists else { throw StoreError(error) }
            return PointProblem("\(remark), and a backup has put one in its place", isUnreadable: own == .damaged)
        }
        forgetOpen(pack: name)
        if own == .damaged {
            // Where the file system can't rename so, a writer's may have been there for a moment.
            try note([misplaced.pack: PackDamage(isWhole: true)])
        } else {
            try removeNotes([misplaced.pack], markedBefore: marks)
            forgetCensus()
        }
        return PointProblem("pack \(name) lay in the wrong folder, as \(misplaced.path): it was put in its place")
    }

    private enum PackFileState { case whole, damaged, unreadable, missing }

    /// Whether a file is the pack of that name, down to the last byte.
    private func state(ofPackAt path: String, _ pack: Digest) throws(StoreError) -> PackFileState {
        do throws(StoreError) {
            guard let kind = try storing({ () throws(SystemError) in try fs.kind(of: path) }) else { return .missing }
            guard kind == .regular else { return .damaged }
            let file = try storing { () throws(SystemError) in try fs.open(path, .read) }
            // Whoever put it there may have been cut off since: what is read may be in the host's cache only.
            try storing { () throws(SystemError) in try file.synchronize() }
            guard let directory = try storing({ () throws(SystemError) in try Self.directory(of: file, pack) }) else {
                return .damaged
            }
            let check = PackFileCheck()
            for frame in directory.frames where try check.problem(frame, in: file) != nil { return .damaged }
            return .whole
        } catch {
            switch error.code {
            case .io, .permission: return .unreadable
            case .missing: return .missing
            case .corrupt: return .damaged
            default: throw error
            }
        }
    }

    private static func directory(of file: any StorageFile, _ pack: Digest) throws(SystemError) -> PackDirectory? {
        guard let ending = try ending(of: file) else { return nil }
        let header = try file.readBytes(at: 0, count: PackDirectory.headerBytes)
        let encoded = try file.readBytes(at: ending.offset, count: ending.count)
        return try? PackDirectory.parse(
            header: header, directory: encoded, trailer: ending.trailer, packBytes: ending.packBytes, name: pack)
    }

    /// The end of a file that ends as a pack does, and where that says that the directory is.
    struct PackEnding {
        var trailer: [UInt8]
        var packBytes: UInt64
        var offset: UInt64
        var count: Int
    }

    /// - Returns: `nil` for a file that does not end as a pack.
    static func ending(of file: any StorageFile) throws(SystemError) -> PackEnding? {
        let size = try file.size()
        guard size >= packBytesMin else { return nil }
        let trailerBytes = PackDirectory.trailerBytes
        let trailer = try file.readBytes(at: size - UInt64(trailerBytes), count: trailerBytes)
        guard let place = try? PackDirectory.parseTrailer(trailer, packBytes: size) else { return nil }
        return PackEnding(trailer: trailer, packBytes: size, offset: place.offset, count: place.count)
    }
}
