internal import BlockIO
internal import Geometry
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

    /// What was staged is not to be put in place.
    func discardStaged() { try? fs.remove(stagingPath) }

    /// Has the disk grow, with the descriptor's space made sure of before, and the size in it after.
    /// - Parameters:
    ///   - grow: makes the device that large.
    ///   - unrecorded: called when the device has grown, and the descriptor could not be put in place.
    func recordingSize(
        _ bytes: UInt64, _ grow: () throws(DiskError) -> Void, unrecorded: () -> Void
    ) throws(DiskError) {
        try withDescriptorLock { () throws(DiskError) in
            var descriptor = try load()
            descriptor.setSectorCount(bytes / sectorBytes)
            do throws(DiskError) {
                try stage(descriptor)
                try grow()
            } catch {
                discardStaged()
                throw error
            }
            do throws(CommitFailure) { try commitStaged(descriptor) } catch {
                unrecorded()
                throw DiskError(
                    error.error.code,
                    "\(path): the disk has grown to \(bytes) bytes, but its descriptor does not say so yet, which it "
                        + "will once the disk is detached or attached: \(error.error.message)", path: path)
            }
        }
    }

    struct CommitFailure: Error {
        var error: DiskError
        /// A crash could leave the old descriptor or the new one.
        var isUndecided: Bool
    }

    /// Puts the staged descriptor in place; durable when this returns.
    func commitStaged(_ descriptor: DiskDescriptor) throws(CommitFailure) {
        do throws(DiskError) { try proveInPlace() } catch { throw CommitFailure(error: error, isUndecided: false) }
        try replacing(by: descriptor) { () throws(CommitFailure) in try putInPlace() }
    }

    private func putInPlace() throws(CommitFailure) {
        do throws(SystemError) { try fs.rename(stagingPath, to: descriptorPath) } catch {
            throw CommitFailure(error: DiskError(error, path: descriptorPath), isUndecided: false)
        }
        do throws(SystemError) { try fs.synchronizeFolder(path) } catch {
            throw CommitFailure(error: DiskError(error, path: path), isUndecided: true)
        }
    }
}
