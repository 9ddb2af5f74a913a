public import Geometry
internal import Synchronization

/// Which granules of a device changed: what a migration copies in its rounds.
///
/// Marking takes no lock, and any number of threads mark while others take. Call ``mark(_:)`` when the new bytes are in
/// the device and before the writer is told so: then whoever takes the mark first and reads the bytes second can't miss
/// them.
///
/// Memory: a directory of 8 bytes for each 32768 granules, and 4 KiB for each of those stretches that had a change, up
/// to ``budgetBytes``. Beyond the budget a stretch is remembered as changed in whole: more is copied, nothing is
/// missed. So is one that was changed in whole by a single call.
@safe public final class DirtyBitmap: Sendable {
    /// Size of the device in bytes; the last granule may end beyond it.
    public let byteCount: UInt64
    public let granuleBytes: UInt64
    /// Most memory that pages take, in bytes.
    public let budgetBytes: Int
    private let shift: UInt64
    private let granuleCount: UInt64
    private let pageCount: Int
    /// One entry for each page: ``Entry``. Constant pointer to atomic words, freed with the object.
    private nonisolated(unsafe) let directory: UnsafeMutablePointer<Atomic<UInt>>
    private let pagesLeft: Atomic<Int>
    private let granulesSet = Atomic<Int>(0)

    /// What an entry of the directory holds when it is not the address of a page.
    private enum Entry {
        static let clean: UInt = 0
        static let whole: UInt = 1
    }
    private static let wordsPerPage = 512
    private static let granulesPerPage: UInt64 = 512 * 64

    public static let granuleBytesDefault: UInt64 = 64 << 10

    /// - Parameter granuleBytes: a power of two from 4 KiB to 1 MiB; otherwise `nil`.
    public init?(byteCount: UInt64, granuleBytes: UInt64 = granuleBytesDefault, budgetBytes: Int = 32 << 20) {
        guard granuleBytes.isPowerOfTwo, granuleBytes >= 4 << 10, granuleBytes <= 1 << 20, byteCount <= 1 << 50 else {
            return nil
        }
        self.byteCount = byteCount
        self.granuleBytes = granuleBytes
        self.budgetBytes = budgetBytes
        shift = UInt64(granuleBytes.trailingZeroBitCount)
        granuleCount = byteCount.dividedRoundingUp(by: granuleBytes)
        pageCount = Int(granuleCount.dividedRoundingUp(by: Self.granulesPerPage))
        pagesLeft = Atomic(budgetBytes / (Self.wordsPerPage * 8))
        unsafe directory = Self.words(max(pageCount, 1))
    }

    deinit {
        for index in 0..<pageCount {
            if let page = unsafe Self.page(unsafe directory[index].load(ordering: .relaxed)) {
                unsafe page.deallocate()
            }
        }
        unsafe directory.deallocate()
    }

    /// Bytes in dirty granules. Exact when nobody marks or takes meanwhile.
    public var dirtyBytes: UInt64 {
        let granules = max(granulesSet.load(ordering: .acquiring), 0)
        return min(UInt64(granules) << shift, byteCount)
    }

    /// Marks every granule that `range` touches. Parts beyond the device are ignored.
    public func mark(_ range: ByteRange) {
        let range = range.intersection(ByteRange(offset: 0, count: byteCount))
        guard !range.isEmpty else { return }
        var granule = range.offset >> shift
        let end = ((range.end - 1) >> shift) + 1
        while granule < end {
            let index = Int(granule / Self.granulesPerPage)
            let pageStart = UInt64(index) * Self.granulesPerPage
            let stop = min(end, pageStart + Self.granulesPerPage)
            mark(page: index, from: Int(granule - pageStart), to: Int(stop - pageStart))
            granule = stop
        }
    }

    /// Reads and clears, atomically for each 64 granules, what is dirty in the granules that `range` touches.
    ///
    /// - Parameter limit: most runs to return, at least 1.
    /// - Returns: the dirty runs, ascending and apart, none beyond the device; and up to where they cover the range:
    ///   what
    ///   is dirty from `coveredTo` on is still set. A stretch that is remembered in whole is cleared only by a call
    ///   whose
    ///   range covers all of it, so walk from 0 to the end with the limit, not in windows.
    public func take(in range: ByteRange, limit: Int) -> (runs: [ByteRange], coveredTo: UInt64) {
        let range = range.intersection(ByteRange(offset: 0, count: byteCount))
        guard !range.isEmpty else { return ([], min(range.offset, byteCount)) }
        var list = RunList(shift: shift, byteCount: byteCount, limit: max(limit, 1))
        var granule = range.offset >> shift
        let end = ((range.end - 1) >> shift) + 1
        while granule < end {
            let index = Int(granule / Self.granulesPerPage)
            let pageStart = UInt64(index) * Self.granulesPerPage
            let stop = min(end, pageStart + Self.granulesPerPage)
            if let cut = take(page: index, from: Int(granule - pageStart), to: Int(stop - pageStart), into: &list) {
                return (list.runs, min((pageStart + UInt64(cut)) << shift, byteCount))
            }
            granule = stop
        }
        return (list.runs, min(end << shift, byteCount))
    }

    /// Marks everything that is dirty in `other`, which keeps its marks. The granules may differ.
    public func formUnion(_ other: DirtyBitmap) {
        for index in 0..<other.pageCount {
            let start = UInt64(index) * Self.granulesPerPage
            let entry = unsafe other.directory[index].load(ordering: .acquiring)
            if entry == Entry.whole {
                mark(other.range(from: start, to: start + UInt64(other.granules(inPage: index))))
            } else if let page = unsafe Self.page(entry) {
                for word in 0..<Self.wordsPerPage {
                    let bits = unsafe page[word].load(ordering: .acquiring)
                    let granule = start + UInt64(word * 64)
                    RunList.forEachRun(bits) { first, end in
                        mark(other.range(from: granule + UInt64(first), to: granule + UInt64(end)))
                        return true
                    }
                }
            }
        }
    }

    // MARK: pages

    private func mark(page index: Int, from: Int, to: Int) {
        let whole = from == 0 && to == granules(inPage: index)
        while true {
            let entry = unsafe directory[index].load(ordering: .acquiring)
            if let page = unsafe Self.page(entry) {
                unsafe mark(page, from: from, to: to)
                return
            }
            if entry == Entry.whole {
                // Written, not only looked at: so that who takes the mark afterwards sees this writer's bytes.
                if swap(index, Entry.whole, Entry.whole) { return }
            } else if whole {
                if markWhole(index) { return }
            } else if pagesLeft.subtract(1, ordering: .relaxed).newValue < 0 {
                pagesLeft.add(1, ordering: .relaxed)
                if markWhole(index) { return }
            } else {
                let made = unsafe Self.words(Self.wordsPerPage)
                if !swap(index, Entry.clean, UInt(bitPattern: made)) {
                    unsafe made.deallocate()
                    pagesLeft.add(1, ordering: .relaxed)
                }
            }
        }
    }

    private func mark(_ page: UnsafeMutablePointer<Atomic<UInt>>, from: Int, to: Int) {
        var set = 0
        var position = from
        while position < to {
            let stop = min(to, (position | 63) + 1)
            let mask = Self.mask(position & 63, stop - (position & ~63))
            let old = unsafe page[position / 64].bitwiseOr(mask, ordering: .acquiringAndReleasing).oldValue
            set += (mask & ~old).nonzeroBitCount
            position = stop
        }
        if set > 0 { granulesSet.add(set, ordering: .releasing) }
    }

    private func markWhole(_ index: Int) -> Bool {
        guard swap(index, Entry.clean, Entry.whole) else { return false }
        granulesSet.add(granules(inPage: index), ordering: .releasing)
        return true
    }

    /// - Returns: `nil` when all of the page's part was taken, or the granule of the page at which the limit was
    ///   reached.
    private func take(page index: Int, from: Int, to: Int, into list: inout RunList) -> Int? {
        let start = UInt64(index) * Self.granulesPerPage
        let entry = unsafe directory[index].load(ordering: .acquiring)
        guard let page = unsafe Self.page(entry) else {
            guard entry == Entry.whole else { return nil }
            guard list.hasRoom(at: start + UInt64(from)) else { return from }
            list.append(from: start + UInt64(from), to: start + UInt64(to))
            if from == 0, to == granules(inPage: index), swap(index, Entry.whole, Entry.clean) {
                granulesSet.subtract(to, ordering: .releasing)
            }
            return nil
        }
        var position = from
        while position < to {
            let word = position & ~63
            let stop = min(to, word + 64)
            var mask = Self.mask(position & 63, stop - word)
            var cut: Int?
            let seen = unsafe page[word / 64].load(ordering: .relaxed) & mask
            if seen != 0 {
                // A word has at most 32 runs; near the limit only bits that were seen and fit are cleared. Those that
                // appear meanwhile stay for the next call.
                if list.room <= 33 {
                    cut = list.firstBeyondLimit(bits: seen, at: start + UInt64(word))
                    mask = cut.map { $0 == 0 ? 0 : seen & Self.mask(0, $0) } ?? seen
                }
                let old = unsafe page[word / 64].bitwiseAnd(~mask, ordering: .acquiringAndReleasing).oldValue & mask
                granulesSet.subtract(old.nonzeroBitCount, ordering: .releasing)
                list.append(bits: old, at: start + UInt64(word))
            }
            if let cut { return word + cut }
            position = stop
        }
        return nil
    }

    private func swap(_ index: Int, _ old: UInt, _ new: UInt) -> Bool {
        unsafe directory[index].compareExchange(expected: old, desired: new, ordering: .acquiringAndReleasing).exchanged
    }

    private func granules(inPage index: Int) -> Int {
        Int(min(Self.granulesPerPage, granuleCount - UInt64(index) * Self.granulesPerPage))
    }

    private func range(from: UInt64, to: UInt64) -> ByteRange {
        ByteRange(offset: from << shift, count: min(to << shift, byteCount) - from << shift)
    }

    /// Bits `from..<to` of a word.
    private static func mask(_ from: Int, _ to: Int) -> UInt {
        (UInt.max >> UInt(64 - (to - from))) << UInt(from)
    }

    private static func page(_ entry: UInt) -> UnsafeMutablePointer<Atomic<UInt>>? {
        entry <= Entry.whole ? nil : unsafe UnsafeMutablePointer(bitPattern: entry)
    }

    private static func words(_ count: Int) -> UnsafeMutablePointer<Atomic<UInt>> {
        let words = UnsafeMutablePointer<Atomic<UInt>>.allocate(capacity: count)
        for index in 0..<count { unsafe (words + index).initialize(to: Atomic(0)) }
        return unsafe words
    }
}

/// Runs of granules on their way to byte ranges; neighbours are joined.
struct RunList {
    private(set) var runs: [ByteRange] = []
    private let shift: UInt64
    private let byteCount: UInt64
    private let limit: Int

    init(shift: UInt64, byteCount: UInt64, limit: Int) {
        self.shift = shift
        self.byteCount = byteCount
        self.limit = limit
    }

    var room: Int { limit - runs.count }

    /// Whether a run that starts at `granule` can still be taken.
    func hasRoom(at granule: UInt64) -> Bool { room > 0 || runs.last?.end == granule << shift }

    mutating func append(from: UInt64, to: UInt64) {
        let start = from << shift
        let end = min(to << shift, byteCount)
        if let last = runs.last, last.end == start {
            runs[runs.count - 1] = ByteRange(offset: last.offset, count: end - last.offset)
        } else {
            runs.append(ByteRange(offset: start, count: end - start))
        }
    }

    mutating func append(bits: UInt, at granule: UInt64) {
        Self.forEachRun(bits) { first, end in
            append(from: granule + UInt64(first), to: granule + UInt64(end))
            return true
        }
    }

    /// The bit at which the first run starts that there is no room for, or `nil`.
    func firstBeyondLimit(bits: UInt, at granule: UInt64) -> Int? {
        var left = room
        var found: Int?
        Self.forEachRun(bits) { first, _ in
            if first == 0, runs.last?.end == granule << shift { return true }
            left -= 1
            if left < 0 { found = first }
            return found == nil
        }
        return found
    }

    static func forEachRun(_ bits: UInt, _ body: (Int, Int) -> Bool) {
        var rest = bits
        while rest != 0 {
            let first = rest.trailingZeroBitCount
            let end = first + (~(rest >> UInt(first))).trailingZeroBitCount
            guard body(first, min(end, 64)) else { return }
            rest = end >= 64 ? 0 : rest & (UInt.max << UInt(end))
        }
    }
}
