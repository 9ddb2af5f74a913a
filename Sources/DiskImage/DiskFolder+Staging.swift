internal import BlockIO
internal import ImageFormat
internal import LinuxSystem

/// A change of the descriptor in two steps, so that only the second stands in the way of the guest.
extension DiskFolder {
    private var stagingPath: String { descriptorPath + ".tmp" }

    /// Stores the next descriptor, durably, beside the current one. The caller holds the descriptor's lock, also until
    /// ``commitStaged()``.
    func stage(_ descriptor: DiskDescriptor) throws(DiskError) {
        let bytes = descriptor.encode()
        try withPath(stagingPath) { () throws(SystemError) in
            let file = try fs.open(stagingPath, OpenMode(writable: true, creation: .replace))
            file.takeAttributes(of: descriptorPath)
            try file.writeBytes(bytes, at: 0)
            try file.synchronize()
        }
    }

    struct CommitFailure: Error {
        var error: DiskError
        /// A crash could leave the old descriptor or the new one.
        var isUndecided: Bool
    }

    /// Puts the staged descriptor in place; durable when this returns.
    func commitStaged() throws(CommitFailure) {
        do throws(SystemError) { try fs.rename(stagingPath, to: descriptorPath) } catch {
            throw CommitFailure(error: DiskError(error, path: descriptorPath), isUndecided: false)
        }
        do throws(SystemError) { try fs.synchronizeFolder(path) } catch {
            throw CommitFailure(error: DiskError(error, path: path), isUndecided: true)
        }
    }
}
