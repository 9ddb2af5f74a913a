/// A bounded set of numbers, kept as ascending runs.
struct RunSet {
    private(set) var runs: [Range<UInt64>] = []
    let runsMax: Int
    /// Numbers in the set.
    private(set) var count: UInt64 = 0

    init(runsMax: Int) { self.runsMax = runsMax }

    var isEmpty: Bool { runs.isEmpty }

    /// Adds a run that is disjoint from the set. - Returns: `false` when the set is full; it is then unchanged.
    @discardableResult mutating func insert(_ run: Range<UInt64>) -> Bool {
        guard !run.isEmpty else { return true }
        let index = firstIndex(endingAtOrAfter: run.lowerBound)
        var merged = run
        var replaced = index..<index
        if index < runs.count, runs[index].upperBound == run.lowerBound {
            merged = runs[index].lowerBound..<merged.upperBound
            replaced = index..<index + 1
        }
        if replaced.upperBound < runs.count, runs[replaced.upperBound].lowerBound == run.upperBound {
            merged = merged.lowerBound..<runs[replaced.upperBound].upperBound
            replaced = replaced.lowerBound..<replaced.upperBound + 1
        }
        guard !replaced.isEmpty || runs.count < runsMax else { return false }
        runs.replaceSubrange(replaced, with: CollectionOfOne(merged))
        count += UInt64(run.count)
        return true
    }

    /// Takes out the lowest number.
    mutating func popFirst() -> UInt64? {
        guard let first = runs.first else { return nil }
        if first.count == 1 { runs.removeFirst() } else { runs[0] = first.lowerBound + 1..<first.upperBound }
        count -= 1
        return first.lowerBound
    }

    /// Takes out the last run when it ends at `end`. - Returns: where it started.
    mutating func popRun(endingAt end: UInt64) -> UInt64? {
        guard let last = runs.last, last.upperBound == end else { return nil }
        runs.removeLast()
        count -= UInt64(last.count)
        return last.lowerBound
    }

    /// Takes out everything below `bound`.
    mutating func removeAll(below bound: UInt64) {
        while let first = runs.first, first.lowerBound < bound {
            if first.upperBound <= bound {
                runs.removeFirst()
                count -= UInt64(first.count)
            } else {
                runs[0] = bound..<first.upperBound
                count -= bound - first.lowerBound
            }
        }
    }

    private func firstIndex(endingAtOrAfter value: UInt64) -> Int {
        var low = 0
        var high = runs.count
        while low < high {
            let middle = (low + high) / 2
            if runs[middle].upperBound < value { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
