/// A bounded set of numbers, kept as ascending runs. Taking out the lowest number takes the same time whatever the set
/// holds.
struct RunSet {
    /// Behind the first `start`, which were taken out.
    private var storage: [Range<UInt64>] = []
    private var start = 0
    let runsMax: Int
    /// Numbers in the set.
    private(set) var count: UInt64 = 0

    var runs: ArraySlice<Range<UInt64>> { storage[start...] }

    init(runsMax: Int) { self.runsMax = runsMax }

    var isEmpty: Bool { runs.isEmpty }

    /// Adds a run that is disjoint from the set. - Returns: `false` when the set is full; it is then unchanged.
    @discardableResult mutating func insert(_ run: Range<UInt64>) -> Bool {
        guard !run.isEmpty else { return true }
        let index = firstIndex(endingAtOrAfter: run.lowerBound)
        var merged = run
        var replaced = index..<index
        if index < storage.count, storage[index].upperBound == run.lowerBound {
            merged = storage[index].lowerBound..<merged.upperBound
            replaced = index..<index + 1
        }
        if replaced.upperBound < storage.count, storage[replaced.upperBound].lowerBound == run.upperBound {
            merged = merged.lowerBound..<storage[replaced.upperBound].upperBound
            replaced = replaced.lowerBound..<replaced.upperBound + 1
        }
        guard !replaced.isEmpty || runs.count < runsMax else { return false }
        if replaced.isEmpty, index == start, start > 0 {
            // The place of one that was taken out.
            start -= 1
            storage[start] = merged
        } else {
            storage.replaceSubrange(replaced, with: CollectionOfOne(merged))
        }
        count += UInt64(run.count)
        return true
    }

    /// Takes out the lowest number.
    mutating func popFirst() -> UInt64? {
        guard let first = runs.first else { return nil }
        if first.count == 1 { dropFirst() } else { storage[start] = first.lowerBound + 1..<first.upperBound }
        count -= 1
        return first.lowerBound
    }

    /// Takes out the last run when it ends at `end`. - Returns: where it started.
    mutating func popRun(endingAt end: UInt64) -> UInt64? {
        guard let last = runs.last, last.upperBound == end else { return nil }
        storage.removeLast()
        count -= UInt64(last.count)
        return last.lowerBound
    }

    /// Takes out everything below `bound`.
    mutating func removeAll(below bound: UInt64) {
        while let first = runs.first, first.lowerBound < bound {
            if first.upperBound <= bound {
                dropFirst()
                count -= UInt64(first.count)
            } else {
                storage[start] = bound..<first.upperBound
                count -= bound - first.lowerBound
            }
        }
    }

    private mutating func dropFirst() {
        start += 1
        // Each run is moved as often as half as many were taken out before it: once, on the whole.
        if start > 64, start * 2 > storage.count {
            storage.removeFirst(start)
            start = 0
        }
    }

    private func firstIndex(endingAtOrAfter value: UInt64) -> Int {
        var low = start
        var high = storage.count
        while low < high {
            let middle = (low + high) / 2
            if storage[middle].upperBound < value { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
