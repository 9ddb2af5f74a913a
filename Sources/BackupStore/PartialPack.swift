internal import BlockIO
internal import Codecs
internal import LinuxSystem
internal import SystemPackage

// A pack that is being written is worth something before it is whole: what was read, compressed and sent for it would
// have to be read, compressed and sent again. So beside the file that grows lies another one with the entries of the
// frames that are in it, and whoever comes after a writer that was cut off (by its own end, the link's, or the host's)
// makes a pack of the frames that are whole. Neither file is synchronised meanwhile: what the power took does not
// match its checksum, and is left out.

enum PartialPack {
    /// Of the file with the entries: `tmp/SESSION.N.frames`.
    static let suffix = "frames"

    static func entriesPath(of path: String) -> String { path + "." + suffix }
}

extension LocalStore {
    /// Makes a pack of the whole frames of a file that was cut off, and takes it up; the file and its entries are gone
    /// then. Of a file that has none nothing is left.
    /// - Returns: the pack's name, or `nil`.
    @discardableResult
    func finishPartial(_ path: String) throws(StoreError) -> Digest? {
        let entries = PartialPack.entriesPath(of: path)
        var directory = PackDirectory()
        do throws(StoreError) { directory = try wholeFrames(path, entries) } catch {
            // What can't be read can't be kept, and must keep nobody out.
            guard error.code == .io else { throw error }
            try checkAlive()
        }
        var name: Digest?
        if let last = directory.frames.last {
            let end = last.offset + last.storedBytes
            let ending = directory.ending(at: end)
            let file = try storing { () throws(SystemError) in
                let file = try fs.open(path, .update)
                try file.truncate(to: UInt64(end))
                try file.writeBytes(ending.bytes, at: UInt64(end))
                do throws(SystemError) { try file.synchronize() } catch {
                    // Nobody can tell what of it has reached the disk: nothing of it is kept.
                    for path in [path, entries] { try? fs.remove(path) }
                    throw error
                }
                return file
            }
            let size = UInt64(end) + UInt64(ending.bytes.count)
            try show(path, as: .pack, ending.name.description, file, size)
            try accept(ending.name, directory)
            name = ending.name
        }
        try storing { () throws(SystemError) in
            for path in [path, entries] where try fs.exists(path) { try fs.remove(path) }
        }
        return name
    }

    /// The frames at the start of a file that are what its entries say.
    private func wholeFrames(_ path: String, _ entries: String) throws(StoreError) -> PackDirectory {
        var directory = PackDirectory()
        let found: (file: any StorageFile, size: UInt64, entries: [UInt8])? = try storing { () throws(SystemError) in
            guard try fs.exists(path), try fs.exists(entries) else { return nil }
            let file = try fs.open(path, .read)
            return (file, try file.size(), try fs.contents(of: entries, limit: PackDirectory.bytesMax))
        }
        guard let found, found.size > UInt64(PackDirectory.headerBytes) else { return directory }
        let header = try storing { () throws(SystemError) in
            try found.file.readBytes(at: 0, count: PackDirectory.headerBytes)
        }
        guard header == PackDirectory.header else { return directory }
        var fields = unsafe FieldReader(found.entries.span.bytes)
        var next = UInt32(PackDirectory.headerBytes)
        let end = UInt32(min(found.size, UInt64(PackDirectory.packBytesMax) - 1))
        let check = PackFileCheck()
        // What is behind the first that is not whole may be, too; but a pack has no gaps.
        while fields.remaining > 0,
            let frame = try? PackFrame(parsing: &fields, number: directory.frames.count, from: next, end: end),
            try check.problem(frame, in: found.file) == nil
        {
            directory.frames.append(frame)
            next += frame.storedBytes
        }
        return directory
    }
}
