import SystemPackage
import TestSupport

/// Makes the steps of a run.
struct StepGenerator {
    let shape: WorldShape
    var random: SeededRandom
    /// Whether things go wrong here: errors, cuts, kills, each by itself.
    let hasErrors: Bool
    let hasCuts: Bool
    /// How much more or less often than usual a kind of step comes in this run: many runs do few things often.
    private var weight: [Int: Int] = [:]

    init(_ shape: WorldShape, random: SeededRandom) {
        self.shape = shape
        self.random = random
        hasErrors = self.random.oneIn(3)
        hasCuts = !self.random.oneIn(3)
        guard !self.random.oneIn(4) else { return }
        for kind in Array(0..<6) + Array(10..<22) + Array(30..<33) {
            weight[kind] = [0, 1, 1, 4, 12][self.random.below(5)]
        }
    }

    mutating func steps(_ count: Int) -> [Step] {
        var steps: [Step] = []
        for number in 0..<count {
            var lane = random.below(shape.lanes)
            // Guests do most.
            if random.oneIn(2) { lane = random.below(shape.guests) }
            let action: Step.Action
            if lane < shape.guests {
                action = guest()
            } else if shape.isOwners(lane) {
                action = maintainer()
            } else {
                action = reader()
            }
            var step = Step(number: number, lane: lane, action: action)
            if random.oneIn(3) { step.stop = 1 + random.below(4) }
            step.fault = fault()
            steps.append(step)
        }
        return steps
    }

    mutating func fault() -> StepFault? {
        guard random.oneIn(12) else { return nil }
        let number = 1 + (random.oneIn(3) ? random.below(80) : random.below(12))
        if hasErrors, random.oneIn(2) {
            let kind: StepFault.Kind =
                switch random.below(5) {
                case 0: .error(.ioError)
                case 1, 2: .error(.noSpace)
                case 3: .torn(.ioError)
                default: .dropped
                }
            return StepFault(kind: kind, number: number, count: random.oneIn(4) ? 1 + random.below(20) : 1)
        }
        guard hasCuts, random.oneIn(2) else { return nil }
        return StepFault(kind: random.oneIn(3) ? .kill : .cut(survival()), number: number)
    }

    private mutating func survival() -> Survival {
        switch random.below(5) {
        case 0: .nothing
        case 1: .everything
        case 2: .prefix(seed: random.next())
        default: .random(seed: random.next())
        }
    }

    private mutating func extent() -> (sector: Int, count: Int) {
        let sectors = shape.byteCount / Pattern.sectorBytes
        let cluster = shape.clusterSectors
        var sector = shape.hot[random.below(shape.hot.count)] * cluster
        var count: Int
        switch random.below(20) {
        case 0..<8: count = 1 + random.below(8)
        case 8..<12: count = 8 * (1 + random.below(8))
        case 12..<18: count = cluster * (1 + random.below(3))
        case 18: count = min(1 + random.below(1 << (10 + random.below(5))), 8 * cluster)
        // Up to 32 MiB, now and then.
        default: count = random.oneIn(4) ? 1 + random.below(65536) : 4 * cluster
        }
        if count < cluster || random.oneIn(4) { sector += random.below(cluster) }
        if random.oneIn(2) { sector &= ~7 }
        sector = min(sector, sectors - 1)
        count = max(1, min(count, sectors - sector))
        return (sector, count)
    }

    /// Picks a kind by its weight in this run.
    private mutating func pick(_ kinds: [(kind: Int, weight: Int)]) -> Int {
        let weights = kinds.map { $0.weight * (weight[$0.kind] ?? 1) }
        var rest = random.below(max(1, weights.reduce(0, +)))
        for (index, weight) in weights.enumerated() {
            if rest < weight { return kinds[index].kind }
            rest -= weight
        }
        return kinds[0].kind
    }

    private mutating func guest() -> Step.Action {
        let (sector, count) = extent()
        switch pick([(0, 44), (1, 7), (2, 12), (3, 20), (4, 14), (5, 3)]) {
        case 0: return .write(sector: sector, count: count, durable: random.oneIn(10))
        case 1: return .zero(sector: sector, count: count, mayDiscard: !random.oneIn(3))
        case 2: return .discard(sector: sector, count: count)
        case 3: return .read(sector: sector, count: count)
        case 4: return .flush
        default: return .scatter(cluster: sector / shape.clusterSectors, count: 20 + random.below(40))
        }
    }

    private mutating func maintainer() -> Step.Action {
        switch pick([
            (10, 30), (11, 7), (12, 7), (13, 3), (14, 30), (15, 9), (16, 5), (17, 5), (18, 4), (19, 1), (20, 3),
            (21, 3),
        ]) {
        case 10: .snapshot
        case 11: .prepare
        case 12: .commit
        case 13: .abandon
        case 14: .delete(random.below(random.oneIn(2) ? 1 : 8))
        case 15: .compact
        case 16: .grow(1 + random.below(random.oneIn(2) ? 3 : shape.deviceClusters / 2 + 3))
        case 17: .reopen
        case 18: .follow(rounds: random.below(4))
        case 19: .clock(Int64(random.below(7_200_000)) * 1_000_000 - 3_600_000_000_000)
        case 20: hasCuts ? .cut(survival()) : .snapshot
        default: hasCuts ? .kill : .delete(0)
        }
    }

    private mutating func reader() -> Step.Action {
        switch pick([(30, 40), (31, 40), (32, 20)]) {
        case 30: .readFrozen(random.below(8))
        case 31: .backup(random.below(8), incremental: !random.oneIn(3))
        default: .restore(random.below(16))
        }
    }
}
