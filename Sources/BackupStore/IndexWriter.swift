internal import Codecs

/// Writes an index file from entries in the order of their identities.
struct IndexWriter: ~Copyable {
    private let upload: any ObjectUpload
    private let hash = StreamHash(prefix: IndexTrailer.namePrefix)
    private var page: [IndexEntry] = []
    private var buffer: [UInt8] = []
    private var last: Digest?
    private var entryCount: UInt64 = 0
    private var packs: [Digest] = []
    private var ordinals: [Digest: UInt32] = [:]

    init(upload: any ObjectUpload) { self.upload = upload }

    /// - Precondition: identities do not descend. One that repeats is left out.
    mutating func add(_ id: Digest, _ location: Location) throws(StoreError) {
        if let last {
            precondition(last <= id, "entries in order")
            if last == id { return }
        }
        last = id
        let ordinal: UInt32
        if let known = ordinals[location.pack] {
            ordinal = known
        } else {
            ordinal = UInt32(packs.count)
            packs.append(location.pack)
            ordinals[location.pack] = ordinal
        }
        page.append(IndexEntry(id: id, pack: ordinal, at: location))
        entryCount += 1
        if page.count == IndexPage.entriesMax { try finishPage() }
    }

    private mutating func finishPage() throws(StoreError) {
        buffer += IndexPage.encoded(page[...])
        page.removeAll(keepingCapacity: true)
        if buffer.count >= 1 << 18 { try flush() }
    }

    private mutating func flush() throws(StoreError) {
        hash.update(buffer)
        var failure: StoreError?
        unsafe buffer.withUnsafeBytes { memory in
            do throws(StoreError) { try unsafe upload.append(memory) } catch { failure = error }
        }
        if let failure { throw failure }
        buffer.removeAll(keepingCapacity: true)
    }

    /// Makes the file durable and visible. - Returns: its name and size. - Precondition: it has an entry.
    consuming func finish() throws(StoreError) -> (name: String, byteCount: UInt64) {
        if !page.isEmpty { try finishPage() }
        var table: [UInt8] = []
        table.reserveCapacity(packs.count * Digest.byteCount)
        for pack in packs { table += pack.bytes }
        let checksum = unsafe table.withUnsafeBytes { unsafe crc32c(0, $0) }
        let trailer = IndexTrailer(entryCount: entryCount, packCount: UInt32(packs.count), packChecksum: checksum)
        buffer += table
        buffer += trailer.encoded()
        try flush()
        let name = hash.finish().description
        try upload.commit(name: name)
        let size = trailer.pageCount * UInt64(IndexPage.byteCount) + UInt64(table.count + IndexTrailer.byteCount)
        return (name, size)
    }
}
