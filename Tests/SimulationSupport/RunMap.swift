/// A value for every number from 0 up, kept as runs of equal values.
public struct RunMap<Value: Equatable & Sendable>: Sendable {
    /// Where each run starts; the first one at 0.
    private var starts: [Int] = [0]
    private var values: [Value]

    public init(_ value: Value) { values = [value] }

    public var runCount: Int { starts.count }

    private func index(of position: Int) -> Int {
        var (low, high) = (0, starts.count)
        while high - low > 1 {
            let middle = (low + high) / 2
            if starts[middle] <= position { low = middle } else { high = middle }
        }
        return low
    }

    public subscript(position: Int) -> Value { values[index(of: position)] }

    /// Calls `body` with the runs of the range, cut to it.
    public func forEachRun<E: Error>(in range: Range<Int>, _ body: (Range<Int>, Value) throws(E) -> Void) throws(E) {
        guard !range.isEmpty else { return }
        var run = index(of: range.lowerBound)
        while run < starts.count, starts[run] < range.upperBound {
            let end = run + 1 < starts.count ? starts[run + 1] : Int.max
            try body(max(starts[run], range.lowerBound)..<min(end, range.upperBound), values[run])
            run += 1
        }
    }

    public func runs(in range: Range<Int>) -> [(range: Range<Int>, value: Value)] {
        var found: [(range: Range<Int>, value: Value)] = []
        forEachRun(in: range) { found.append(($0, $1)) }
        return found
    }

    public mutating func set(_ range: Range<Int>, _ value: Value) { update(range) { _ in value } }

    /// Changes what the range has.
    public mutating func update(_ range: Range<Int>, _ change: (Value) -> Value) {
        guard !range.isEmpty else { return }
        let first = index(of: range.lowerBound)
        let last = index(of: range.upperBound - 1)
        var newStarts: [Int] = []
        var newValues: [Value] = []
        func add(_ start: Int, _ value: Value) {
            if newValues.last == value { return }
            newStarts.append(start)
            newValues.append(value)
        }
        if first > 0 { add(starts[first - 1], values[first - 1]) }
        if starts[first] < range.lowerBound { add(starts[first], values[first]) }
        for run in first...last { add(max(starts[run], range.lowerBound), change(values[run])) }
        let end = last + 1 < starts.count ? starts[last + 1] : Int.max
        if end > range.upperBound { add(range.upperBound, values[last]) }
        var upTo = last + 1
        if upTo < starts.count {
            add(starts[upTo], values[upTo])
            upTo += 1
        }
        let from = first > 0 ? first - 1 : first
        starts.replaceSubrange(from..<upTo, with: newStarts)
        values.replaceSubrange(from..<upTo, with: newValues)
    }
}
