internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// Walks the block table of one image, page by page, passing over what the host never stored. For one thread.
@safe final class BatScanner {
    private static let batchPages: UInt64 = 64

    let delta: DeltaFile
    let bat: BatGeometry
    private let buffer: AlignedBuffer
    private var loaded: Range<UInt64> = 0..<0
    /// Pages known to be empty; ends at the pages that were read in, or at the end of the table.
    private var empty: Range<UInt64> = 0..<0

    /// - Returns: `nil` for a raw file, which has no table.
    init?(_ delta: DeltaFile) {
        guard let bat = delta.bat else { return nil }
        self.delta = delta
        self.bat = bat
        buffer = AlignedBuffer(byteCount: Int(Self.batchPages) * DeltaFile.pageBytes)
    }

    /// The first page at or after `page` that may hold entries, read in; `nil` when there is none.
    func nextPage(from page: UInt64) throws(DiskError) -> UInt64? {
        var next = page
        while let found = try nextStored(from: next) {
            if !isEmpty(found) { return found }
            next = found + 1
        }
        return nil
    }

    /// Whether a page that was read in holds only zeros.
    private func isEmpty(_ page: UInt64) -> Bool {
        let offset = Int(page - loaded.lowerBound) * DeltaFile.pageBytes
        return unsafe UnsafeRawBufferPointer(
            rebasing: UnsafeRawBufferPointer(buffer.memory)[offset..<offset + DeltaFile.pageBytes]
        ).isAllZero
    }

    private func nextStored(from page: UInt64) throws(DiskError) -> UInt64? {
        if loaded.contains(page) { return page }
        let unit = UInt64(DeltaFile.pageBytes)
        let pageCount = bat.endOffset.dividedRoundingUp(by: unit)
        guard page < pageCount else { return nil }
        if empty.contains(page) { return empty.upperBound < pageCount ? empty.upperBound : nil }
        do throws(SystemError) {
            guard let data = try delta.file.nextData(from: page * unit), data.offset < bat.endOffset else {
                empty = page..<pageCount
                loaded = pageCount..<pageCount
                return nil
            }
            let first = max(page, data.offset / unit)
            empty = page..<first
            let end = min((data.offset + data.count).dividedRoundingUp(by: unit), pageCount)
            let count = min(end - first, Self.batchPages)
            try unsafe delta.file.read(
                at: first * unit, into: UnsafeMutableRawBufferPointer(rebasing: buffer.memory[..<Int(count * unit)]))
            loaded = first..<first + count
            return first
        } catch { throw delta.failure(error) }
    }

    /// Forgets what was read: the table was changed.
    func invalidate() {
        loaded = 0..<0
        empty = 0..<0
    }

    /// The clusters whose entries stand on a page.
    func clusters(on page: UInt64) -> Range<UInt64> {
        let clusters = bat.entries(inPage: page, pageBytes: UInt64(DeltaFile.pageBytes))
        return UInt64(clusters.lowerBound)..<UInt64(clusters.upperBound)
    }

    /// The entry of a cluster on a page that was just returned.
    func raw(_ cluster: UInt64) -> UInt32 {
        let (page, slot) = DeltaFile.place(of: cluster)
        precondition(loaded.contains(page), "the page of the entry was read in")
        let offset = Int(page - loaded.lowerBound) * DeltaFile.pageBytes + slot * 4
        return UInt32(littleEndian: unsafe buffer.memory.load(fromByteOffset: offset, as: UInt32.self))
    }

    /// The cluster of the file that an entry points to, or `nil`; not checked against the file's size.
    func place(_ raw: UInt32) -> UInt64? {
        guard case .cluster(let place) = bat.decode(raw, fileBytes: .max) else { return nil }
        return place
    }

    /// Calls `body` with every entry that is not zero.
    func forEachEntry(_ body: (_ cluster: UInt64, _ raw: UInt32) throws(DiskError) -> Void) throws(DiskError) {
        var page: UInt64 = 0
        while let found = try nextPage(from: page) {
            for cluster in clusters(on: found) {
                let raw = raw(cluster)
                if raw != 0 { try body(cluster, raw) }
            }
            page = found + 1
        }
    }
}
