/// What a backup did, for people, graphs and `--json`.
public struct BackupStatistics: Codable, Hashable, Sendable {
    /// Whether only what changed since an earlier point was read.
    public var isIncremental = false
    /// Clusters that the change map named, and their size.
    public var clustersChanged: UInt64 = 0
    public var clusterBytes: UInt64 = 0
    /// Bytes read of the disk.
    public var bytesRead: UInt64 = 0
    /// Chunks that the store did not have.
    public var chunksNew: UInt64 = 0
    /// Their plain bytes.
    public var bytesNew: UInt64 = 0
    /// Bytes they take up in the store.
    public var bytesStored: UInt64 = 0
    /// Bytes of tree nodes, pack directories and point that were written, and of nodes that were read.
    public var metadataBytesWritten: UInt64 = 0
    public var metadataBytesRead: UInt64 = 0
    /// How long the file systems stood still.
    public var freezeNanoseconds: UInt64 = 0
    public var durationNanoseconds: UInt64 = 0
    /// Largest resident set of the process so far.
    public var peakMemoryBytes: UInt64 = 0

    public init() {}

    /// Bytes of the disk worked through a second.
    public var bytesPerSecond: UInt64 {
        durationNanoseconds == 0 ? 0 : UInt64(Double(bytesRead) * 1e9 / Double(durationNanoseconds))
    }

    /// The figures that are kept with the restore point.
    var kept: [String: UInt64] {
        [
            "bytes-read": bytesRead, "bytes-new": bytesNew, "bytes-stored": bytesStored, "chunks-new": chunksNew,
            "clusters-changed": clustersChanged, "freeze-ns": freezeNanoseconds, "incremental": isIncremental ? 1 : 0,
        ]
    }
}
