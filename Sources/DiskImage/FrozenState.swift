public import BlockIO
public import Geometry

/// A snapshot of a disk, read while another process owns the disk, writes its top, and merges above the snapshot.
public final class FrozenState: Sendable {
    public let byteCount: UInt64
    public let clusterSize: ClusterSize

    init(byteCount: UInt64, clusterSize: ClusterSize) {
        self.byteCount = byteCount
        self.clusterSize = clusterSize
    }

    /// - Parameters:
    ///   - folder: the disk's folder.
    ///   - guid: the snapshot.
    public static func open(
        _ folder: String, snapshot guid: String, in fs: any FileSystem, direct: Bool = true
    ) throws(DiskError) -> FrozenState {
        throw DiskError(.unsupported, "not there yet", path: folder)
    }

    /// Fills `memory` from byte `offset` of the device. Page-aligned memory and offsets are read without a copy.
    public func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(DiskError) {
        throw DiskError(.unsupported, "not there yet", path: "")
    }

    /// Calls `body` with runs of virtual clusters (numbers, not bytes), ascending and disjoint, that have data in a delta
    /// above the state `base` up to this one; with `nil`, in any delta. A cluster may be given that holds what it held
    /// before; none that changed is left out. Memory is bounded.
    /// - Parameters:
    ///   - cluster: where to start.
    ///   - body: returns `false` to stop.
    public func forEachChangedRun<E: Error>(
        since base: String?, from cluster: UInt64 = 0, _ body: (Range<UInt64>) throws(E) -> Bool
    ) throws(ScanError<E>) {
        throw .disk(DiskError(.unsupported, "not there yet", path: ""))
    }
}

/// What ends a scan early: the disk, or the one it reports to.
public enum ScanError<E: Error>: Error {
    case disk(DiskError)
    case body(E)
}
