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
        var packs: [Digest] = []
        try segment.forEachPack { packs.append($0) }
        self.packs = packs
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

    /// Where the object is.
    func current() throws(StoreError) -> Location? {
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
    /// Held while index files are merged, and by a repair: what a repair has taken out no merge puts in again.
    private var mergeLockPath: String { "\(address)/tmp/merging" }

    func lockMerging(wait: Bool) throws(StoreError) -> (any HeldLock)? {
        try storing { () throws(SystemError) in try fs.lock(mergeLockPath, wait: wait) }
    }

    /// Merges the smaller index files into one. Look-ups go on meanwhile; whoever has an old file open keeps it.
    func mergeIndex() throws(StoreError) {
        // Whoever holds it does what this would.
        guard let lock = try lockMerging(wait: false) else { return }
        defer { withExtendedLifetime(lock) {} }
        // Only what is there still: another may have merged some of it, or taken it out.
        try reloadIndex()
        let chosen = Self.mergeable(try preparedSegments())
        guard chosen.count > 1 else { return }
        // As it is now: what this process knows of packs may be older than the files that are merged.
        let census = try freshCensus()
        var lost: Set<Digest> = []
        for segment in chosen {
            try segment.forEachPack { if !census.has($0) { lost.insert($0) } }
        }
        try noteLost(lost)
        let merged = try merge(chosen) { place in
            if !census.has(place.pack) { return .useless }
            return census.damage[place.pack]?.covers(place) == true ? .doubtful : .good
        }
        try replace(chosen, keeping: merged)
    }

    /// What the place of an object is worth.
    enum Worth: Int { case useless, doubtful, good }

    /// The smaller ones. A larger file joins only when the smaller ones together come near it: each entry is then
    /// rewritten a number of times that grows with the logarithm of the index.
    static func mergeable(_ segments: [IndexSegment]) -> [IndexSegment] {
        var chosen: [IndexSegment] = []
        var entries: UInt64 = 0
        for segment in segments.sorted(by: { $0.trailer.entryCount < $1.trailer.entryCount }) {
            guard chosen.count < segmentsMax / 2 || segment.trailer.entryCount <= entries else { break }
            chosen.append(segment)
            entries += segment.trailer.entryCount
        }
        return chosen
    }

    /// Makes one index file of some.
    /// - Parameter worth: of a place. Of an object that has several the best one stays.
    /// - Returns: its name; `nil` when there was nothing to keep.
    func merge(
        _ old: [IndexSegment], worth: (Location) -> Worth
    ) throws(StoreError) -> String? {
        /// One that is damaged, or can't be read, is left as it is, and not used any more.
        func from<R>(_ segment: IndexSegment, _ body: () throws(StoreError) -> R) throws(StoreError) -> R {
            do throws(StoreError) { return try body() } catch {
                if error.code == .corrupt || error.code == .io { distrust(segment) }
                throw error
            }
        }
        var cursors: [IndexCursor] = []
        for segment in old {
            cursors.append(try from(segment) { () throws(StoreError) in try IndexCursor(segment) })
        }
        var writer = IndexWriter(upload: try beginFile(.index))
        var best: (id: Digest, location: Location, worth: Worth)?
        while true {
            var least: (place: Int, id: Digest)?
            for (place, cursor) in cursors.enumerated() {
                if let id = cursor.id, least.map({ id < $0.id }) ?? true { least = (place, id) }
            }
            guard let least else { break }
            let segment = cursors[least.place].segment
            let found = try from(segment) { () throws(StoreError) in
                let found = try cursors[least.place].current()
                try cursors[least.place].advance()
                return found
            }
            guard let found else { break }
            let value = worth(found)
            if value == .useless { continue }
            if let last = best {
                if last.id == least.id {
                    if value.rawValue > last.worth.rawValue { best = (least.id, found, value) }
                    continue
                }
                try writer.add(last.id, last.location)
            }
            best = (least.id, found, value)
        }
        guard let best else { return nil }
        try writer.add(best.id, best.location)
        return try writer.finish().name
    }

    /// Takes what was merged out of use, and away.
    private func replace(_ old: [IndexSegment], keeping merged: String?) throws(StoreError) {
        if let merged { try use(merged) }
        let gone = old.filter { $0.name != merged }
        try remember(gone)
        let names = Set(gone.map(\.name))
        state.withLock { state in
            state.segments.removeAll { names.contains($0.name) }
            state.segments.sort { $0.trailer.entryCount > $1.trailer.entryCount }
        }
        try removeIndexes(names)
    }

    func removeIndexes(_ names: Set<String>) throws(StoreError) {
        try storing { () throws(SystemError) in
            for name in names.sorted() {
                do throws(SystemError) { try fs.remove("\(address)/index/\(name)") } catch {
                    // Another writer merged it, too.
                    guard error.errno == .noSuchFileOrDirectory else { throw error }
                }
            }
            try fs.synchronizeFolder("\(address)/index")
        }
    }
}
