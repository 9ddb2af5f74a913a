public import BlockIO
internal import Codecs
public import Geometry
public import ImageFormat
internal import LinuxSystem
internal import SystemPackage

/// What an import or export did.
public struct TransferReport: Hashable, Sendable, Codable {
    /// Size of the device.
    public var byteCount: UInt64 = 0
    /// Bytes that were read.
    public var readBytes: UInt64 = 0
    /// Bytes that were written as data; the rest is holes.
    public var dataBytes: UInt64 = 0
    /// Entries of images that were not closed whose data is not in their files: they were read as zeros.
    public var danglingEntries = 0
}

/// Called now and then with bytes of the device done and in all; `false` stops.
public typealias TransferProgress = (_ done: UInt64, _ total: UInt64) -> Bool

/// What an imported disk is like.
public struct ImportOptions: Hashable, Sendable {
    /// `nil`: the source's where it is a power of two that is allowed, else the standard one.
    public var clusterSize: ClusterSize?
    public var version: ImageVersion
    public init(clusterSize: ClusterSize? = nil, version: ImageVersion = .v2) {
        self.clusterSize = clusterSize
        self.version = version
    }
}

/// Makes a disk from a raw file, from any ploop image (clusters of any size, unclean ones too), or from another disk.
/// Ranges without data, and clusters of zeros, stay unallocated. The source is only read. After a failure or a crash
/// there is no disk.
/// - Throws: `.busy` when `progress` stopped it.
public func importImage(
    from source: String, to folder: String, options: ImportOptions = ImportOptions(), in fs: any FileSystem,
    progress: TransferProgress = { _, _ in true }
) throws(DiskError) -> TransferReport {
    let (content, lock) = try openSource(source, in: fs)
    defer { withExtendedLifetime(lock) {} }
    guard content.byteCount > 0 else { throw DiskError(.invalid, "\(source) is empty", path: source) }
    let clusterSize = options.clusterSize ?? ClusterSize(bytes: content.clusterBytes) ?? .standard
    let header = try newHeader(
        CreateOptions(byteCount: content.byteCount, clusterSize: clusterSize, version: options.version), path: folder)
    var report = TransferReport(byteCount: content.byteCount)
    try withNewDisk(at: folder, in: fs) { (disk) throws(DiskError) in
        let path = disk.path(ofFile: baseImageName)
        let file = try withPath(path) { () throws(SystemError) in
            try fs.open(path, OpenMode(writable: true, creation: .exclusive))
        }
        let writer = try SequentialImageWriter(header, file: file, path: path)
        try unsafe copy(content, source: source, unit: clusterSize.bytes, progress: progress, report: &report) {
            (offset, memory) throws(DiskError) in
            try unsafe writer.write(at: offset, memory)
        }
        try writer.finish()
        return DiskDescriptor(header: header, file: baseImageName)
    }
    report.danglingEntries = content.danglingEntries
    return report
}

/// Writes the content of a disk or an image to a raw file that does not exist yet; ranges without data, and zeros,
/// become holes. The disk is only read, but must not be in use. After a failure the file is removed.
/// - Throws: `.busy` when `progress` stopped it.
public func exportImage(
    from source: String, to file: String, in fs: any FileSystem, progress: TransferProgress = { _, _ in true }
) throws(DiskError) -> TransferReport {
    let (content, lock) = try openSource(source, in: fs, rawToo: false)
    defer { withExtendedLifetime(lock) {} }
    var report = TransferReport(byteCount: content.byteCount)
    let target = try withPath(file) { () throws(SystemError) in
        try fs.open(file, OpenMode(writable: true, creation: .exclusive))
    }
    do throws(DiskError) {
        try withPath(file) { () throws(SystemError) in try target.truncate(to: content.byteCount) }
        try unsafe copy(content, source: source, unit: exportUnit, progress: progress, report: &report) {
            (offset, memory) throws(DiskError) in
            let count = Int(min(UInt64(memory.count), content.byteCount - offset))
            try withPath(file) { () throws(SystemError) in
                try unsafe target.write(at: offset, from: UnsafeRawBufferPointer(rebasing: memory[..<count]))
            }
        }
        try withPath(file) { () throws(SystemError) in try target.synchronize() }
        let folder = file.contains("/") ? folderPart(of: file) : "."
        try withPath(folder) { () throws(SystemError) in try fs.synchronizeFolder(folder) }
    } catch {
        try? fs.remove(file)
        throw error
    }
    report.danglingEntries = content.danglingEntries
    return report
}

/// Zeros are looked for in pieces of this size when the target is a plain file.
private let exportUnit: UInt64 = 64 << 10
private let copyBytes: UInt64 = 8 << 20

/// Opens what an import or export reads, with the owner's lock where there is one.
private func openSource(
    _ path: String, in fs: any FileSystem, rawToo: Bool = true
) throws(DiskError) -> (ImageSource, (any HeldLock)?) {
    let rawCluster = ClusterSize.standard.bytes
    switch try DiskLocation.find(path, in: fs) {
    case .image(let file):
        let reader = try DeltaReader(file, in: fs, kind: rawToo ? nil : .expandable, rawClusterBytes: rawCluster)
        return (try ImageSource(deltas: [reader]), nil)
    case .folder(let folder):
        let lock = try folder.lockOwner()
        let descriptor = try folder.load()
        let chain = try parsing(path) { () throws(ImageError) in try descriptor.chain(to: descriptor.top) }
        var deltas: [DeltaReader] = []
        for image in chain.reversed() {
            deltas.append(
                try DeltaReader(
                    folder.path(of: image), in: fs, kind: descriptor.kind(of: image.guid),
                    rawClusterBytes: UInt64(descriptor.clusterSectors) * sectorBytes))
        }
        return (try ImageSource(deltas: deltas), lock)
    }
}

/// Reads all that is allocated in `content` and gives what is not zero to `write`, in ascending runs of whole `unit`s
/// of the device. The memory given reaches to the end of the last unit, behind the end of the device too.
private func copy(
    _ content: ImageSource, source: String, unit: UInt64, progress: TransferProgress, report: inout TransferReport,
    write: (UInt64, UnsafeMutableRawBufferPointer) throws(DiskError) -> Void
) throws(DiskError) {
    let capacity = max(copyBytes, unit)
    let memory = AlignedBuffer(byteCount: Int(capacity))
    var position: UInt64 = 0
    while let run = try content.nextAllocated(from: position) {
        // Several of the source's runs may lie in one unit of the target: the unit is read as a whole, once.
        let start = run.offset / unit * unit
        let end = min(run.end.roundedUp(toMultipleOf: unit), start + capacity)
        let part = unsafe UnsafeMutableRawBufferPointer(rebasing: memory.memory[..<Int(end - start)])
        try unsafe content.read(at: start, into: part)
        report.readBytes += min(end, content.byteCount) - start
        var first = 0
        while let data = unsafe nextRun(of: Int(unit), in: part, from: first) {
            try unsafe write(start + UInt64(data.lowerBound), UnsafeMutableRawBufferPointer(rebasing: part[data]))
            report.dataBytes +=
                min(start + UInt64(data.upperBound), content.byteCount) - start - UInt64(data.lowerBound)
            first = data.upperBound
        }
        position = end
        guard progress(min(position, content.byteCount), content.byteCount) else {
            throw DiskError(.busy, "\(source): stopped", path: source)
        }
        if position >= content.byteCount { break }
    }
    _ = progress(content.byteCount, content.byteCount)
}

/// The next run of whole units at or after `first` that are not all zeros.
private func nextRun(of unit: Int, in memory: UnsafeMutableRawBufferPointer, from first: Int) -> Range<Int>? {
    func isZero(_ start: Int) -> Bool {
        unsafe isAllZeros(UnsafeRawBufferPointer(rebasing: memory[start..<start + unit]))
    }
    var start = first
    while start < memory.count, isZero(start) { start += unit }
    guard start < memory.count else { return nil }
    var end = start + unit
    while end < memory.count, !isZero(end) { end += unit }
    return start..<end
}

/// Makes an image whose clusters come in ascending order: each is appended to the file, and the block table is written
/// a page at a time, so memory does not grow with the device.
final class SequentialImageWriter {
    private let header: ImageHeader
    private let bat: BatGeometry
    private let file: any StorageFile
    private let path: String
    private var nextFileCluster: UInt64
    private var page: [UInt8] = []
    private var pageStart: UInt32 = 0
    private static let pageEntries: UInt32 = 1 << 16

    /// - Parameter file: empty.
    init(_ header: ImageHeader, file: any StorageFile, path: String) throws(DiskError) {
        self.header = header
        self.file = file
        self.path = path
        bat = header.bat
        nextFileCluster = header.firstDataCluster
        // The header comes last: nothing opens what a crash leaves.
        try withPath(path) { () throws(SystemError) in try NewImage.writeTable(header, to: file) }
    }

    /// Writes whole clusters.
    func write(at offset: UInt64, _ memory: UnsafeMutableRawBufferPointer) throws(DiskError) {
        let first = header.clusterSize.cluster(at: offset)
        let count = header.clusterSize.cluster(at: UInt64(memory.count))
        try withPath(path) { () throws(SystemError) in
            try unsafe file.write(
                at: header.clusterSize.offset(of: nextFileCluster), from: UnsafeRawBufferPointer(memory))
        }
        for cluster in first..<first + count { _ = try allocate(cluster) }
    }

    /// Gives the next place in the file to a cluster. - Returns: its offset there. The caller writes all of it.
    func allocate(_ cluster: UInt64) throws(DiskError) -> UInt64 {
        guard let raw = bat.encode(nextFileCluster) else {
            throw DiskError(.invalid, "\(path): too many clusters for this image version; use version 2", path: path)
        }
        try add(UInt32(truncatingIfNeeded: cluster), raw)
        defer { nextFileCluster += 1 }
        return header.clusterSize.offset(of: nextFileCluster)
    }

    private func add(_ cluster: UInt32, _ raw: UInt32) throws(DiskError) {
        if page.isEmpty || cluster >= pageStart + Self.pageEntries {
            try writePage()
            pageStart = cluster
        }
        // Entries between the last and this one are zeros.
        page.append(contentsOf: repeatElement(0, count: Int(cluster - pageStart) * 4 - page.count))
        unsafe withUnsafeBytes(of: raw.littleEndian) { unsafe page.append(contentsOf: $0) }
    }

    private func writePage() throws(DiskError) {
        guard !page.isEmpty else { return }
        try withPath(path) { () throws(SystemError) in
            try fillReserved(around: bat.byteOffset(ofEntry: pageStart), count: UInt64(page.count))
            try file.writeBytes(page, at: bat.byteOffset(ofEntry: pageStart))
        }
        page.removeAll(keepingCapacity: true)
    }

    /// A reserved cluster of the table is written in whole before a part of it is: the original tools demand it.
    private func fillReserved(around offset: UInt64, count: UInt64) throws(SystemError) {
        guard bat.areaBytes > NewImage.tableBytesWritten else { return }
        let clusters = ByteRange(offset: offset, count: count).alignedOutward(to: header.clusterSize.bytes)
        let start = max(clusters.offset, filledTo)
        guard clusters.end > start else { return }
        try NewImage.writeZeroes(start, clusters.end - start, in: file)
        filledTo = clusters.end
    }
    /// The table is written up to here, or was never touched.
    private lazy var filledTo: UInt64 = header.clusterSize.bytes

    /// Makes everything durable and the image whole.
    func finish() throws(DiskError) {
        try writePage()
        var final = header
        if nextFileCluster > header.firstDataCluster { final.flags.remove(.empty) }
        let encoded = final.encode()
        try withPath(path) { () throws(SystemError) in
            try file.synchronize()
            try file.writeBytes(encoded, at: 0)
            try file.synchronize()
        }
    }
}
