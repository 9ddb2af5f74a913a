internal import BlockIO
internal import Codecs
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// Reads the entries of an index file in order.
private struct IndexCursor {
    let segment: IndexSegment
    private let packs: [Digest]
    private var pageIndex: UInt64 = 0
    private var page: CheckedPage?
    private var place = 0
    private(set) var id: Digest?

    init(_ segment: IndexSegment) throws(StoreError) {
        self.segment = segment
        packs = try segment.packs(0..<segment.trailer.packCount)
        let checksum = packs.reduce(UInt32(0)) { sum, pack in
            unsafe pack.bytes.withUnsafeBytes { unsafe crc32c(sum, $0) }
        }
        guard checksum == segment.trailer.packChecksum else {
            throw StoreError(.corrupt, "index \(segment.name) is damaged: the checksum of its packs does not match")
        }
        try load()
    }

    private mutating func load() throws(StoreError) {
        if pageIndex < segment.trailer.pageCount {
            let page = try segment.page(pageIndex)
            self.page = page
            id = page.id(place)
        } else {
            page = nil
            id = nil
        }
    }

    func location() throws(StoreError) -> Location? {
        guard let page else { return nil }
        let entry = try segment.entry(page, place, at: pageIndex)
        return entry.location(in: packs[Int(entry.pack)])
    }

    mutating func advance() throws(StoreError) {
        guard let page, let last = id else { return }
        place += 1
        if place == page.count {
            place = 0
            pageIndex += 1
        }
        try load()
        if let id, id <= last { throw StoreError(.corrupt, "index \(segment.name) is damaged: it is not sorted") }
    }
}

extension LocalStore {
    /// Merges the smaller index files into one. Look-ups go on meanwhile; whoever has an old file open keeps it.
    func mergeIndex() throws(StoreError) {
        let all = segments.sorted { $0.trailer.entryCount < $1.trailer.entryCount }
        // A larger file joins only when the smaller ones together come near it: each entry is then rewritten a number
        // of times that grows with the logarithm of the index.
        var chosen: [IndexSegment] = []
        var entries: UInt64 = 0
        for segment in all {
            guard chosen.count < Self.segmentsMax / 2 || segment.trailer.entryCount <= entries else { break }
            chosen.append(segment)
            entries += segment.trailer.entryCount
        }
        guard chosen.count > 1 else { return }
        try replaceIndex(chosen)
    }

    private func replaceIndex(_ old: [IndexSegment]) throws(StoreError) {
        var cursors: [IndexCursor] = []
        for segment in old { cursors.append(try IndexCursor(segment)) }
        var writer = IndexWriter(upload: try beginUpload(.index))
        while true {
            var least: (place: Int, id: Digest)?
            for (place, cursor) in cursors.enumerated() {
                if let id = cursor.id, least.map({ id < $0.id }) ?? true { least = (place, id) }
            }
            guard let least, let location = try cursors[least.place].location() else { break }
            try writer.add(least.id, location)
            try cursors[least.place].advance()
        }
        let name = try writer.finish().name
        let gone = Set(old.map(\.name)).subtracting([name])
        state.withLock { state in
            state.segments.removeAll { gone.contains($0.name) }
            state.segments.sort { $0.trailer.entryCount > $1.trailer.entryCount }
        }
        try storing { () throws(SystemError) in
            for name in gone.sorted() {
                do throws(SystemError) { try fs.remove("\(address)/index/\(name)") } catch {
                    // Another writer merged it, too.
                    guard error.errno == .noSuchFileOrDirectory else { throw error }
                }
            }
            try fs.synchronizeFolder("\(address)/index")
        }
    }
}
