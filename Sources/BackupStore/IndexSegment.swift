internal import BlockIO
internal import Codecs
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// Pages of index files that were read lately: bounded, direct-mapped, shared by all segments of a store.
final class PageCache: Sendable {
    private struct Slot {
        var segment: UInt64 = 0
        var page: UInt64 = .max
        var content: CheckedPage?
    }
    private static let slotCount = 2048
    private let slots = Mutex([Slot](repeating: Slot(), count: slotCount))

    private static func place(_ segment: UInt64, _ page: UInt64) -> Int {
        Int(truncatingIfNeeded: (segment &* 0x9e37_79b9 &+ page) % UInt64(slotCount))
    }
    func page(_ segment: UInt64, _ page: UInt64) -> CheckedPage? {
        slots.withLock { slots in
            let slot = slots[Self.place(segment, page)]
            return slot.segment == segment && slot.page == page ? slot.content : nil
        }
    }
    func keep(_ content: CheckedPage, _ segment: UInt64, _ page: UInt64) {
        slots.withLock { $0[Self.place(segment, page)] = Slot(segment: segment, page: page, content: content) }
    }
}

/// An index file, open for look-ups. It stays readable when it is removed meanwhile. Any thread.
final class IndexSegment: Sendable {
    let name: String
    let trailer: IndexTrailer
    let byteCount: UInt64
    /// Tells segments apart in the cache.
    private let number: UInt64
    private let file: any StorageFile
    private let cache: PageCache
    /// What is known of its packs, by number; empty until it was asked for.
    private let packStates = Mutex([PackState]())

    /// What the entries of a pack are worth.
    struct PackState: OptionSet {
        let rawValue: UInt8
        /// The pack is not there.
        static let absent = PackState(rawValue: 1)
        /// A part of it is noted as damaged.
        static let isDamaged = PackState(rawValue: 2)
        /// Somebody was told that what is in it need not be put in.
        static let isUsed = PackState(rawValue: 4)
        /// It was seen to end as a pack does.
        static let isLookedAt = PackState(rawValue: 8)
    }

    init(opening path: String, name: String, number: UInt64, cache: PageCache, in fs: any FileSystem) throws(StoreError)
    {
        self.name = name
        self.number = number
        self.cache = cache
        do throws(SystemError) {
            file = try fs.open(path, .read)
            byteCount = try file.size()
        } catch {
            if error.errno == .noSuchFileOrDirectory { throw StoreError(.missing, "there is no index \(name)") }
            throw StoreError(error)
        }
        guard byteCount >= UInt64(IndexTrailer.byteCount) else {
            throw StoreError(.corrupt, "index \(name) is cut off")
        }
        let start = byteCount - UInt64(IndexTrailer.byteCount)
        let bytes = try Self.read(file, start, IndexTrailer.byteCount)
        do throws(FieldError) {
            trailer = try IndexTrailer(parsing: bytes, fileBytes: byteCount)
        } catch { throw StoreError(.corrupt, "index \(name) is damaged: \(error.message)") }
    }

    private static func read(_ file: any StorageFile, _ offset: UInt64, _ count: Int) throws(StoreError) -> [UInt8] {
        do throws(SystemError) { return try file.readBytes(at: offset, count: count) } catch { throw StoreError(error) }
    }

    func page(_ index: UInt64) throws(StoreError) -> CheckedPage {
        if let cached = cache.page(number, index) { return cached }
        let bytes = try Self.read(file, index * UInt64(IndexPage.byteCount), IndexPage.byteCount)
        let page: CheckedPage
        do throws(FieldError) { page = try CheckedPage(checking: bytes) } catch { throw damaged(index, error.message) }
        let isLast = index + 1 == trailer.pageCount
        let wanted = isLast ? Int(trailer.entryCount - index * UInt64(IndexPage.entriesMax)) : IndexPage.entriesMax
        guard page.count == wanted else { throw damaged(index, "it has \(page.count) entries, not \(wanted)") }
        cache.keep(page, number, index)
        return page
    }

    private func damaged(_ page: UInt64, _ what: String) -> StoreError {
        StoreError(.corrupt, "page \(page) of index \(name) is damaged: \(what)")
    }

    /// Entry `place` of page `index`, checked.
    func entry(_ page: CheckedPage, _ place: Int, at index: UInt64) throws(StoreError) -> IndexEntry {
        let entry: IndexEntry
        do throws(FieldError) { entry = try page.entry(place) } catch { throw damaged(index, error.message) }
        guard entry.pack < trailer.packCount else {
            throw damaged(index, "it names pack \(entry.pack), of \(trailer.packCount)")
        }
        return entry
    }

    /// Looks one identity up. Identities are evenly spread, so the place is guessed and the guess refined.
    func find(_ id: Digest) throws(StoreError) -> IndexEntry? {
        var low: UInt64 = 0
        var high = trailer.pageCount
        var lowKey: UInt64 = 0
        var highKey = UInt64.max
        var steps = 0
        while low < high {
            steps += 1
            // Hostile or unlucky spreads fall back to halving.
            let share = steps > 4 ? 0.5 : Double(id.prefix &- lowKey) / max(1, Double(highKey &- lowKey))
            let guess = min(high - 1, low + UInt64(Double(high - low) * min(max(share, 0), 1)))
            let page = try page(guess)
            let (first, last) = (page.id(0), page.id(page.count - 1))
            if id < first {
                high = guess
                highKey = first.prefix
            } else if id > last {
                low = guess + 1
                lowKey = last.prefix
            } else {
                guard let place = page.search(id) else { return nil }
                return try entry(page, place, at: guess)
            }
        }
        return nil
    }

    /// Names of packs `range` of the table; unchecked, for the moment they are needed.
    func packs(_ range: Range<UInt32>) throws(StoreError) -> [Digest] {
        let start =
            trailer.pageCount * UInt64(IndexPage.byteCount) + UInt64(range.lowerBound) * UInt64(Digest.byteCount)
        let bytes = try Self.read(file, start, range.count * Digest.byteCount)
        return unsafe bytes.withUnsafeBytes { memory in
            (0..<range.count).map { unsafe Digest(loading: memory, at: $0 * Digest.byteCount) }
        }
    }

    /// Looks at the pack table.
    func prepare(_ census: PackCensus) throws(StoreError) {
        guard packStates.withLock({ $0.isEmpty }) else { return }
        var states: [PackState] = []
        states.reserveCapacity(Int(trailer.packCount))
        try forEachPack { pack in
            var state: PackState = census.has(pack) ? [] : .absent
            if census.damage[pack] != nil { state.insert(.isDamaged) }
            states.append(state)
        }
        packStates.withLock { if $0.isEmpty { $0 = states } }
    }

    /// What was known of its packs may have changed. Which answers were taken from it is forgotten with it.
    func forgetPackStates() { packStates.withLock { $0.removeAll() } }

    var isPrepared: Bool { packStates.withLock { !$0.isEmpty } }

    /// These packs are there by now.
    func noteThere(_ packs: Set<Digest>) throws(StoreError) {
        guard isPrepared else { return }
        var number = 0
        try forEachPack { pack in
            if packs.contains(pack) { packStates.withLock { if number < $0.count { $0[number].remove(.absent) } } }
            number += 1
        }
    }

    /// Something new is noted of this pack.
    func noteDamage(of packs: Set<Digest>) throws(StoreError) {
        guard isPrepared else { return }
        var number = 0
        try forEachPack { pack in
            if packs.contains(pack) { packStates.withLock { if number < $0.count { $0[number].insert(.isDamaged) } } }
            number += 1
        }
    }

    /// - Precondition: it was prepared.
    func state(ofPack number: UInt32) -> PackState {
        packStates.withLock { Int(number) < $0.count ? $0[Int(number)] : .absent }
    }

    func mark(_ state: PackState, pack number: UInt32) {
        packStates.withLock { if Int(number) < $0.count { $0[Int(number)].insert(state) } }
    }

    var isUsed: Bool { packStates.withLock { $0.contains { $0.contains(.isUsed) } } }

    /// The packs that answers were taken from.
    func usedPacks() throws(StoreError) -> Set<Digest> {
        guard isUsed else { return [] }
        var used: Set<Digest> = []
        var number: UInt32 = 0
        try forEachPack { pack in
            if state(ofPack: number).contains(.isUsed) { used.insert(pack) }
            number += 1
        }
        return used
    }

    func isUsed(forAnyOf packs: Set<Digest>) throws(StoreError) -> Bool {
        if packs.isEmpty { return false }
        return try !usedPacks().isDisjoint(with: packs)
    }

    /// Calls `body` with the name of each pack, in the order of the table, which is checked as a whole.
    func forEachPack(_ body: (Digest) -> Void) throws(StoreError) {
        var checksum: UInt32 = 0
        var next: UInt32 = 0
        while next < trailer.packCount {
            let end = next + min(4096, trailer.packCount - next)
            for pack in try packs(next..<end) {
                checksum = unsafe pack.bytes.withUnsafeBytes { unsafe crc32c(checksum, $0) }
                body(pack)
            }
            next = end
        }
        guard checksum == trailer.packChecksum else {
            throw StoreError(.corrupt, "index \(name) is damaged: the checksum of its packs does not match")
        }
    }

    func location(of entry: IndexEntry) throws(StoreError) -> Location {
        entry.location(in: try packs(entry.pack..<entry.pack + 1)[0])
    }

    /// Reads everything and checks it against all checksums, the order, and the name.
    /// - Parameter body: called with each entry, in order; returns `false` to end it.
    func verify(_ body: (IndexEntry) throws(StoreError) -> Bool) throws(StoreError) {
        let hash = StreamHash(prefix: IndexTrailer.namePrefix)
        var last: Digest?
        for index in 0..<trailer.pageCount {
            hash.update(try Self.read(file, index * UInt64(IndexPage.byteCount), IndexPage.byteCount))
            let page = try page(index)
            for place in 0..<page.count {
                let entry = try entry(page, place, at: index)
                if let last, last >= entry.id {
                    throw StoreError(.corrupt, "index \(name) is not sorted at page \(index)")
                }
                last = entry.id
                guard try body(entry) else { return }
            }
        }
        var checksum: UInt32 = 0
        var offset = trailer.pageCount * UInt64(IndexPage.byteCount)
        let end = byteCount - UInt64(IndexTrailer.byteCount)
        while offset < end {
            let part = try Self.read(file, offset, Int(min(end - offset, 1 << 16)))
            checksum = unsafe part.withUnsafeBytes { unsafe crc32c(checksum, $0) }
            hash.update(part)
            offset += UInt64(part.count)
        }
        hash.update(trailer.encoded())
        guard checksum == trailer.packChecksum, hash.finish().description == name else {
            throw StoreError(.corrupt, "index \(name) is damaged: its content is not what its name stands for")
        }
    }
}
