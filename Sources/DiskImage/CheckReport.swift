/// One thing that a check found.
public struct CheckFinding: Hashable, Sendable, Codable {
    public enum Severity: String, Hashable, Sendable, Codable, Comparable {
        /// Legal, if wasteful or not to the taste of other tools.
        case note
        /// Wrong, but no data is concerned.
        case warning
        /// Some of the disk's content is wrong or lost.
        case error

        private var rank: Int {
            switch self {
            case .note: 0
            case .warning: 1
            case .error: 2
            }
        }
        public static func < (a: Severity, b: Severity) -> Bool { a.rank < b.rank }
    }

    public enum Kind: String, Hashable, Sendable, Codable, CaseIterable {
        /// It was not closed.
        case inUse
        /// A slot of the block table behind the end of the device is not zero.
        case slotBeyondDevice
        /// A version 1 entry is no multiple of the cluster.
        case misaligned
        /// An entry points into the header or the block table.
        case beforeData
        /// An entry points behind the end of the file.
        case beyondFile
        /// Two entries point to one cluster of the file.
        case duplicate
        /// Clusters of the file that no entry points to.
        case leak
        /// The file is longer than its last used cluster.
        case tail
        /// The hint that nothing is allocated is wrong.
        case emptyFlag
        /// Holes, or space reserved in parts of clusters, which the original tools refuse on ext4.
        case sparse
        /// The format extension can't be read, or is out of date.
        case formatExtension
        /// A file that the descriptor names is not there or no image.
        case missingImage
        /// The images of the disk contradict each other or the descriptor.
        case mismatch
        /// A file beside the disk that nothing names, left by something that was interrupted.
        case strayFile

        public var severity: Severity {
            switch self {
            case .leak, .tail, .sparse, .strayFile: .note
            case .inUse, .slotBeyondDevice, .emptyFlag, .formatExtension: .warning
            case .misaligned, .beforeData, .beyondFile, .duplicate, .missingImage, .mismatch: .error
            }
        }
    }

    public var kind: Kind
    public var severity: Severity
    /// The virtual cluster, where it is about one.
    public var cluster: UInt64?
    public var message: String

    init(_ kind: Kind, cluster: UInt64? = nil, _ message: String) {
        self.kind = kind
        severity = kind.severity
        self.cluster = cluster
        self.message = message
    }
}

/// What was found out about one image.
public struct ImageCheckReport: Hashable, Sendable, Codable {
    /// Findings that are listed one by one; beyond it they are only counted.
    public static let findingsMax = 100

    public var file: String
    /// The state that the file belongs to; empty for a bare image.
    public var guid: String
    /// 1 or 2; 0 for a raw base.
    public var version = 0
    public var byteCount: UInt64 = 0
    public var clusterBytes: UInt64 = 0
    public var fileBytes: UInt64 = 0
    public var allocatedClusters: UInt64 = 0
    public var findings: [CheckFinding] = []
    /// How many of each kind there are, the listed ones too.
    public var counts: [String: UInt64] = [:]
    /// The changes that the repair made, in words.
    public var repairs: [String] = []

    mutating func add(
        _ kind: CheckFinding.Kind, cluster: UInt64? = nil, count: UInt64 = 1, _ message: @autoclosure () -> String
    ) {
        counts[kind.rawValue, default: 0] += count
        if findings.count < Self.findingsMax { findings.append(CheckFinding(kind, cluster: cluster, message())) }
    }

    func count(_ kind: CheckFinding.Kind) -> UInt64 { counts[kind.rawValue] ?? 0 }

    /// The worst there is; `nil` when nothing was found.
    public var severity: CheckFinding.Severity? {
        CheckFinding.Kind.allCases.filter { count($0) > 0 }.map(\.severity).max()
    }
}

/// What was found out about a disk or a bare image. After a repair: what is left.
public struct CheckReport: Hashable, Sendable, Codable {
    public var path: String
    /// Base first where the descriptor says so, in its order.
    public var images: [ImageCheckReport] = []
    /// What concerns the disk as a whole.
    public var findings: [CheckFinding] = []
    /// Findings of all kinds before the repair, by kind; empty without one.
    public var repaired: [String: UInt64] = [:]

    /// The worst there is; `nil` when nothing was found.
    public var severity: CheckFinding.Severity? {
        (images.compactMap(\.severity) + findings.map(\.severity)).max()
    }
    /// Whether the disk can be used as it is: there are notes at most.
    public var isSound: Bool { severity.map { $0 == .note } ?? true }
}
