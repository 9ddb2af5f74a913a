internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import Synchronization

/// Files that a crash could leave behind: named in a list before they are made, or before the descriptor lets go of
/// them. What the list names and the descriptor doesn't is removed when the disk is opened for writing. The list may be
/// somebody else's: only files of the folder that are named as ours are go.
///
/// A descriptor that does not name a file may also be an old one that somebody has put back. So nothing that holds data
/// of its own is on the list: a new top is taken off it once the descriptor that names it is durable, and what goes is
/// put on it when all that it holds is elsewhere, or unwanted.
extension DiskFolder {
    private static let listName = "godwit.leftovers"
    private static let listBytesMax = 1 << 20
    static let stagingSuffix = ".tmp"

    /// Puts a file of the disk on the list, durably. What is served by now comes off it.
    func noteLeftover(_ file: String) throws(DiskError) {
        // One of another kind is removed by nobody; that it is about to go, or to come, is to be known all the same.
        guard !file.utf8.contains(UInt8(ascii: "\n")) else { return }
        try proveInPlace()
        try listLock.withLock { _ throws(DiskError) in
            // Within the lock: what another change is letting go of by now has to stay.
            let served = servedFiles
            var names = try leftovers()
            guard !names.hasSame(as: file) else { return }
            names.removeAll { served.hasSame(as: $0) }
            names.append(file)
            try storeList(names)
        }
    }

    /// Takes files off the list, durably.
    func keepLeftovers(_ kept: [String]) throws(DiskError) {
        guard isInPlace else { return }
        try listLock.withLock { _ throws(DiskError) in
            let names = try leftovers()
            let left = names.filter { !kept.hasSame(as: $0) }
            guard left.count != names.count else { return }
            guard left.isEmpty else { return try storeList(left) }
            // This needs no space.
            let list = "\(path)/\(Self.listName)"
            try withPath(list) { () throws(SystemError) in try fs.remove(list) }
            try synchronizeNames()
        }
    }

    /// Runs what has the descriptor let go of a file, which is on the list from before that until it is removed. While
    /// the descriptor names it, it is not.
    func lettingGo<R>(of file: String, _ body: () throws(DiskError) -> R) throws(DiskError) -> R {
        owned?.known.withLock { $0.leaving.append(file) }
        defer { owned?.known.withLock { known in known.leaving.removeAll { $0.isSame(as: file) } } }
        try noteLeftover(file)
        do throws(DiskError) { return try body() } catch {
            if let now = try? load(), now.images.map(\.file).hasSame(as: file) { try? keepLeftovers([file]) }
            throw error
        }
    }

    private func storeList(_ names: [String]) throws(DiskError) {
        let list = "\(path)/\(Self.listName)"
        let bytes = [UInt8](names.map { $0 + "\n" }.joined().utf8)
        try withPath(list) { () throws(SystemError) in try fs.replaceContents(of: list, with: bytes) }
    }

    func leftovers() throws(DiskError) -> [String] {
        let list = "\(path)/\(Self.listName)"
        let isThere = try withPath(list) { () throws(SystemError) in try fs.exists(list) }
        guard isThere else { return [] }
        let limit = Self.listBytesMax
        let bytes = try withPath(list) { () throws(SystemError) in try fs.contents(of: list, limit: limit) }
        return bytes.split(separator: UInt8(ascii: "\n")).compactMap { String(validating: $0, as: UTF8.self) }
    }

    /// Removes what is on the list and not named by the descriptor, and the list.
    func removeLeftovers(_ descriptor: DiskDescriptor) throws(DiskError) {
        try removeLeftovers(keeping: descriptor.images.map(\.file))
    }

    /// - Parameter kept: the files that the descriptor names.
    func removeLeftovers(keeping kept: [String]) throws(DiskError) {
        let list = "\(path)/\(Self.listName)"
        for staging in [descriptorPath, list, servedDescriptorPath].map({ $0 + Self.stagingSuffix }) {
            let isThere = try withPath(staging) { () throws(SystemError) in try fs.isTaken(staging) }
            guard isThere else { continue }
            // Locked, it can't be a change that ploop's tools are just making.
            try withDescriptorLock { () throws(DiskError) in
                try withPath(staging) { () throws(SystemError) in
                    do throws(SystemError) { try fs.remove(staging) } catch {
                        // Whose change it was has made it.
                        guard error.kind == .notFound else { throw error }
                    }
                }
            }
        }
        let names = try leftovers()
        guard !names.isEmpty else { return }
        // Whoever put the descriptor in place may have been cut off before it was durable; it must be so before what
        // only the one before it names is removed.
        try synchronizeNames()
        for name in names where DiskDescriptor.isDeltaName(name) && !kept.hasSame(as: name) {
            let path = path(ofFile: name)
            do throws(SystemError) { try fs.remove(path) } catch {
                // A folder of that name is nobody's leftover.
                guard [.notFound, .misuse].contains(error.kind) else { throw DiskError(error, path: path) }
            }
        }
        try synchronizeNames()
        try withPath(list) { () throws(SystemError) in try fs.remove(list) }
    }

    /// Removes a file that the descriptor does not name. What can't be removed now is when the disk is opened next.
    func removeFile(_ file: String) {
        guard isInPlace else { return }
        let path = path(ofFile: file)
        do throws(DiskError) {
            do throws(SystemError) { try fs.remove(path) } catch {
                guard error.kind == .notFound else { throw DiskError(error, path: path) }
            }
            try synchronizeNames(besides: [file])
            try keepLeftovers([file])
        } catch {
            // It is on the list.
        }
    }
}
