internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import SystemPackage

/// Reads one image file, of ours or of other software, clusters of any size, without changing it. The block table is
/// read a page at a time. For one thread.
final class DeltaReader {
    /// Entries in a page of the table.
    private static let pageEntries: UInt32 = 1 << 15

    let path: String
    let file: any StorageFile
    let fileBytes: UInt64
    /// `nil`: the plain content of a device.
    let header: ForeignHeader?
    let clusterBytes: UInt64
    let byteCount: UInt64
    /// Entries of an unclean image that point behind the end of its file; they read as unallocated.
    private(set) var danglingEntries = 0
    private var lastDangling: UInt64?
    /// Clusters known to have no data here: who looks for the next one in a stack asks often.
    private var emptyRun: Range<UInt64> = 0..<0
    private var page: Range<UInt64> = 0..<0
    private var entries: [UInt32] = []

    /// Opens an image, or a raw file when it has no ploop magic and `rawClusterBytes` is given.
    init(_ path: String, in fs: any FileSystem, kind: DiskDescriptor.ImageKind?, rawClusterBytes: UInt64)
        throws(DiskError)
    {
        self.path = path
        let (file, size) = try withPath(path) { () throws(SystemError) in
            var mode = OpenMode.read
            mode.isClaimed = true
            let file = try fs.open(path, mode)
            return (file, try file.size())
        }
        self.file = file
        fileBytes = size
        let head = try withPath(path) { () throws(SystemError) in
            try file.readBytes(at: 0, count: Int(min(size, UInt64(HeaderFields.byteCount))))
        }
        let hasMagic = head.count >= 16 && ImageVersion(magic: [UInt8](head[..<16])) != nil
        if kind == .raw || (kind == nil && !hasMagic) {
            header = nil
            clusterBytes = rawClusterBytes
            byteCount = size
        } else {
            let header = try parsing(path) { () throws(ImageError) in try ForeignHeader(parsing: head, fileBytes: size)
            }
            self.header = header
            clusterBytes = header.clusterBytes
            byteCount = header.byteCount
        }
    }

    /// The first cluster at or after `cluster` that has data here, or `nil`. May skip, and for raw files does, what the
    /// host knows to be a hole.
    func nextAllocated(from cluster: UInt64) throws(DiskError) -> UInt64? {
        guard !emptyRun.contains(cluster) else { return emptyRun.upperBound == .max ? nil : emptyRun.upperBound }
        let found = try findAllocated(from: cluster)
        emptyRun = cluster..<(found ?? .max)
        return found
    }

    private func findAllocated(from cluster: UInt64) throws(DiskError) -> UInt64? {
        guard let header else { return try nextRaw(from: cluster) }
        var next = cluster
        while next < UInt64(header.clusterCount) {
            if !page.contains(next) {
                guard let found = try skipHole(from: next, header) else { return nil }
                next = found
                try load(next, header)
            }
            while next < page.upperBound {
                if try location(of: next) != nil { return next }
                next += 1
            }
        }
        return nil
    }

    /// A table of a huge image is mostly a hole in its file, or reserved and never written.
    private func skipHole(from cluster: UInt64, _ header: ForeignHeader) throws(DiskError) -> UInt64? {
        let position = BatGeometry.byteOffset(ofEntry: cluster)
        let data = try withPath(path) { () throws(SystemError) in try file.nextData(from: position) }
        guard let data, data.offset < header.tableEnd else { return nil }
        guard data.offset > position else { return cluster }
        return (data.offset - UInt64(HeaderFields.byteCount)) / BatGeometry.entryBytes
    }

    private func nextRaw(from cluster: UInt64) throws(DiskError) -> UInt64? {
        let position = cluster.multipliedReportingOverflow(by: clusterBytes)
        guard !position.overflow, position.partialValue < byteCount else { return nil }
        let data = try withPath(path) { () throws(SystemError) in try file.nextData(from: position.partialValue) }
        return data.map { max(cluster, $0.offset / clusterBytes) }
    }

    /// Byte in the file where a cluster's data starts; `nil` when it has none here.
    func location(of cluster: UInt64) throws(DiskError) -> UInt64? {
        guard let header else {
            let start = cluster * clusterBytes
            return start < fileBytes ? start : nil
        }
        guard cluster < UInt64(header.clusterCount) else { return nil }
        if !page.contains(cluster) { try load(cluster, header) }
        guard let start = header.offset(of: entries[Int(cluster - page.lowerBound)]) else { return nil }
        guard start >= header.tableEnd else {
            throw damaged("the entry of cluster \(cluster) points into the block table")
        }
        let end = start + min(clusterBytes, byteCount - cluster * clusterBytes)
        guard end > fileBytes else { return start }
        // A crash may leave an entry whose data never got there; in a closed image it means that the file was cut.
        guard !header.fields.inUse.isClean else {
            throw damaged("the entry of cluster \(cluster) points behind the end of the file")
        }
        // Asked for in ascending order, so each is counted once.
        if cluster > lastDangling ?? 0 || lastDangling == nil {
            lastDangling = cluster
            danglingEntries += 1
        }
        return start < fileBytes ? start : nil
    }

    private func damaged(_ what: String) -> DiskError {
        DiskError(.corrupt, "\(path): \(what); repair the image first", path: path)
    }

    private func load(_ cluster: UInt64, _ header: ForeignHeader) throws(DiskError) {
        let count = UInt64(Self.pageEntries)
        let start = cluster / count * count
        let end = min(start + count, UInt64(header.clusterCount))
        let bytes = try withPath(path) { () throws(SystemError) in
            try file.readBytes(at: BatGeometry.byteOffset(ofEntry: start), count: Int(end - start) * 4)
        }
        entries = unsafe bytes.withUnsafeBytes { memory in
            (0..<Int(end - start)).map {
                UInt32(littleEndian: unsafe memory.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self))
            }
        }
        page = start..<end
    }
}

/// The content of a device as a stack of image files, read in ascending order without changing anything.
final class ImageSource {
    /// Top first.
    private let deltas: [DeltaReader]
    let clusterBytes: UInt64
    let byteCount: UInt64
    /// Runs end at this many bytes.
    private static let runBytes: UInt64 = 64 << 20

    init(deltas: [DeltaReader]) throws(DiskError) {
        self.deltas = deltas
        guard let top = deltas.first else { throw DiskError(.invalid, "a disk without images", path: "") }
        clusterBytes = top.clusterBytes
        byteCount = top.byteCount
        for delta in deltas {
            guard delta.clusterBytes == clusterBytes else {
                throw DiskError(
                    .corrupt, "\(delta.path): clusters of \(delta.clusterBytes) bytes, but \(clusterBytes) above it",
                    path: delta.path)
            }
            guard delta.byteCount <= byteCount else {
                throw DiskError(
                    .corrupt, "\(delta.path): the device is larger than in the delta above it", path: delta.path)
            }
        }
    }

    /// What was read past because unclean images pointed behind the end of their files.
    var danglingEntries: Int { deltas.reduce(0) { $0 + $1.danglingEntries } }

    /// The next range at or after `offset` in which some delta has data, in whole clusters but for the end of the
    /// device.
    func nextAllocated(from offset: UInt64) throws(DiskError) -> ByteRange? {
        guard offset < byteCount else { return nil }
        let first = offset / clusterBytes
        guard let start = try nextCluster(from: first) else { return nil }
        let limit = start + max(1, Self.runBytes / clusterBytes)
        var end = start + 1
        while end < limit, try nextCluster(from: end) == end { end += 1 }
        let from = max(offset, start * clusterBytes)
        guard from < byteCount else { return nil }
        let (whole, overflow) = end.multipliedReportingOverflow(by: clusterBytes)
        return ByteRange(offset: from, count: (overflow ? byteCount : min(whole, byteCount)) - from)
    }

    private func nextCluster(from cluster: UInt64) throws(DiskError) -> UInt64? {
        var nearest: UInt64?
        for delta in deltas {
            guard let found = try delta.nextAllocated(from: cluster) else { continue }
            if found == cluster { return found }
            nearest = min(nearest ?? found, found)
        }
        return nearest
    }

    /// Fills `memory` from byte `offset` of the device; behind its end there are zeros.
    func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(DiskError) {
        var pending = unsafe [[Transfer]](repeating: [], count: deltas.count)
        var done = 0
        while done < memory.count {
            let position = offset + UInt64(done)
            let cluster = position / clusterBytes
            let inside = position % clusterBytes
            let count = Int(min(clusterBytes - inside, UInt64(memory.count - done)))
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[done..<done + count])
            if let (index, start) = try owner(of: cluster) {
                unsafe pending[index].append(Transfer(.read, at: start + inside, memory: part))
            } else {
                unsafe part.initializeMemory(as: UInt8.self, repeating: 0)
            }
            done += count
        }
        for (index, delta) in deltas.enumerated() where unsafe !pending[index].isEmpty {
            try withPath(delta.path) { () throws(SystemError) in try unsafe delta.file.perform(pending[index]) }
        }
        // The last cluster may hold anything behind the end of the device.
        let inside = Int(min(UInt64(memory.count), byteCount - min(offset, byteCount)))
        unsafe UnsafeMutableRawBufferPointer(rebasing: memory[inside...]).initializeMemory(as: UInt8.self, repeating: 0)
    }

    private func owner(of cluster: UInt64) throws(DiskError) -> (Int, UInt64)? {
        for (index, delta) in deltas.enumerated() {
            if let start = try delta.location(of: cluster) { return (index, start) }
        }
        return nil
    }
}
