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
                guard let pack = Digest(hex: name),
                    try storing({ () throws(SystemError) in
                        guard try fs.kind(of: path) == .regular else { return false }
                        return try fs.fileSize(path) >= Self.packBytesMin
                    })
                else { continue }
                found.append(MisplacedPack(pack: pack, path: path))
            }
        }
        return found
    }

    /// Puts a pack in its place, where there is none, or none that is whole. What was there is set aside.
    /// - Returns: what was done, or why nothing was; and whether that is because it can't be read now.
    func place(_ misplaced: MisplacedPack) throws(StoreError) -> PointProblem {
        let name = misplaced.pack.description
        let target = try path(.pack, name)
        let lock = try lockReplacing()
        defer { withExtendedLifetime(lock) {} }
        try storing { () throws(SystemError) in try makeDurable(folder: folderPart(of: target)) }
        // Where there is nothing else, what is left of it is worth something: the repair finds out what.
        if try storing({ () throws(SystemError) in try fs.isTaken(target) }) {
            let remark = "\(misplaced.path) lies in the wrong folder, and there is something in its place"
            switch try state(ofPackAt: misplaced.path, misplaced.pack) {
            case .whole: break
            case .damaged: return PointProblem("\(remark): it is damaged itself, and is not used")
            case .unreadable: return PointProblem("\(remark): it can't be read now", isUnreadable: true)
            }
            switch try state(ofPackAt: target, misplaced.pack) {
            case .whole: return PointProblem("\(remark), which is whole: remove it")
            case .unreadable: return PointProblem("\(remark), which can't be read now", isUnreadable: true)
            case .damaged: _ = try setAside(pack: name)
            }
        }
        try storing { () throws(SystemError) in
            try fs.rename(misplaced.path, to: target)
            try fs.synchronizeFolder(folderPart(of: target))
            try fs.synchronizeFolder(folderPart(of: misplaced.path))
        }
        forgetOpen(pack: name)
        try forgetDamage(of: misplaced.pack)
        return PointProblem("pack \(name) lay in the wrong folder, as \(misplaced.path): it was put in its place")
    }

    private enum PackFileState { case whole, damaged, unreadable }

    /// Whether a file is the pack of that name, down to the last byte.
    private func state(ofPackAt path: String, _ pack: Digest) throws(StoreError) -> PackFileState {
        do throws(StoreError) {
            guard try storing({ () throws(SystemError) in try fs.kind(of: path) == .regular }) else { return .damaged }
            let file = try storing { () throws(SystemError) in try fs.open(path, .read) }
            guard let directory = try storing({ () throws(SystemError) in try Self.directory(of: file, pack) }) else {
                return .damaged
            }
            let check = PackFileCheck()
            for frame in directory.frames where try check.problem(frame, in: file) != nil { return .damaged }
            return .whole
        } catch {
            guard [.io, .missing, .corrupt].contains(error.code) else { throw error }
            return error.code == .io ? .unreadable : .damaged
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
