internal import CSystemShims
public import Geometry
public import LinuxSystem
internal import SystemPackage

/// A file of the host.
public final class LinuxFile: StorageFile {
    private let descriptor: OwnedDescriptor
    public let path: String
    public let alignment: Int
    private let batching: LinuxFileSystem.Batching

    /// - Parameter alignment: 1 for a buffered file, else what direct I/O on it needs.
    init(
        descriptor: consuming OwnedDescriptor, path: String, alignment: Int, batching: LinuxFileSystem.Batching
    ) {
        self.descriptor = descriptor
        self.path = path
        self.alignment = alignment
        self.batching = batching
    }

    public func identity() throws(SystemError) -> FileIdentity { FileIdentity(try status()) }
    public func size() throws(SystemError) -> UInt64 { try status().size }
    public func allocatedBytes() throws(SystemError) -> UInt64 { try status().allocated_bytes }

    private func status() throws(SystemError) -> shim_stat {
        var status = shim_stat()
        _ = try check(unsafe shim_fstat(descriptor.number, &status), "examine", path)
        return status
    }

    public func perform(_ transfers: [Transfer]) throws(SystemError) {
        if unsafe gainsFromBatching(transfers) {
            if batching == .automatic, let rings = RingPool.shared {
                if try unsafe rings.perform(transfers, on: descriptor.number, alignment: alignment, path: path) {
                    return
                }
            } else if batching != .sequential {
                return try unsafe TransferThreads.shared.perform(transfers) { transfer throws(SystemError) in
                    try unsafe self.perform(transfer)
                }
            }
        }
        for index in unsafe transfers.indices { try unsafe perform(transfers[index]) }
    }

    /// A single transfer is no slower by itself, and a buffered write only copies into the page cache (through a ring
    /// it was measured several times slower, since ext4 hands it to a kernel thread). Direct transfers and reads wait
    /// for the medium: several of them at once take less than half the time.
    private func gainsFromBatching(_ transfers: [Transfer]) -> Bool {
        guard unsafe transfers.count > 1 else { return false }
        return unsafe alignment > 1 || transfers.allSatisfy { unsafe $0.operation == .read }
    }

    private func perform(_ transfer: Transfer) throws(SystemError) {
        var done = 0
        let count = unsafe transfer.memory.count
        while done < count {
            let offset = unsafe transfer.offset + UInt64(done)
            let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: transfer.memory[done...])
            switch unsafe transfer.operation {
            case .write:
                let result = unsafe shim_pwrite(descriptor.number, rest.baseAddress, UInt64(rest.count), offset, 0)
                let written = Int(try check(result, "write", path))
                guard written > 0 else { throw SystemError(errno: .ioError, operation: "write", subject: path) }
                done += written
            case .read:
                let result = unsafe shim_pread(descriptor.number, rest.baseAddress, UInt64(rest.count), offset)
                let got = Int(try check(result, "read", path))
                done += got
                // The end of the file; a direct read that stops between blocks has met it and can't go on from there.
                if got == 0 || (alignment > 1 && got % alignment != 0) {
                    unsafe UnsafeMutableRawBufferPointer(rebasing: transfer.memory[done...])
                        .initializeMemory(as: UInt8.self, repeating: 0)
                    return
                }
            }
        }
    }

    public func synchronize() throws(SystemError) {
        _ = try check(shim_fdatasync(descriptor.number), "synchronize", path)
    }

    public func dropCache() { _ = shim_drop_cache(descriptor.number) }

    // Without them it is as private as it was made.
    public func takeAttributes(of path: String) { _ = unsafe shim_take_attributes(descriptor.number, path) }

    public func truncate(to size: UInt64) throws(SystemError) {
        _ = try check(shim_ftruncate(descriptor.number, size), "set the size of", path)
    }

    public func reserve(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
        try allocate(0, offset, count, "reserve space in")
    }

    public func zero(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
        try allocate(SHIM_FALLOC_ZERO | SHIM_FALLOC_KEEP_SIZE, offset, count, "zero a part of")
    }

    public func punch(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
        try allocate(SHIM_FALLOC_PUNCH | SHIM_FALLOC_KEEP_SIZE, offset, count, "give back a part of")
    }

    private func allocate(_ mode: CInt, _ offset: UInt64, _ count: UInt64, _ operation: String) throws(SystemError)
        -> Bool
    {
        guard count > 0 else { return true }
        let result = shim_fallocate(descriptor.number, mode, offset, count)
        if result == -Errno.notSupported.rawValue || result == -Errno.noFunction.rawValue { return false }
        _ = try check(result, operation, path)
        return true
    }

    public func nextData(from offset: UInt64) throws(SystemError) -> (offset: UInt64, count: UInt64)? {
        // What is reserved counts as data while the host has pages of it, which it may drop between the two questions.
        for _ in 0..<Self.seekTries {
            let data = shim_seek_data(descriptor.number, offset)
            if data == -Int64(Errno.noSuchAddressOrDevice.rawValue) { return nil }
            if data == -Int64(Errno.invalidArgument.rawValue) || data == -Int64(Errno.notSupported.rawValue) { break }
            let start = UInt64(try check(data, "seek data in", path))
            let hole = UInt64(try check(shim_seek_hole(descriptor.number, start), "seek a hole in", path))
            if hole > start { return (start, hole - start) }
        }
        let end = try size()
        return offset < end ? (offset, end - offset) : nil
    }
    private static let seekTries = 16

    public func unwrittenRanges(in range: ByteRange) throws(SystemError) -> [ByteRange]? {
        var found: [ByteRange] = []
        var extents = [shim_extent](repeating: shim_extent(), count: 64)
        var position = range.offset
        while position < range.end {
            let result = unsafe shim_fiemap(
                descriptor.number, position, range.end - position, &extents, UInt32(extents.count))
            if result == -Errno.notSupported.rawValue || result == -Errno.inappropriateIOCTLForDevice.rawValue {
                return nil
            }
            let count = Int(try check(result, "map", path))
            for extent in extents.prefix(count) {
                guard extent.flags & SHIM_EXTENT_UNWRITTEN != 0 else { continue }
                let part = ByteRange(offset: extent.logical, count: extent.length).intersection(range)
                if !part.isEmpty { found.append(part) }
            }
            guard count == extents.count, let last = extents.last, last.flags & SHIM_EXTENT_LAST == 0 else { break }
            position = last.logical + last.length
        }
        return found
    }
}
