public import BlockIO
public import Geometry
public import ImageFormat
internal import LinuxSystem
internal import SystemPackage

/// What a new disk is like.
public struct CreateOptions: Hashable, Sendable {
    /// Size of the device in bytes; rounded up to whole sectors.
    public var byteCount: UInt64
    /// It is rounded up to whole clusters, which the driver and the original tools want. A copy has the size of what it
    /// is of.
    public var isRounded = true
    public var clusterSize: ClusterSize
    public var version: ImageVersion
    /// All clusters are allocated, and their space is reserved, from the start.
    public var isPreallocated = false
    /// The folder gets its name from the caller once the disk is whole: it is made right where it is said.
    public var isPlacedByCaller = false
    /// The base is the plain content of the device, without a header.
    public var isRaw = false

    public init(byteCount: UInt64, clusterSize: ClusterSize = .standard, version: ImageVersion = .v2) {
        self.byteCount = byteCount
        self.clusterSize = clusterSize
        self.version = version
    }
}

/// The name of a new disk's only image.
public let baseImageName = "root.hds"

/// Makes a disk: `folder/DiskDescriptor.xml` and `folder/root.hds`. The folder may be there already if it holds
/// neither.
///
/// After a crash there is either no disk at `folder` or a whole one. After a failure nothing is left.
/// - Throws: `.exists`, `.invalid` for a size that the version can't describe, `.outOfSpace`, `.io`.
public func createDisk(at folder: String, options: CreateOptions, in fs: any FileSystem) throws(DiskError) {
    let header = try newHeader(options, path: folder)
    let make = { (file: any StorageFile, path: String) throws(DiskError) -> DiskDescriptor in
        try withPath(path) { () throws(SystemError) in
            if options.isRaw {
                try file.truncate(to: header.byteCount)
                if options.isPreallocated { try NewImage.reserveOrWriteZeroes(0, header.byteCount, in: file) }
            } else if options.isPreallocated {
                try NewImage.writePreallocated(header, to: file)
            } else {
                try NewImage.writeEmpty(header, to: file)
            }
            try file.synchronize()
        }
        return DiskDescriptor(
            header: header, file: baseImageName, kind: options.isRaw ? .raw : .expandable,
            // ploop's tools hold preallocated and raw for a contradiction.
            isPreallocated: options.isPreallocated && !options.isRaw)
    }
    if options.isPlacedByCaller {
        try fillFolder(folder, in: fs, make)
    } else {
        try withNewDisk(at: folder, in: fs, make)
    }
}

extension DiskDescriptor {
    /// The descriptor of a disk with one image.
    init(header: ImageHeader, file: String, kind: ImageKind = .expandable, isPreallocated: Bool = false) {
        self.init(
            sectorCount: header.sectorCount, cylinders: header.fields.cylinders, heads: header.fields.heads,
            clusterSectors: header.clusterSize.sectors, file: file, kind: kind, isPreallocated: isPreallocated)
    }
}

/// The header of a disk that is to be made.
func newHeader(_ options: CreateOptions, path: String) throws(DiskError) -> ImageHeader {
    var sectors = options.byteCount.dividedRoundingUp(by: sectorBytes)
    if options.isRounded { sectors = sectors.roundedUp(toMultipleOf: UInt64(options.clusterSize.sectors)) }
    return try parsing(path) { () throws(ImageError) in
        try ImageHeader(version: options.version, sectorCount: sectors, clusterSize: options.clusterSize)
    }
}

/// Writes the start of new image files.
enum NewImage {
    /// A block table of at most that many bytes is written out; a larger one is reserved, so that making a delta of a
    /// huge disk takes no time. Its clusters are to be written in whole when they are first used, or settled on close.
    static let tableBytesWritten: UInt64 = 4 << 20
    private static let zeroes = 1 << 20

    /// Makes an empty image in an empty file. The header is written last, but nothing is synchronised in between or
    /// after: until the caller has done so, a crash may leave anything.
    static func writeEmpty(_ header: ImageHeader, to file: any StorageFile) throws(SystemError) {
        try writeTable(header, to: file)
        try file.writeBytes(header.encode(), at: 0)
    }

    /// Fills the area of header and block table with zeros.
    static func writeTable(_ header: ImageHeader, to file: any StorageFile) throws(SystemError) {
        let area = header.bat.areaBytes
        let written = area <= tableBytesWritten ? area : header.clusterSize.bytes
        try writeZeroes(0, written, in: file)
        if area > written { try reserveOrWriteZeroes(written, area - written, in: file) }
    }

    /// Makes an image in an empty file in which every cluster is allocated, in the order of the device.
    static func writePreallocated(_ header: ImageHeader, to file: any StorageFile) throws(SystemError) {
        let bat = header.bat
        let end = header.clusterSize.offset(of: header.firstDataCluster + UInt64(header.clusterCount))
        try reserveOrWriteZeroes(bat.areaBytes, end - bat.areaBytes, in: file)
        try writeZeroes(0, bat.areaBytes, in: file)
        var next: UInt32 = 0
        while next < header.clusterCount {
            let count = min(header.clusterCount - next, 1 << 18)
            var entries: [UInt8] = []
            entries.reserveCapacity(Int(count) * 4)
            for cluster in next..<next + count {
                // The header's limits on the device's size leave room for every cluster.
                guard let raw = bat.encode(header.firstDataCluster + UInt64(cluster)) else {
                    throw SystemError(errno: .fileTooLarge, operation: "allocate", subject: "cluster \(cluster)")
                }
                unsafe withUnsafeBytes(of: raw.littleEndian) { unsafe entries.append(contentsOf: $0) }
            }
            try file.writeBytes(entries, at: bat.byteOffset(ofEntry: next))
            next += count
        }
        // The clusters were all allocated: ploop's own preallocated images say "empty" all the same, but that is a
        // hint.
        var full = header
        full.flags.remove(.empty)
        try file.writeBytes(full.encode(), at: 0)
        // A reservation comes in extents of the host's own sizes.
        _ = try Sparseness(file: file, clusterSize: header.clusterSize).settle(below: end)
    }

    static func reserveOrWriteZeroes(_ offset: UInt64, _ count: UInt64, in file: any StorageFile) throws(SystemError) {
        if try !file.reserve(offset: offset, count: count) { try writeZeroes(offset, count, in: file) }
    }

    static func writeZeroes(_ offset: UInt64, _ count: UInt64, in file: any StorageFile) throws(SystemError) {
        let memory = AlignedBuffer(byteCount: Int(min(count, UInt64(zeroes))))
        var done: UInt64 = 0
        while done < count {
            let part = Int(min(count - done, UInt64(zeroes)))
            try unsafe file.write(
                at: offset + done,
                from: UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(memory.memory)[..<part]))
            done += UInt64(part)
        }
    }
}
