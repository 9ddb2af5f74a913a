internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import SystemPackage

/// Repairs one image after a check. No data that an entry can reach is lost: what two entries share is copied for the
/// second of them. Entries that can't be followed are cleared.
///
/// Every step can be cut off by a crash and done again: the image is marked open first and closed last; copied data is
/// durable before the entry that points to it; the tail goes after the table is durable.
struct ImageRepair {
    private let path: String
    private let file: any StorageFile
    private var header: ImageHeader
    private let fileBytes: UInt64
    private let checked: ImageCheck
    private var usedEnd: UInt64
    private var counts: [CheckFinding.Kind: UInt64] = [:]
    private var lost = LostClusters()

    private var bat: BatGeometry { header.bat }
    private var cluster: ClusterSize { header.clusterSize }

    /// - Parameter checked: what was found; its file is open for writing.
    init(_ checked: ImageCheck) {
        self.checked = checked
        path = checked.path
        file = checked.file
        header = checked.header
        fileBytes = checked.fileBytes
        usedEnd = checked.usedEnd
    }

    /// - Returns: what was done, in words.
    mutating func run(_ lease: borrowing ExclusiveLease) throws(DiskError) -> [String] {
        precondition(lease.path.isSame(as: path), "the right to change another file")
        guard !checked.extensionForbidsChanges else {
            throw DiskError(
                .unsupported,
                "\(path): the image has a necessary feature that is not known here; repair it with what made it",
                path: path)
        }
        var done: [String] = []
        let wasOpen = !header.inUse.isClean
        header.inUse = .open
        // Before its clusters are cut off or used.
        let hadExtension = header.extensionSector != 0
        header.extensionSector = 0
        try writeHeader()
        if hasTableFaults {
            let windows = FileWindows(bat, fileBytes: fileBytes)
            var window = windows.first
            repeat {
                try repairTable(window, isFirst: window.lowerBound == header.firstDataCluster)
                window = windows.next(after: window, usedEnd: checked.usedEnd)
            } while !window.isEmpty
            for (kind, count) in counts.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
                done.append(
                    kind == .duplicate
                        ? "copied \(count) shared clusters" : "cleared \(count) entries: \(kind.rawValue)")
            }
            done += lost.words(cluster)
        }
        let end = cluster.offset(of: usedEnd)
        let size = try withPath(path) { () throws(SystemError) in try file.size() }
        if size != end {
            // Longer: the tail. Shorter: never, for all that is used lies inside the file.
            try withPath(path) { () throws(SystemError) in
                try file.synchronize()
                try file.truncate(to: end)
            }
            done.append("cut \(size > end ? size - end : 0) unused bytes at the end")
        }
        if checked.checksSparseness {
            let sparseness = Sparseness(file: file, clusterSize: cluster)
            let filled = try withPath(path) { () throws(SystemError) in try sparseness.settle(below: end) }
            if filled > 0 { done.append("filled \(filled) bytes of holes") }
        }
        if hadExtension {
            done.append("removed the format extension, which a change would leave out of date")
        }
        let isEmpty = checked.report.allocatedClusters == 0
        if header.flags.contains(.empty) != isEmpty { done.append("set the hint right whether clusters are allocated") }
        if isEmpty { header.flags.insert(.empty) } else { header.flags.remove(.empty) }
        header.inUse = .closed
        try writeHeader()
        if wasOpen { done.append("marked the image closed") }
        return done
    }

    private var hasTableFaults: Bool {
        let kinds: [CheckFinding.Kind] = [.slotBeyondDevice, .misaligned, .beforeData, .beyondFile, .duplicate]
        return kinds.contains { checked.report.count($0) > 0 }
    }

    /// Everything before it is made durable first, and then it itself.
    private func writeHeader() throws(DiskError) {
        let bytes = header.encode()
        try withPath(path) { () throws(SystemError) in
            try file.synchronize()
            try file.writeBytes(bytes, at: 0)
            try file.synchronize()
        }
    }

    private mutating func repairTable(_ window: Range<UInt64>, isFirst: Bool) throws(DiskError) {
        var set = ClusterSet(window)
        var next = self
        do throws(ScanFailure<DiskError>) {
            try BatScan(file: file, bat: bat).forEachPage { (first, slots) throws(DiskError) in
                try next.repair(first, slots, &set, isFirst: isFirst)
            }
        } catch {
            switch error {
            case .host(let error): throw DiskError(error, path: path)
            case .body(let error): throw error
            }
        }
        self = next
    }

    private mutating func repair(
        _ first: UInt64, _ slots: [UInt32], _ set: inout ClusterSet, isFirst: Bool
    ) throws(DiskError) {
        var changes: [(slot: UInt64, raw: UInt32)] = []
        for (index, raw) in slots.enumerated() where raw != 0 {
            let number = first + UInt64(index)
            guard number < UInt64(bat.clusterCount) else {
                changes.append((number, 0))
                counts[.slotBeyondDevice, default: 0] += 1
                continue
            }
            switch bat.decode(raw, fileBytes: fileBytes) {
            case .unallocated: continue
            case .invalid(let fault):
                // In later windows an entry that was made here may seem to point behind the file as it was.
                guard isFirst else { continue }
                changes.append((number, 0))
                counts[fault.kind, default: 0] += 1
                lost.add(number)
            case .cluster(let place):
                guard !set.insert(place) else { continue }
                guard let copy = bat.encode(usedEnd) else {
                    throw DiskError(
                        .invalid, "\(path): no room for the copy of a shared cluster; export the disk", path: path)
                }
                try copyCluster(place, to: usedEnd)
                changes.append((number, copy))
                usedEnd += 1
                counts[.duplicate, default: 0] += 1
            }
        }
        guard !changes.isEmpty else { return }
        try withPath(path) { () throws(SystemError) in
            try file.synchronize()
            for change in changes {
                let bytes = (0..<4).map { UInt8(truncatingIfNeeded: change.raw >> UInt32(8 * $0)) }
                try file.writeBytes(bytes, at: BatGeometry.byteOffset(ofEntry: change.slot))
            }
        }
    }

    private func copyCluster(_ source: UInt64, to target: UInt64) throws(DiskError) {
        let piece = min(cluster.byteCount, 4 << 20)
        let memory = AlignedBuffer(byteCount: piece)
        try withPath(path) { () throws(SystemError) in
            for start in stride(from: 0, to: cluster.bytes, by: piece) {
                try unsafe file.read(at: cluster.offset(of: source) + start, into: memory.memory)
                try unsafe file.write(
                    at: cluster.offset(of: target) + start, from: UnsafeRawBufferPointer(memory.memory))
            }
        }
    }
}

/// Clusters of the device whose entries led nowhere and were cleared, as runs, for the report.
private struct LostClusters {
    private static let runsMax = 100
    private var runs: [Range<UInt64>] = []
    private var more: UInt64 = 0

    /// In ascending order.
    mutating func add(_ cluster: UInt64) {
        if let last = runs.last, last.upperBound == cluster {
            runs[runs.count - 1] = last.lowerBound..<cluster + 1
        } else if runs.count < Self.runsMax {
            runs.append(cluster..<cluster + 1)
        } else {
            more += 1
        }
    }

    func words(_ size: ClusterSize) -> [String] {
        var lines = runs.map {
            "bytes \(size.offset(of: $0.lowerBound)) to \(size.offset(of: $0.upperBound) - 1) of the device "
                + "show what is below this image now, or zeros"
        }
        if more > 0 { lines.append("so do \(more) more clusters") }
        return lines
    }
}
