public import Geometry
public import LinuxSystem

/// One transfer of a batch. The memory belongs to the caller and must stay valid until `perform` returns.
@unsafe public struct Transfer {
    public enum Operation: Hashable, Sendable {
        /// Fills the memory; bytes beyond the end of the file read as zeros.
        case read
        /// Writes all of the memory.
        case write
    }
    public var operation: Operation
    /// Byte offset in the file.
    public var offset: UInt64
    /// Source or destination, its length is the transfer's.
    public var memory: UnsafeMutableRawBufferPointer

    public init(_ operation: Operation, at offset: UInt64, memory: UnsafeMutableRawBufferPointer) {
        unsafe self.operation = operation
        unsafe self.offset = offset
        unsafe self.memory = memory
    }
}

/// A file that holds an image, a pack or a journal: the seam at which faults and crashes are injected.
///
/// Calls block, are made from any thread, and several at once. A write is durable only after a ``synchronize()`` that
/// began once the write had returned. Writes that overlap in time and place leave either's bytes. Nobody but the owner
/// truncates a file while others use it.
public protocol StorageFile: AnyObject, Sendable {
    /// What offset, count and memory address of a transfer must be multiples of; 1 for buffered files.
    var alignment: Int { get }

    /// Which file this is, whatever its name leads to by now.
    func identity() throws(SystemError) -> FileIdentity
    /// Size in bytes.
    func size() throws(SystemError) -> UInt64
    /// Bytes of the host's disk that the file takes up.
    func allocatedBytes() throws(SystemError) -> UInt64

    /// Does all transfers in any order, together; returns when every one has ended, throws the first failure.
    /// After a failure each write of the batch may or may not have happened.
    func perform(_ transfers: [Transfer]) throws(SystemError)

    /// Makes all writes that have returned, and the size, durable (fdatasync).
    func synchronize() throws(SystemError)
    /// Has reads come from the medium again where nothing waits to be written: after a ``synchronize()`` that failed
    /// the host takes for clean what it could not store, and would give it out. A hint: it may do nothing.
    func dropCache()

    func truncate(to size: UInt64) throws(SystemError)
    /// Takes over owner, group and permissions of what is at `path`, as far as that is allowed: for a file that is to
    /// be read by whoever reads that one.
    func takeAttributes(of path: String)
    /// Reserves the range as allocated and reading as zeros where it held no data, extending the size when it ends
    /// beyond it. - Returns: `false`, with nothing done, where the host file system can't.
    func reserve(offset: UInt64, count: UInt64) throws(SystemError) -> Bool
    /// Makes the range read as zeros while it stays allocated. - Returns: `false`, with nothing done, where the host
    /// can't.
    func zero(offset: UInt64, count: UInt64) throws(SystemError) -> Bool
    /// Gives the range back to the host file system; it reads as zeros. The size stays. - Returns: `false`, with
    /// nothing done, where the host can't.
    func punch(offset: UInt64, count: UInt64) throws(SystemError) -> Bool

    /// The next run of the file at or after `offset` that may hold anything but zeros, or `nil` when there is none up
    /// to the end. Files that can't tell answer with all the rest.
    func nextData(from offset: UInt64) throws(SystemError) -> (offset: UInt64, count: UInt64)?

    /// The parts of `range` that are reserved but were never written, ascending; holes are not among them.
    /// - Returns: `nil` where the host file system can't tell.
    func unwrittenRanges(in range: ByteRange) throws(SystemError) -> [ByteRange]?
}

extension StorageFile {
    public func dropCache() {}
    public func takeAttributes(of path: String) {}

    /// Fills `memory`; bytes beyond the end of the file read as zeros.
    public func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(SystemError) {
        try unsafe perform([Transfer(.read, at: offset, memory: memory)])
    }

    /// Writes all of `memory`.
    public func write(at offset: UInt64, from memory: UnsafeRawBufferPointer) throws(SystemError) {
        // Never written through: a write transfer only reads its memory.
        try unsafe perform([Transfer(.write, at: offset, memory: UnsafeMutableRawBufferPointer(mutating: memory))])
    }

    /// Reads `count` bytes. For small things (headers, journals) of buffered files.
    public func readBytes(at offset: UInt64, count: Int) throws(SystemError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var failure: SystemError?
        unsafe bytes.withUnsafeMutableBytes { memory in
            do throws(SystemError) { try unsafe read(at: offset, into: memory) } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }

    /// Writes `bytes`. For small things (headers, journals) of buffered files.
    public func writeBytes(_ bytes: [UInt8], at offset: UInt64) throws(SystemError) {
        var failure: SystemError?
        unsafe bytes.withUnsafeBytes { memory in
            do throws(SystemError) { try unsafe write(at: offset, from: memory) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}
