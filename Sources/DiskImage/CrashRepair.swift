internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// Makes an image that was not closed usable: entries that point behind the end of the file are cleared (there are none
/// unless the host lost what it had synchronised), and the file is cut to what is used. Nothing flushed is touched.
/// Damage that no crash of ours can make is refused: ``DiskError/Code/corrupt``.
enum CrashRepair {
    struct Outcome {
        /// The first cluster beyond all that are in use; the file ends there.
        var usedEnd: UInt64
        /// Clusters of the data area below that nobody uses, a bounded number of runs.
        var free: [Range<UInt64>]
    }

    /// Clusters that one pass over the table accounts for: a bit each.
    private static let windowClusters: UInt64 = 1 << 27
    private static let freeRunsMax = 65536

    static func run(_ delta: DeltaFile) throws(DiskError) -> Outcome {
        guard let scanner = BatScanner(delta) else {
            return Outcome(usedEnd: delta.clusterCount, free: [])
        }
        let fileBytes = try delta.attempt { () throws(SystemError) in try delta.file.size() }
        let fileEnd = fileBytes / delta.clusterSize.bytes
        var outcome = Outcome(usedEnd: scanner.bat.firstDataCluster, free: [])
        var window = scanner.bat.firstDataCluster
        while window < fileEnd {
            let end = min(window + windowClusters, fileEnd)
            try account(window..<end, scanner, fileBytes, &outcome)
            window = end
        }
        outcome.free.removeAll { $0.lowerBound >= outcome.usedEnd }
        let end = delta.clusterSize.offset(of: outcome.usedEnd)
        try delta.attempt { () throws(SystemError) in
            if fileBytes != end { try delta.file.truncate(to: end) }
            try delta.file.synchronize()
        }
        return outcome
    }

    /// Finds who uses the clusters of a window of the file.
    private static func account(
        _ window: Range<UInt64>, _ scanner: BatScanner, _ fileBytes: UInt64, _ outcome: inout Outcome
    ) throws(DiskError) {
        var used = [UInt64](repeating: 0, count: Int((UInt64(window.count) + 63) / 64))
        var dangling: [UInt64] = []
        try scanner.forEachEntry { cluster, raw throws(DiskError) in
            switch scanner.bat.decode(raw, fileBytes: fileBytes) {
            case .unallocated: break
            case .invalid(.beyondFile): dangling.append(cluster)
            case .invalid(let fault):
                throw damage(scanner.delta, "the entry of cluster \(cluster) is \(fault.rawValue)")
            case .cluster(let place):
                guard window.contains(place) else { return }
                let (word, bit) = (place - window.lowerBound).quotientAndRemainder(dividingBy: 64)
                guard used[Int(word)] & 1 << bit == 0 else {
                    throw damage(scanner.delta, "cluster \(place) of the file is used twice")
                }
                used[Int(word)] |= 1 << bit
                outcome.usedEnd = max(outcome.usedEnd, place + 1)
            }
            if dangling.count >= 1024 {
                try clear(dangling, scanner)
                dangling.removeAll()
            }
        }
        try clear(dangling, scanner)
        noteFree(window, used, &outcome)
    }

    private static func noteFree(_ window: Range<UInt64>, _ used: [UInt64], _ outcome: inout Outcome) {
        let end = min(window.upperBound, outcome.usedEnd)
        var start: UInt64?
        for place in window where place < end {
            let (word, bit) = (place - window.lowerBound).quotientAndRemainder(dividingBy: 64)
            if used[Int(word)] & 1 << bit == 0 {
                start = start ?? place
            } else if let begin = start {
                if outcome.free.count < freeRunsMax { outcome.free.append(begin..<place) }
                start = nil
            }
        }
        if let begin = start, begin < end, outcome.free.count < freeRunsMax { outcome.free.append(begin..<end) }
    }

    private static func clear(_ clusters: [UInt64], _ scanner: BatScanner) throws(DiskError) {
        guard !clusters.isEmpty else { return }
        let delta = scanner.delta
        let buffer = AlignedBuffer(byteCount: DeltaFile.pageBytes)
        for cluster in clusters {
            let (page, slot) = DeltaFile.place(of: cluster)
            let offset = page * UInt64(DeltaFile.pageBytes)
            try delta.attempt { () throws(SystemError) in
                try unsafe delta.file.read(at: offset, into: buffer.memory)
                unsafe buffer.memory.storeBytes(of: 0, toByteOffset: slot * 4, as: UInt32.self)
                try unsafe delta.file.write(at: offset, from: UnsafeRawBufferPointer(buffer.memory))
            }
        }
    }

    private static func damage(_ delta: DeltaFile, _ what: String) -> DiskError {
        DiskError(.corrupt, "\(delta.path): \(what); check the disk with repair", path: delta.path)
    }
}
