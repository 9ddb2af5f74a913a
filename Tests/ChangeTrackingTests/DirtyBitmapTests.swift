import ChangeTracking
import Geometry
import Synchronization
import Testing

private let KiB: UInt64 = 1024

/// The slow, obvious set of dirty granules.
private struct Model {
    var byteCount: UInt64
    var granule: UInt64
    var dirty: Set<UInt64> = []

    func granules(_ range: ByteRange) -> Range<UInt64> {
        let range = range.intersection(ByteRange(offset: 0, count: byteCount))
        guard !range.isEmpty else { return 0..<0 }
        return range.offset / granule..<(range.end - 1) / granule + 1
    }
    mutating func mark(_ range: ByteRange) { dirty.formUnion(granules(range)) }
    /// All runs in the range, cleared.
    mutating func take(_ range: ByteRange) -> [ByteRange] {
        var runs: [ByteRange] = []
        for number in granules(range) where dirty.remove(number) != nil {
            let start = number * granule
            let end = min(start + granule, byteCount)
            if let last = runs.last, last.end == start {
                runs[runs.count - 1] = ByteRange(offset: last.offset, count: end - last.offset)
            } else {
                runs.append(ByteRange(offset: start, count: end - start))
            }
        }
        return runs
    }
}

private func bitmap(_ byteCount: UInt64, _ granule: UInt64 = 64 * KiB, budget: Int = 32 << 20) throws -> DirtyBitmap {
    try #require(DirtyBitmap(byteCount: byteCount, granuleBytes: granule, budgetBytes: budget))
}

private func takeAll(_ map: DirtyBitmap, limit: Int = 1000) -> [ByteRange] {
    var all: [ByteRange] = []
    var from: UInt64 = 0
    while from < map.byteCount {
        let (runs, covered) = map.take(in: ByteRange(offset: from, count: map.byteCount - from), limit: limit)
        #expect(runs.count <= limit)
        #expect(covered > from || !runs.isEmpty || covered == map.byteCount)
        for run in runs {
            if let last = all.last, last.end == run.offset {
                all[all.count - 1] = ByteRange(offset: last.offset, count: run.end - last.offset)
            } else {
                all.append(run)
            }
        }
        from = covered
    }
    return all
}

@Suite struct DirtyBitmapTests {
    @Test("granules are powers of two from 4 KiB to 1 MiB", arguments: [0, 1, 2048, 4097, 65537, 2 << 20] as [UInt64])
    func refusedGranules(granule: UInt64) {
        #expect(DirtyBitmap(byteCount: 1 << 30, granuleBytes: granule) == nil)
    }

    @Test("every pair of bounds in three words marks and takes what the model says")
    func exhaustive() throws {
        let size = 150 * 4 * KiB + 512
        for from in stride(from: UInt64(0), through: 151, by: 3) {
            for to in from...152 {
                let range = ByteRange(offset: from * 4 * KiB, count: (to - from) * 4 * KiB)
                let map = try bitmap(size, 4 * KiB)
                var model = Model(byteCount: size, granule: 4 * KiB)
                map.mark(range)
                model.mark(range)
                #expect(map.dirtyBytes == min(UInt64(model.dirty.count) * 4 * KiB, size))
                #expect(takeAll(map) == model.take(ByteRange(offset: 0, count: size)), "\(range)")
                #expect(map.dirtyBytes == 0)
            }
        }
    }

    @Test("random marks and takes agree with the model", arguments: [1, 2, 3, 4, 5, 6, 7, 8] as [UInt64])
    func random(seed: UInt64) throws {
        var random = SplitMix(state: seed)
        let size = 70_000 * 4 * KiB + 100  // three pages
        let map = try bitmap(size, 4 * KiB)
        var model = Model(byteCount: size, granule: 4 * KiB)
        for step in 0..<2000 {
            let offset = random.next() % (size + 4096)
            let count = random.next() % (step % 7 == 0 ? 2 << 20 : 40 * KiB)
            let range = ByteRange(offset: offset, count: count)
            if random.next() % 4 > 0 {
                map.mark(range)
                model.mark(range)
                continue
            }
            let limit = Int(random.next() % 40) + 1
            let (runs, covered) = map.take(in: range, limit: limit)
            #expect(runs.count <= limit)
            let clipped = range.intersection(ByteRange(offset: 0, count: size))
            let reached = max(covered, clipped.offset)
            #expect(
                runs == model.take(ByteRange(offset: clipped.offset, count: reached - clipped.offset)),
                "seed \(seed) step \(step)")
            if runs.count < limit, !clipped.isEmpty { #expect(covered >= clipped.end) }
            #expect(map.dirtyBytes == min(UInt64(model.dirty.count) * 4 * KiB, size))
        }
        #expect(takeAll(map, limit: 1) == model.take(ByteRange(offset: 0, count: size)), "seed \(seed)")
    }

    @Test("beyond the budget whole stretches are dirty and nothing is missed")
    func budget() throws {
        let size: UInt64 = 64 << 40
        let map = try bitmap(size, 64 * KiB, budget: 4096 * 8)
        let stretch: UInt64 = 2 << 30
        let marks = (0..<20).map { ByteRange(offset: $0 * 3 * stretch + 5 * 64 * KiB, count: 100) }
        for mark in marks { map.mark(mark) }
        let runs = takeAll(map)
        #expect(runs.count == 20)
        for (index, mark) in marks.enumerated() {
            #expect(runs[index].contains(mark))
            #expect(runs[index].count == (index < 8 ? 64 * KiB : stretch))
        }
        #expect(map.dirtyBytes == 0)
        #expect(takeAll(map).isEmpty)
    }

    @Test("a disk marked in whole is one run and takes no page")
    func whole() throws {
        let map = try bitmap(64 << 40, 64 * KiB, budget: 0)
        map.mark(ByteRange(offset: 0, count: 64 << 40))
        #expect(map.dirtyBytes == 64 << 40)
        #expect(takeAll(map) == [ByteRange(offset: 0, count: 64 << 40)])
    }

    @Test("a union has the marks of both and leaves the other alone")
    func union() throws {
        let a = try bitmap(1 << 32), b = try bitmap(1 << 32, 4 * KiB)
        a.mark(ByteRange(offset: 0, count: 1))
        b.mark(ByteRange(offset: 3 << 30, count: 5000))
        b.mark(ByteRange(offset: 1 << 20, count: 512 * KiB))
        a.formUnion(b)
        #expect(
            takeAll(a) == [
                ByteRange(offset: 0, count: 64 * KiB), ByteRange(offset: 1 << 20, count: 512 * KiB),
                ByteRange(offset: 3 << 30, count: 64 * KiB),
            ])
        #expect(takeAll(b).count == 2)
    }

    // In a few words they meet all the time; in many, pages come and go.
    @Test("no mark is lost while others take", arguments: [64, 70_000])
    func concurrent(granules: Int) async throws {
        // Each writer bumps a counter and then marks; the taker clears and then reads. At the end, after a last take,
        // what the taker read of every granule must be the final count.
        let map = try bitmap(UInt64(granules) * 4 * KiB, 4 * KiB, budget: 4096 * 2)
        let values = Values(count: granules)
        let finished = Counter()
        let seen = await withTaskGroup(of: [Int]?.self) { group in
            for writer in 0..<3 {
                group.addTask {
                    var random = SplitMix(state: UInt64(writer) + 99)
                    for _ in 0..<60_000 {
                        let granule = Int(random.next() % UInt64(granules))
                        values.increment(granule)
                        map.mark(ByteRange(offset: UInt64(granule) * 4 * KiB, count: 4 * KiB))
                    }
                    finished.value.add(1, ordering: .acquiringAndReleasing)
                    return nil
                }
            }
            group.addTask {
                var seen = [Int](repeating: 0, count: granules)
                var last = false
                while true {
                    let done = finished.value.load(ordering: .acquiring) == 3
                    for run in takeAll(map, limit: 7) {
                        for granule in Int(run.offset / (4 * KiB))..<Int(run.end / (4 * KiB)) {
                            seen[granule] = values.value(granule)
                        }
                    }
                    if last { return seen }
                    last = done
                }
            }
            for await result in group { if let result { return result } }
            return []
        }
        #expect(seen == (0..<granules).map { values.value($0) })
        #expect(map.dirtyBytes == 0)
    }

    /// Each granule is marked once, so that no later mark hides one that was lost, and just there is taken meanwhile.
    @Test("a mark that comes while its word is taken is not lost") func sameWord() async throws {
        let granules = 3 << 20
        let map = try bitmap(UInt64(granules) * 4 * KiB, 4 * KiB, budget: 64 << 20)
        let marked = Counter()
        let taken = await withTaskGroup(of: Int.self) { group in
            group.addTask {
                for granule in 0..<granules {
                    map.mark(ByteRange(offset: UInt64(granule) * 4 * KiB, count: 4 * KiB))
                    marked.value.store(granule + 1, ordering: .releasing)
                }
                return 0
            }
            group.addTask {
                var count = 0
                while true {
                    let position = marked.value.load(ordering: .acquiring)
                    if position == granules { return count }
                    let word = UInt64(position & ~63)
                    let range = ByteRange(offset: word * 4 * KiB, count: 64 * 4 * KiB)
                    for run in map.take(in: range, limit: 64).runs { count += Int(run.count / (4 * KiB)) }
                }
            }
            return await group.reduce(0, +)
        }
        let left = takeAll(map, limit: 64).reduce(0) { $0 + Int($1.count / (4 * KiB)) }
        #expect(taken + left == granules)
    }
}

private final class Counter: Sendable {
    let value = Atomic<Int>(0)
}

private final class Values: Sendable {
    nonisolated(unsafe) private let words: UnsafeMutablePointer<Atomic<Int>>
    init(count: Int) {
        words = .allocate(capacity: count)
        for index in 0..<count { (words + index).initialize(to: Atomic(0)) }
    }
    deinit { words.deallocate() }
    // Relaxed on purpose: the order must come from the bitmap.
    func increment(_ index: Int) { words[index].add(1, ordering: .relaxed) }
    func value(_ index: Int) -> Int { words[index].load(ordering: .relaxed) }
}

struct SplitMix {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
