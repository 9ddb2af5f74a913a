internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// Makes an image that was not closed usable: what other software keeps beside the data is let go, and the file is cut
/// to what is used. Nothing flushed is touched, and no entry of the block table is changed: damage that no crash of
/// ours can make is refused as ``DiskError/Code/corrupt``, for a check with repair to show and to put right.
enum CrashRepair {
    struct Outcome {
        /// The first cluster beyond all that are in use; the file ends there.
        var usedEnd: UInt64
        /// Clusters of the data area below that nobody uses, a bounded number of runs.
        var free: [Range<UInt64>]
    }

    private static let freeRunsMax = 65536

    static func run(_ delta: DeltaFile) throws(DiskError) -> Outcome {
        guard let bat = delta.bat else { return Outcome(usedEnd: delta.clusterCount, free: []) }
        // Its place is about to be given to data.
        try delta.dropExtension()
        var outcome = Outcome(usedEnd: bat.firstDataCluster, free: [])
        let fileBytes = try account(delta, &outcome)
        outcome.free.removeAll { $0.lowerBound >= outcome.usedEnd }
        let end = delta.clusterSize.offset(of: outcome.usedEnd)
        // What is read of a table that a killed process has written may be in the host's memory only, and the durable
        // one may still need what is cut off.
        try delta.synchronize()
        guard fileBytes != end else { return outcome }
        try delta.attempt { () throws(SystemError) in try delta.file.truncate(to: end) }
        try delta.synchronize()
        return outcome
    }

    /// Refuses an image in which an entry leads nowhere or two share a cluster: a write through one of them would
    /// change what the other shows. Changes nothing.
    static func examine(_ delta: DeltaFile) throws(DiskError) {
        guard let bat = delta.bat else { return }
        var outcome = Outcome(usedEnd: bat.firstDataCluster, free: [])
        _ = try account(delta, &outcome)
    }

    /// Finds who uses the clusters of the file, in windows of a bit for each. - Returns: the size of the file.
    private static func account(_ delta: DeltaFile, _ outcome: inout Outcome) throws(DiskError) -> UInt64 {
        let fileBytes = try delta.attempt { () throws(SystemError) in try delta.file.size() }
        guard let scanner = BatScanner(delta) else { return fileBytes }
        let windows = FileWindows(scanner.bat, fileBytes: fileBytes)
        var window = windows.first
        repeat {
            try account(window, scanner, fileBytes, &outcome)
            window = windows.next(after: window, usedEnd: outcome.usedEnd)
        } while !window.isEmpty
        return fileBytes
    }

    private static func account(
        _ window: Range<UInt64>, _ scanner: BatScanner, _ fileBytes: UInt64, _ outcome: inout Outcome
    ) throws(DiskError) {
        var used = ClusterSet(window)
        var dangling = DanglingEntries()
        try scanner.forEachEntry { cluster, raw throws(DiskError) in
            switch scanner.bat.decode(raw, fileBytes: fileBytes) {
            case .unallocated: break
            case .invalid(.beyondFile): dangling.add(cluster)
            case .invalid(let fault):
                throw damage(scanner.delta, "the entry of cluster \(cluster) \(fault.words)")
            case .cluster(let place):
                outcome.usedEnd = max(outcome.usedEnd, place + 1)
                guard used.insert(place) else {
                    throw damage(scanner.delta, "cluster \(place) of the file is used twice")
                }
            }
        }
        if let what = dangling.words { throw damage(scanner.delta, what) }
        noteFree(window, used, &outcome)
    }

    private static func noteFree(_ window: Range<UInt64>, _ used: ClusterSet, _ outcome: inout Outcome) {
        let end = min(window.upperBound, outcome.usedEnd)
        var start: UInt64?
        for place in window.lowerBound..<max(end, window.lowerBound) {
            if !used.contains(place) {
                start = start ?? place
            } else if let begin = start {
                if outcome.free.count < freeRunsMax { outcome.free.append(begin..<place) }
                start = nil
            }
        }
        if let begin = start, begin < end, outcome.free.count < freeRunsMax { outcome.free.append(begin..<end) }
    }

    private static func damage(_ delta: DeltaFile, _ what: String) -> DiskError {
        DiskError(
            .corrupt, "\(delta.path): \(what); 'godwit disk check' shows the damage, with --repair it puts it right",
            path: delta.path)
    }
}

/// Entries whose data is not in the file. No crash of ours leaves one: the host lost what it had stored.
private struct DanglingEntries {
    private static let namedMax = 5
    private var count: UInt64 = 0
    private var named: [UInt64] = []

    mutating func add(_ cluster: UInt64) {
        count += 1
        if named.count < Self.namedMax { named.append(cluster) }
    }

    var words: String? {
        guard count > 0 else { return nil }
        let list = named.map { "\($0)" }.joined(separator: ", ") + (count > UInt64(named.count) ? ", ..." : "")
        return "the data of \(count) clusters (\(list)) is not in the file, which the host must have lost"
    }
}
