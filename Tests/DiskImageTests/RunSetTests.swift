import TestSupport
import Testing

@testable import DiskImage

@Suite struct RunSetTests {
    @Test("a set of runs agrees with a set of numbers, whatever is put in and taken out") func model() {
        var random = SeededRandom("a set of runs")
        for round in 0..<40 {
            var set = RunSet(runsMax: round % 4 == 0 ? 8 : 10_000)
            var model = Set<UInt64>()
            for _ in 0..<600 {
                switch random.below(8) {
                case 0..<3:
                    let start = UInt64(random.below(1000))
                    let run = start..<start + UInt64(random.below(5))
                    guard model.isDisjoint(with: run) else { continue }
                    if set.insert(run) { model.formUnion(run) } else { #expect(set.runs.count == set.runsMax) }
                case 3..<6:
                    let lowest = model.min()
                    #expect(set.popFirst() == lowest)
                    if let lowest { model.remove(lowest) }
                case 6:
                    guard random.oneIn(4) else { continue }
                    let bound = UInt64(random.below(1000))
                    set.removeAll(below: bound)
                    model = model.filter { $0 >= bound }
                default:
                    guard let last = set.runs.last, random.oneIn(4) else { continue }
                    #expect(set.popRun(endingAt: last.upperBound + 1) == nil)
                    #expect(set.popRun(endingAt: last.upperBound) == last.lowerBound)
                    model.subtract(last)
                }
                #expect(set.count == UInt64(model.count) && set.isEmpty == model.isEmpty)
                #expect(set.runs.flatMap { Array($0) } == model.sorted())
                for (run, next) in zip(set.runs, set.runs.dropFirst()) where run.upperBound >= next.lowerBound {
                    Issue.record("runs that touch: \(run), \(next)")
                }
            }
        }
    }
}
