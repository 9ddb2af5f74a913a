internal import BlockIO
internal import Codecs
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import SystemPackage

/// Checks one image file, in memory that does not grow with it: file clusters are looked at in windows, with a walk
/// over the block table for each.
struct ImageCheck {
    let path: String
    let file: any StorageFile
    let header: ImageHeader
    let fileBytes: UInt64
    /// Whether holes matter to other tools where the file is.
    let checksSparseness: Bool
    private(set) var report: ImageCheckReport
    /// First cluster of the file after all that is used.
    private(set) var usedEnd: UInt64
    /// Clusters of the format extension, ascending.
    private(set) var extensionClusters: [UInt64] = []
    /// Whether the format extension forbids changes by who does not know it.
    private(set) var extensionForbidsChanges = false

    private var bat: BatGeometry { header.bat }
    private var cluster: ClusterSize { header.clusterSize }

    /// - Parameter file: open for reading at least.
    init(_ path: String, file: any StorageFile, guid: String, name: String, checksSparseness: Bool) throws(DiskError) {
        self.path = path
        self.file = file
        self.checksSparseness = checksSparseness
        let (size, head) = try withPath(path) { () throws(SystemError) in
            let size = try file.size()
            return (size, try file.readBytes(at: 0, count: Int(min(size, UInt64(HeaderFields.byteCount)))))
        }
        fileBytes = size
        header = try parsing(path) { () throws(ImageError) in try ImageHeader(parsing: head, fileBytes: size) }
        usedEnd = header.firstDataCluster
        report = ImageCheckReport(file: name, guid: guid)
        report.version = header.version.rawValue
        report.byteCount = header.byteCount
        report.clusterBytes = header.clusterSize.bytes
        report.fileBytes = size
    }

    /// Looks at everything. Changes nothing.
    mutating func run() throws(DiskError) {
        if !header.inUse.isClean { report.add(.inUse, "the image was not closed") }
        try checkExtension()
        let windows = FileWindows(bat, fileBytes: fileBytes)
        var window = windows.first
        var inUse: UInt64 = 0
        repeat {
            inUse += try scan(window, isFirst: window.lowerBound == header.firstDataCluster)
            window = windows.next(after: window, usedEnd: usedEnd)
        } while !window.isEmpty
        let holes = usedEnd - header.firstDataCluster - inUse
        if holes > 0 {
            report.add(.leak, count: holes, "\(holes) clusters of the file are not used by any part of the device")
        }
        let end = cluster.offset(of: usedEnd)
        if fileBytes > end { report.add(.tail, "\(fileBytes - end) bytes at the end of the file are not used") }
        let isEmpty = report.allocatedClusters == 0
        // The other way round is how QEMU makes its images, and harmless.
        let allocated = report.allocatedClusters
        if header.flags.contains(.empty), !isEmpty {
            report.add(.emptyFlag, "the image is marked empty, but has \(allocated) clusters")
        }
        if checksSparseness { try checkSparseness(below: min(fileBytes, end)) }
    }

    /// One walk over the table. - Returns: how many clusters in the window are used.
    private mutating func scan(_ window: Range<UInt64>, isFirst: Bool) throws(DiskError) -> UInt64 {
        var set = ClusterSet(window)
        for number in extensionClusters { _ = set.insert(number) }
        var found = report
        var end = usedEnd
        let bat = self.bat
        let fileBytes = self.fileBytes
        do throws(ScanFailure<Never>) {
            try BatScan(file: file, bat: bat).forEachPage { (first, slots) throws(Never) in
                for (index, raw) in slots.enumerated() where raw != 0 {
                    let number = first + UInt64(index)
                    guard number < UInt64(bat.clusterCount) else {
                        if isFirst {
                            found.add(
                                .slotBeyondDevice, cluster: number,
                                "slot \(number) is behind the end of the device, but not zero")
                        }
                        continue
                    }
                    switch bat.decode(raw, fileBytes: fileBytes) {
                    case .unallocated: continue
                    case .invalid(let fault):
                        if isFirst {
                            found.add(fault.kind, cluster: number, "cluster \(number): its entry \(raw) \(fault.words)")
                        }
                    case .cluster(let place):
                        if isFirst {
                            found.allocatedClusters += 1
                            end = max(end, place + 1)
                        }
                        if !set.insert(place) {
                            found.add(
                                .duplicate, cluster: number,
                                "cluster \(number) shares cluster \(place) of the file with another")
                        }
                    }
                }
            }
        } catch {
            if case .host(let error) = error { throw DiskError(error, path: path) }
        }
        report = found
        usedEnd = max(end, (extensionClusters.last ?? 0) + 1)
        return set.count
    }

    private mutating func checkExtension() throws(DiskError) {
        guard header.extensionSector != 0 else { return }
        do throws(ImageError) {
            guard let offset = try FormatExtension.offset(in: header, fileBytes: fileBytes) else { return }
            let bytes: [UInt8]
            do throws(SystemError) { bytes = try file.readBytes(at: offset, count: cluster.byteCount) } catch {
                throw ImageError(.truncated, error.description)
            }
            let content = try FormatExtension(parsing: bytes)
            extensionForbidsChanges = !content.allowsWritingWithout
            guard header.inUse == .closedWithExtension else {
                report.add(
                    .formatExtension, "the format extension is out of date: what wrote the image last does not know it")
                return
            }
            var clusters: Set<UInt64> = [cluster.cluster(at: offset)]
            for bitmap in try content.dirtyBitmaps() {
                // 0 and 1 stand for all clear and all set.
                for sector in bitmap.table where sector > 1 {
                    let (position, overflow) = sector.multipliedReportingOverflow(by: sectorBytes)
                    guard !overflow, cluster.remainder(of: position) == 0, position < fileBytes else {
                        throw ImageError(.corrupt, "a bitmap of the format extension points out of the file")
                    }
                    clusters.insert(cluster.cluster(at: position))
                }
            }
            extensionClusters = clusters.sorted()
        } catch {
            report.add(.formatExtension, error.message)
        }
    }

    private mutating func checkSparseness(below end: UInt64) throws(DiskError) {
        var found = report
        let sparseness = Sparseness(file: file, clusterSize: cluster)
        let path = self.path
        _ = try withPath(path) { () throws(SystemError) in
            try sparseness.forEachOffence(below: end) { (range, isHole) throws(SystemError) in
                let what = isHole ? "a hole" : "reserved, but not in whole clusters"
                found.add(.sparse, "bytes \(range) of the file are \(what); the original tools refuse that on ext4")
            }
        }
        report = found
    }
}

extension BatEntry.Fault {
    var kind: CheckFinding.Kind {
        switch self {
        case .misaligned: .misaligned
        case .beforeData: .beforeData
        case .beyondFile: .beyondFile
        }
    }

    var words: String {
        switch self {
        case .misaligned: "is no multiple of the cluster"
        case .beforeData: "points into the header or the block table"
        case .beyondFile: "points behind the end of the file"
        }
    }
}
