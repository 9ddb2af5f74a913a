internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

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
        if page.isEmpty || cluster - pageStart >= Self.pageEntries {
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
