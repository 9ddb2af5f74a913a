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
    /// Size of what it was made from; a device ends with a whole sector.
    public var sourceBytes: UInt64 = 0
    /// Cluster of an imported disk; 0 of an export.
    public var clusterBytes: UInt64 = 0
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
    /// The source is the plain content of a device, whatever it looks like.
    public var isRaw = false
    public init(clusterSize: ClusterSize? = nil, version: ImageVersion = .v2) {
        self.clusterSize = clusterSize
        self.version = version
    }
}

/// Makes a disk from a raw file, a block device, any ploop image (clusters of any size, unclean ones too), or another
/// disk. Ranges without data, and clusters of zeros, stay unallocated. The source is only read. After a failure or a
/// crash there is no disk.
/// - Throws: `.busy` when `progress` stopped it; `.unsupported` for a format of other software.
public func importImage(
    from source: String, to folder: String, options: ImportOptions = ImportOptions(), in fs: any FileSystem,
    progress: TransferProgress = { _, _ in true }
) throws(DiskError) -> TransferReport {
    let opened = try TransferSource.open(source, kind: options.isRaw ? .raw : nil, in: fs)
    defer { withExtendedLifetime(opened) {} }
    let content = opened.content
    guard content.byteCount > 0 else { throw DiskError(.invalid, "\(source) is empty", path: source) }
    let wanted = options.clusterSize ?? ClusterSize(bytes: content.clusterBytes) ?? .standard
    let clusterSize = options.clusterSize == nil ? wanted.fitting(content.byteCount) : wanted
    var create = CreateOptions(byteCount: content.byteCount, clusterSize: clusterSize, version: options.version)
    create.isRounded = false
    let header = try newHeader(create, path: folder)
    var report = TransferReport(byteCount: header.byteCount, sourceBytes: content.byteCount)
    report.clusterBytes = clusterSize.bytes
    try withNewDisk(at: folder, in: fs) { (file, path) throws(DiskError) in
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

private let copyBytes: UInt64 = 8 << 20

/// Reads all that is allocated in `content` and gives what is not zero to `write`, in ascending runs of whole `unit`s
/// of the device. The memory given reaches to the end of the last unit, behind the end of the device too.
func copy(
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
