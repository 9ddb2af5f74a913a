internal import AgentCore
internal import Backup
internal import BackupStore
internal import ChunkTree
internal import Codecs
internal import Geometry

/// What `backup` tells of one disk.
struct BackupReport: Encodable {
    var disk: String
    var store: String
    var point: String
    var digest: String
    /// `full`: everything that is allocated was read. `incremental`: only what has changed.
    var mode: String
    var sizeBytes: UInt64
    var changedClusters: UInt64
    var clusterBytes: UInt64
    var readBytes: UInt64
    var newChunks: UInt64
    /// Plain bytes that the store did not have, and what they take up there.
    var newBytes: UInt64
    var storedBytes: UInt64
    var metadataWrittenBytes: UInt64
    var metadataReadBytes: UInt64
    var freezeNanoseconds: UInt64
    var switchNanoseconds: UInt64
    var durationNanoseconds: UInt64
    var readBytesPerSecond: UInt64
    var peakMemoryBytes: UInt64
    /// As after a clean sync; else as after a power cut.
    var isConsistent: Bool
    var leftBehind: String?

    init(_ outcome: BackupService.Outcome, store: String) {
        let figures = outcome.statistics
        disk = outcome.disk
        self.store = store
        point = outcome.point.id
        digest = outcome.point.content.root.digest.description
        mode = figures.isIncremental ? "incremental" : "full"
        sizeBytes = outcome.point.content.root.shape.byteCount
        changedClusters = figures.clustersChanged
        clusterBytes = figures.clusterBytes
        readBytes = figures.bytesRead
        newChunks = figures.chunksNew
        newBytes = figures.bytesNew
        storedBytes = figures.bytesStored
        metadataWrittenBytes = figures.metadataBytesWritten
        metadataReadBytes = figures.metadataBytesRead
        freezeNanoseconds = figures.freezeNanoseconds
        switchNanoseconds = outcome.switchNanoseconds
        durationNanoseconds = figures.durationNanoseconds
        readBytesPerSecond = figures.bytesPerSecond
        peakMemoryBytes = figures.peakMemoryBytes
        isConsistent = outcome.isConsistent
        leftBehind = outcome.leftBehind
    }

    var lines: [String] {
        var lines = ["\(disk): point \(point), \(mode)" + (isConsistent ? "" : ", state as after a power cut")]
        lines += Report.columns([
            ["  changed", "\(changedClusters) clusters of \(SizeText.format(clusterBytes))"],
            ["  read", "\(SizeText.format(readBytes)), \(SizeText.format(readBytesPerSecond))/s"],
            ["  new", "\(SizeText.format(newBytes)), stored as \(SizeText.format(storedBytes))"],
            ["  frozen for", DurationText.format(nanoseconds: freezeNanoseconds)],
            ["  copied in", DurationText.format(nanoseconds: durationNanoseconds)],
        ])
        if let leftBehind {
            lines.append("  an old snapshot was not merged (the next backup tries again): \(leftBehind)")
        }
        return lines
    }
}
