internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// Files that a crash could leave behind: named in a list before they are made, or before the descriptor lets go of
/// them. What the list names and the descriptor doesn't is removed when the disk is opened for writing. The list may be
/// somebody else's: only files of the folder that are named as ours are go.
extension DiskFolder {
    private static let listName = "godwit.leftovers"
    private static let listBytesMax = 1 << 20

    /// Puts a file of the disk on the list, durably.
    func noteLeftover(_ file: String) throws(DiskError) {
        // Another name is not taken from a list; what is left of it then is only in the way.
        guard DiskDescriptor.isDeltaName(file) else { return }
        try proveInPlace()
        try listLock.withLock { _ throws(DiskError) in
            var names = try leftovers()
            guard !names.hasSame(as: file) else { return }
            names.append(file)
            let list = "\(path)/\(Self.listName)"
            let bytes = [UInt8](names.map { $0 + "\n" }.joined().utf8)
            try withPath(list) { () throws(SystemError) in try fs.replaceContents(of: list, with: bytes) }
        }
    }

    /// Takes files off the list.
    func keepLeftovers(_ kept: [String]) throws(DiskError) {
        try listLock.withLock { _ throws(DiskError) in
            let names = try leftovers()
            let left = names.filter { !kept.contains($0) }
            guard left != names else { return }
            let list = "\(path)/\(Self.listName)"
            let bytes = [UInt8](left.map { $0 + "\n" }.joined().utf8)
            try withPath(list) { () throws(SystemError) in
                if left.isEmpty { try fs.remove(list) } else { try fs.replaceContents(of: list, with: bytes) }
            }
        }
    }

    private func leftovers() throws(DiskError) -> [String] {
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
        for staging in [descriptorPath + ".tmp", list + ".tmp"] {
            let isThere = try withPath(staging) { () throws(SystemError) in try fs.isTaken(staging) }
            guard isThere else { continue }
            // Locked, it can't be a change that ploop's tools are just making.
            try withDescriptorLock { () throws(DiskError) in
                try withPath(staging) { () throws(SystemError) in try fs.remove(staging) }
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

    /// Removes a file that the descriptor no longer names. What can't be removed now is when the disk is opened next.
    func removeFile(_ file: String) {
        try? fs.remove(path(ofFile: file))
        try? synchronizeNames(besides: [file])
    }
}
