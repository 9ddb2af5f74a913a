internal import LinuxSystem

/// One round of copying, as people and programs are told.
public struct RoundReport: Codable, Hashable, Sendable {
    /// From 1; the one in the frozen phase is the last.
    public var round: Int
    /// Bytes of data that were looked at.
    public var bytes: UInt64
    /// Bytes of the stream that went over the link.
    public var sentBytes: UInt64
    public var seconds: Double
    /// Bytes that became dirty meanwhile.
    public var dirtyBytes: UInt64
    public var dirtyBytesPerSecond: Double
    /// Of data that was looked at, sent or found to be there already.
    public var goodputBytesPerSecond: Double
    /// Of the stream on the link; `nil` before enough was sent to tell.
    public var linkBytesPerSecond: Double?
    public var predictedDowntimeMilliseconds: Double?
}

/// How a migration went.
public struct MigrationReport: Codable, Hashable, Sendable {
    public var identity: String
    public var target: String
    public var sizeBytes: UInt64
    public var rounds: [RoundReport] = []
    /// Bytes of the stream, in all rounds and the last phase.
    public var sentBytes: UInt64 = 0
    /// Bytes that a former attempt had brought over, and that were found unchanged.
    public var reusedBytes: UInt64 = 0
    public var seconds: Double = 0
    public var predictedDowntimeMilliseconds: Double?
    /// From the order to stop the guest until the target said that it runs there.
    public var downtimeMilliseconds: Double = 0
    /// Parts of the downtime.
    public var stopMilliseconds: Double = 0
    public var finalCopyMilliseconds: Double = 0
    public var finalBytes: UInt64 = 0
    public var verifyMilliseconds: Double = 0
    public var startMilliseconds: Double = 0
    public var sourceDigest: String = ""
    public var targetDigest: String = ""
    /// Switched although the limit could not be kept.
    public var isForced = false
    /// The disk is at the target, but its guest could not be started there.
    public var startFailure: String?
    /// Why something could not be tidied up at the source; `godwit migrate --recover` tries again.
    public var leftBehind: String?
}

/// What a migration tells while it runs.
public enum MigrationProgress: Hashable, Sendable {
    case checked
    /// The target holds that much of a former attempt.
    case resuming(bytes: UInt64)
    /// It reads that back: so much of the disk so far.
    case comparing(done: UInt64, total: UInt64)
    /// Of the present round.
    case copied(done: UInt64, total: UInt64)
    case round(RoundReport)
    /// The guest is being stopped.
    case stopping(predictedMilliseconds: Double?)
    /// The disk is given up, and that try to have the target take it over has failed; the next one comes after so many
    /// nanoseconds, if one does.
    case unanswered(attempt: Int, failure: String, nextNanoseconds: UInt64?)
    case finishing
}

/// How a disk is to be moved.
public struct MigrationOptions: Sendable {
    public var limits = PrecopyLimits()
    /// Of the dirty map, a power of two from 4 KiB to 1 MiB; `nil`: chosen by the size of the disk.
    public var granuleBytes: UInt64?
    public var compressionLevel: Int32 = 1
    /// After this the guest's writes go on by themselves, and the migration fails.
    public var pauseDeadlineMilliseconds: UInt64 = 60_000
    /// For so long a target that does not answer is asked to take over what was given up.
    public var commitTimeoutMilliseconds: UInt64 = 300_000
    /// Waits for so many nanoseconds, or less, between such tries.
    public var wait: @Sendable (UInt64) -> Void = { pauseThread(nanoseconds: $0) }
    /// For the target's shell, once the disk is in place.
    public var startCommand: String?
    /// Remove the source's files once the target runs.
    public var removesSource = false
    /// Off for tests that count steps.
    public var usesThreads = true
    public init() {}
}

/// The disk on the source's host, without its data.
public struct MigratedDisk: Hashable, Sendable {
    /// The disk's folder, with symbolic links resolved.
    public var folder: String
    public var clusterBytes: UInt64
    public var imageVersion: Int
    /// What the images take up.
    public var usedBytes: UInt64
    /// Of the device, before it is tracked.
    public var sizeBytes: UInt64
    public init(folder: String, clusterBytes: UInt64, imageVersion: Int, usedBytes: UInt64, sizeBytes: UInt64) {
        self.sizeBytes = sizeBytes
        self.folder = folder
        self.clusterBytes = clusterBytes
        self.imageVersion = imageVersion
        self.usedBytes = usedBytes
    }
}
