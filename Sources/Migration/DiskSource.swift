internal import BlockIO
public import DiskImage
public import Geometry

/// A disk that no server has open: opened here for the time of the migration, so that nobody else writes to it.
public final class DiskSource: MigrationSource {
    private let device: Disk
    public let byteCount: UInt64
    private static let runsMax = 1024

    /// - Parameter disk: opened for writing, so that it is locked. Its owner is this object from here on.
    public init(_ disk: Disk) {
        device = disk
        byteCount = disk.byteCount
    }

    public func read(_ ranges: [ByteRange], into memory: UnsafeMutableRawBufferPointer) throws(MigrationError) {
        var position = 0
        for range in ranges {
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[position..<position + Int(range.count)])
            try disk(.source) { () throws(DiskError) in try unsafe device.read(at: range.offset, into: part) }
            position += Int(range.count)
        }
    }

    public func dataRuns(in range: ByteRange) throws(MigrationError) -> (runs: [ByteRange], coveredTo: UInt64) {
        let extents = try disk(.source) { () throws(DiskError) in try device.extents(in: range, limit: Self.runsMax) }
        let runs = extents.filter { $0.isAllocated && !$0.isZero }.map(\.range)
        return (runs, extents.last?.range.end ?? range.end)
    }

    public func flush() throws(MigrationError) {
        try disk(.source) { () throws(DiskError) in try device.flush() }
    }

    // Nobody writes, so nothing gets dirty.
    public func startTracking(granuleBytes: UInt64) throws(MigrationError) {}
    public func takeDirty(from offset: UInt64) throws(MigrationError) -> (runs: [ByteRange], coveredTo: UInt64) {
        ([], byteCount)
    }
    public func dirtyBytes() throws(MigrationError) -> UInt64 { 0 }
    public func stopTracking() {}
    public func pause(deadlineMilliseconds: UInt64) throws(MigrationError) -> Bool { false }
    public func resume() {}
    public func release() throws(MigrationError) {}
    public func confirmRelease() {}
    public func retire() throws(MigrationError) { try close() }

    /// Gives the lock back.
    public func close() throws(MigrationError) {
        try disk(.source) { () throws(DiskError) in try device.close() }
    }
}
