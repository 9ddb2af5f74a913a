internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import Synchronization

/// Where the bytes of a virtual cluster are.
struct MapEntry: Hashable {
    /// Number of the cluster in the delta's file; for an invalid entry of the top, what stands in the file.
    var cluster: UInt32
    /// Index of the delta in the chain, or one of the marks below.
    var level: UInt8
    /// A delta below `level` has data for it, too.
    var isCovered: Bool

    static let levelNone: UInt8 = 0xFF
    static let levelInvalidTop: UInt8 = 0xFE
    static let levelInvalid: UInt8 = 0xFD
    /// Deltas in a chain that a level can name.
    static let levelsMax = 0xFD

    static let none = MapEntry(cluster: 0, level: levelNone, isCovered: false)
    var isNone: Bool { level == Self.levelNone }
    var isInvalid: Bool { level == Self.levelInvalid || level == Self.levelInvalidTop }
}

/// The merged block tables of a chain, cached in pages of 1024 entries within a memory budget.
///
/// A page is read from every delta when first needed, the top's entry hiding those below. Changes are made to the
/// cached page only; it stays in memory until a flush has written it (``collectDirty(chain:header:)``). An entry is
/// changed by who holds its cluster's lock.
final class ClusterMap: Sendable {
    private struct Page {
        var number: UInt64
        var entries: [MapEntry]
        var wasUsed = true
        /// Differs from the file.
        var isDirty = false
        /// A flush has taken its content and not yet finished.
        var isBeingWritten = false
        /// Was changed since it was loaded: a copy loaded earlier is out of date.
        var wasChanged = false
    }

    private struct Shard {
        var pages: [Page] = []
        var index: [UInt64: Int] = [:]
        var hand = 0
        /// Counts what makes a page that is being loaded worthless.
        var generation: UInt64 = 0
    }

    private static let shardCount = 16
    private let shards: [Monitor<Shard>]
    private let pagesPerShard: Int
    private let pool: BufferPool
    private let dirtyPages = Atomic<Int>(0)

    init(budgetBytes: Int, pool: BufferPool) {
        let pages = budgetBytes / (DeltaFile.pageSlots * MemoryLayout<MapEntry>.stride)
        pagesPerShard = max(4, pages / Self.shardCount)
        shards = (0..<Self.shardCount).map { _ in Monitor(Shard()) }
        self.pool = pool
    }

    /// Pages that wait for a flush.
    var dirtyCount: Int { dirtyPages.load(ordering: .relaxed) }
    /// So many may wait before somebody should flush.
    var dirtyMax: Int { pagesPerShard * Self.shardCount / 2 }

    /// The entries of `count` clusters from `first` on.
    func entries(from first: UInt64, count: Int, chain: Chain) throws(DiskError) -> [MapEntry] {
        var result: [MapEntry] = []
        result.reserveCapacity(count)
        while result.count < count {
            let (page, slot) = DeltaFile.place(of: first + UInt64(result.count))
            let taken = min(count - result.count, DeltaFile.pageSlots - slot)
            try withPage(page, chain) { page in result += page.entries[slot..<slot + taken] }
        }
        return result
    }

    func entry(of cluster: UInt64, chain: Chain) throws(DiskError) -> MapEntry {
        let (page, slot) = DeltaFile.place(of: cluster)
        return try withPage(page, chain) { page in page.entries[slot] }
    }

    /// Points `cluster` to a cluster of the top delta's file.
    func set(_ cluster: UInt64, to fileCluster: UInt64, chain: Chain) throws(DiskError) {
        let (page, slot) = DeltaFile.place(of: cluster)
        let level = chain.topLevel
        try withPage(page, chain) { page in
            let old = page.entries[slot]
            let isCovered = old.isNone ? false : old.level == level ? old.isCovered : true
            page.entries[slot] = MapEntry(
                cluster: UInt32(truncatingIfNeeded: fileCluster), level: level, isCovered: isCovered)
            noteChange(&page)
        }
    }

    /// Takes away the top delta's entry of a cluster that no other delta has.
    func clear(_ cluster: UInt64, chain: Chain) throws(DiskError) {
        let (page, slot) = DeltaFile.place(of: cluster)
        try withPage(page, chain) { page in
            page.entries[slot] = .none
            noteChange(&page)
        }
    }

    /// Has a page written by the next flush, whether or not its entries change.
    func touch(page: UInt64, chain: Chain) throws(DiskError) {
        try withPage(page, chain) { page in noteChange(&page) }
    }

    private func noteChange(_ page: inout Page) {
        page.wasChanged = true
        guard !page.isDirty else { return }
        page.isDirty = true
        dirtyPages.add(1, ordering: .relaxed)
    }

    /// Forgets all pages. Nothing may be dirty, and nobody may be using the map.
    func invalidate() {
        for shard in shards {
            shard.withLock { shard in
                shard.pages.removeAll()
                shard.index.removeAll()
                shard.hand = 0
                shard.generation += 1
            }
        }
        dirtyPages.store(0, ordering: .relaxed)
    }

    // MARK: Pages

    private func withPage<R>(
        _ number: UInt64, _ chain: Chain, _ body: (inout Page) -> R
    ) throws(DiskError) -> R {
        let shard = shards[Int(number % UInt64(Self.shardCount))]
        while true {
            var result: R?
            let generation = shard.withLock { shard in
                if let slot = shard.index[number] {
                    shard.pages[slot].wasUsed = true
                    result = body(&shard.pages[slot])
                }
                return shard.generation
            }
            if let result { return result }
            let entries = try load(number, chain)
            shard.withLock { shard in
                // Somebody else may have loaded it, and changed and evicted it since: then what was read is out of
                // date.
                guard shard.index[number] != nil || shard.generation == generation else { return }
                let slot = shard.index[number] ?? insert(number, entries, into: &shard)
                result = body(&shard.pages[slot])
            }
            if let result { return result }
        }
    }

    private func insert(_ number: UInt64, _ entries: [MapEntry], into shard: inout Shard) -> Int {
        let page = Page(number: number, entries: entries)
        if shard.pages.count >= pagesPerShard, let slot = evict(from: &shard) {
            shard.pages[slot] = page
            shard.index[number] = slot
            return slot
        }
        shard.pages.append(page)
        shard.index[number] = shard.pages.count - 1
        return shard.pages.count - 1
    }

    /// Frees the place of a page not used lately; `nil` when all wait for a flush.
    private func evict(from shard: inout Shard) -> Int? {
        for _ in 0..<shard.pages.count * 2 {
            let slot = shard.hand
            shard.hand = (shard.hand + 1) % shard.pages.count
            if shard.pages[slot].isDirty || shard.pages[slot].isBeingWritten { continue }
            if shard.pages[slot].wasUsed {
                shard.pages[slot].wasUsed = false
                continue
            }
            shard.index[shard.pages[slot].number] = nil
            if shard.pages[slot].wasChanged { shard.generation += 1 }
            return slot
        }
        return nil
    }

    private func load(_ number: UInt64, _ chain: Chain) throws(DiskError) -> [MapEntry] {
        try unsafe pool.withBuffer(DeltaFile.pageBytes) { memory throws(DiskError) in
            try unsafe PageLoader.load(number, chain.deltas, through: memory)
        }
    }

    // MARK: Flushing

    /// Pages as they go to the top delta's file: ascending numbers, and their bytes one after the other.
    struct DirtyPages: Sendable {
        var numbers: [UInt64]
        var bytes: AlignedBuffer
    }

    /// Takes the content of all dirty pages, with the top delta's entries only.
    /// - Parameter header: the bytes for the start of page 0.
    func collectDirty(chain: Chain, header: [UInt8]) -> DirtyPages? {
        guard let bat = chain.top?.bat else { return nil }
        var numbers: [UInt64] = []
        for shard in shards {
            shard.withLock { shard in
                for page in shard.pages where page.isDirty { numbers.append(page.number) }
            }
        }
        guard !numbers.isEmpty else { return nil }
        numbers.sort()
        let bytes = AlignedBuffer(byteCount: numbers.count * DeltaFile.pageBytes)
        for (index, number) in numbers.enumerated() {
            let target = unsafe UnsafeMutableRawBufferPointer(
                rebasing: bytes.memory[index * DeltaFile.pageBytes..<(index + 1) * DeltaFile.pageBytes])
            if number == 0 { unsafe target.copyBytes(from: header) }
            shards[Int(number % UInt64(Self.shardCount))].withLock { shard in
                guard let slot = shard.index[number] else { return }
                unsafe Self.encode(shard.pages[slot].entries, level: chain.topLevel, bat: bat, into: target)
                shard.pages[slot].isDirty = false
                shard.pages[slot].isBeingWritten = true
            }
            dirtyPages.subtract(1, ordering: .relaxed)
        }
        return DirtyPages(numbers: numbers, bytes: bytes)
    }

    /// Ends what ``collectDirty(chain:header:)`` began.
    /// - Parameter written: whether the pages are durable; otherwise they wait again.
    func finish(_ pages: DirtyPages, written: Bool) {
        for number in pages.numbers {
            shards[Int(number % UInt64(Self.shardCount))].withLock { shard in
                guard let slot = shard.index[number] else { return }
                shard.pages[slot].isBeingWritten = false
                if !written { noteChange(&shard.pages[slot]) }
            }
        }
    }

    private static func encode(
        _ entries: [MapEntry], level: UInt8, bat: BatGeometry, into target: UnsafeMutableRawBufferPointer
    ) {
        for (slot, entry) in entries.enumerated() {
            let raw: UInt32
            if entry.level == level {
                // The allocator hands out only what can be expressed.
                raw = bat.encode(UInt64(entry.cluster)) ?? 0
            } else if entry.level == MapEntry.levelInvalidTop {
                raw = entry.cluster
            } else {
                continue
            }
            unsafe target.storeBytes(of: raw.littleEndian, toByteOffset: slot * 4, as: UInt32.self)
        }
    }
}

/// Reads one page of the block tables of a chain and merges them.
enum PageLoader {
    /// - Parameter memory: room for a page.
    static func load(
        _ number: UInt64, _ deltas: [DeltaFile], through memory: UnsafeMutableRawBufferPointer
    ) throws(DiskError) -> [MapEntry] {
        var entries = [MapEntry](repeating: .none, count: DeltaFile.pageSlots)
        for level in deltas.indices.reversed() {
            let delta = deltas[level]
            guard let bat = delta.bat else {
                overlayRaw(delta, number, &entries)
                continue
            }
            let clusters = bat.entries(inPage: number, pageBytes: UInt64(DeltaFile.pageBytes))
            if clusters.isEmpty { continue }
            var fileBytes: UInt64 = 0
            try withPath(delta.path) { () throws(SystemError) in
                try unsafe delta.file.read(at: number * UInt64(DeltaFile.pageBytes), into: memory)
                fileBytes = try delta.file.size()
            }
            let first = number == 0 ? DeltaFile.headerSlots : 0
            for slot in first..<first + clusters.count {
                let raw = UInt32(littleEndian: unsafe memory.load(fromByteOffset: slot * 4, as: UInt32.self))
                if raw == 0 { continue }
                guard entries[slot].isNone else {
                    entries[slot].isCovered = true
                    continue
                }
                switch bat.decode(raw, fileBytes: fileBytes) {
                case .unallocated: break
                case .cluster(let cluster):
                    entries[slot] = MapEntry(
                        cluster: UInt32(truncatingIfNeeded: cluster), level: UInt8(level), isCovered: false)
                case .invalid:
                    let isTop = level == deltas.count - 1
                    entries[slot] = MapEntry(
                        cluster: raw, level: isTop ? MapEntry.levelInvalidTop : MapEntry.levelInvalid, isCovered: false)
                }
            }
        }
        return entries
    }

    private static func overlayRaw(_ delta: DeltaFile, _ number: UInt64, _ entries: inout [MapEntry]) {
        let first = number == 0 ? DeltaFile.headerSlots : 0
        let start = DeltaFile.firstCluster(ofPage: number)
        for slot in first..<DeltaFile.pageSlots {
            let cluster = start + UInt64(slot - first)
            guard cluster < delta.clusterCount else { break }
            if entries[slot].isNone {
                entries[slot] = MapEntry(cluster: UInt32(truncatingIfNeeded: cluster), level: 0, isCovered: false)
            } else {
                entries[slot].isCovered = true
            }
        }
    }
}
