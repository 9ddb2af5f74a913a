internal import AgentCore
internal import Backup
internal import BackupStore
internal import ChunkTree
internal import Codecs
internal import Geometry

/// What `backup` tells of several disks.
struct BackupList: Encodable {
    var backups: [BackupReport] = []
    var leftOut: [LeftOutDisk] = []
    var failures: [FailedBackup] = []
}

/// A disk whose last point is young enough.
struct LeftOutDisk: Encodable {
    var disk: String
    var reason: String
}

/// A disk whose backup failed, and why.
struct FailedBackup: Encodable {
    var disk: String
    var code: String
    var exitStatus: Int32
    var message: String

    init(disk: String, _ failure: CommandFailure) {
        self.disk = disk
        code = failure.status.name
        exitStatus = failure.status.rawValue
        message = failure.message
    }
}

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
    /// What else is to be told: that everything was read, and why, for instance.
    var remarks: [String]

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
        remarks = outcome.remarks
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
        lines += remarks.map { "  \($0)" }
        if let leftBehind {
            lines.append("  an old snapshot was not merged (the next backup tries again): \(leftBehind)")
        }
        return lines
    }
}
