import SystemPackage
import TestSupport

/// Courses of steps that lead to where two operations meet: chance alone seldom gets there. What exactly happens, where
/// it is stopped and who goes on when comes from the seed all the same.
enum StepTheme: CaseIterable {
    /// A merge is stopped, its child changes, and it goes on.
    case stoppedMerge
    /// Clusters are moved while snapshots are taken and merged.
    case compaction
    /// A lower table has to become longer while others read the files.
    case lowerGrow
    /// Large reads while the chain changes.
    case largeReads
    /// A merge fails somewhere, and another one follows.
    case failingMerge
    /// Clusters of several pieces, with zeros in front and behind.
    case largeClusters
    /// Backups that follow each other, each from the one before, while older states are merged.
    case backups

    /// Makes the world fit.
    func prepare(_ shape: inout WorldShape, _ random: inout SeededRandom) {
        shape.guests = max(shape.guests, 2)
        shape.maintainers = 2
        switch self {
        case .stoppedMerge:
            shape.clusterShift = 15
            shape.deviceClusters = 3 * 1024
            shape.hot = [0, 1000, 1007, 1008, 2031, 2032, 3000].map { $0 + random.below(3) }
        case .lowerGrow:
            shape.clusterShift = 15
            // One more cluster of the table begins with entry 8176.
            shape.deviceClusters = 8100 + random.below(76)
            shape.hot = [0, 1, 5, 700, 8000, 8090].map { $0 + random.below(3) }
            shape.readers = max(1, shape.readers)
        case .largeClusters:
            shape.clusterShift = 21 + random.below(2)
            shape.deviceClusters = 40
            shape.hot = Array(0..<6)
        case .backups:
            shape.readers = 2
        case .compaction, .largeReads, .failingMerge:
            // A top is merged with writes held unless it has more than 16 clusters and 32 MiB.
            shape.clusterShift = [15, 15, 20, 21][random.below(4)]
            shape.deviceClusters = min(shape.deviceClusters, 3000)
            shape.hot = shape.hot.map { min($0, shape.deviceClusters - 1) }
        }
    }

    /// What is done: each lane's steps are in order, the lanes run beside each other.
    func actions(_ shape: WorldShape, _ random: inout SeededRandom) -> [(lane: Int, action: Step.Action)] {
        var plan = ThemePlan(shape, random)
        switch self {
        case .stoppedMerge: plan.stoppedMerge()
        case .compaction: plan.compaction()
        case .lowerGrow: plan.lowerGrow()
        case .largeReads: plan.largeReads()
        case .failingMerge: plan.failingMerge()
        case .largeClusters: plan.largeClusters()
        case .backups: plan.backups()
        }
        random = plan.random
        return plan.list
    }
}

/// The steps of a theme, as they are made.
private struct ThemePlan {
    let shape: WorldShape
    var random: SeededRandom
    var list: [(lane: Int, action: Step.Action)] = []
    private let first: Int
    private let second: Int
    private let reader: Int

    init(_ shape: WorldShape, _ random: SeededRandom) {
        self.shape = shape
        self.random = random
        first = shape.guests
        second = shape.guests + 1
        reader = shape.guests + shape.maintainers
    }

    private mutating func cluster() -> Int { shape.hot[random.below(shape.hot.count)] }
    private mutating func sector() -> Int { cluster() * shape.clusterSectors }
    private mutating func add(_ lane: Int, _ action: Step.Action) { list.append((lane, action)) }
    private mutating func write(_ lane: Int, _ clusters: Int = 1) {
        add(lane, .write(sector: sector(), count: clusters * shape.clusterSectors, durable: false))
    }
    private mutating func small(_ lane: Int) {
        let place = sector() + random.below(shape.clusterSectors)
        add(lane, .write(sector: place, count: 1 + random.below(8), durable: random.oneIn(4)))
    }
    /// All lanes go on from here together.
    private mutating func meet() { for lane in 0..<shape.lanes { add(lane, .meet) } }
    private mutating func scatter(_ lane: Int) {
        add(lane, .scatter(cluster: cluster(), count: 10 + random.below(30)))
    }

    mutating func stoppedMerge() {
        for _ in 0..<3 {
            for _ in 0..<4 { scatter(0) }
            meet()
            add(first, .snapshot)
            meet()
        }
        for _ in 0..<6 {
            add(first, .delete(random.below(2)))
            if random.oneIn(2) { scatter(random.below(2)) } else { small(0) }
            if random.oneIn(3) { add(second, random.oneIn(2) ? .snapshot : .reopen) }
        }
    }

    mutating func compaction() {
        for _ in 0..<6 { write(0, 2 + random.below(3)) }
        for _ in 0..<5 {
            for _ in 0..<3 { add(0, .discard(sector: sector(), count: 2 * shape.clusterSectors)) }
            add(0, .flush)
            meet()
            add(first, .compact)
            add(second, .snapshot)
            small(1)
            write(1)
            meet()
            // What was moved is below a frozen child now, and is merged while the guests go on.
            add(second, .snapshot)
            meet()
            add(first, .delete(random.below(2)))
            for _ in 0..<4 {
                add(1, .read(sector: sector(), count: 2 * shape.clusterSectors))
                small(0)
            }
        }
    }

    mutating func lowerGrow() {
        for _ in 0..<3 { scatter(0) }
        meet()
        add(first, .snapshot)
        add(first, .grow(100 + random.below(300)))
        meet()
        for _ in 0..<2 { scatter(0) }
        meet()
        add(first, .snapshot)
        meet()
        for _ in 0..<4 {
            add(reader, random.oneIn(2) ? .readFrozen(random.below(3)) : .backup(1, incremental: false))
            add(first, .delete(0))
            small(1)
        }
        add(reader, .restore(0))
    }

    mutating func largeReads() {
        for _ in 0..<3 { scatter(0) }
        for _ in 0..<8 {
            add(0, .read(sector: sector(), count: (1 + random.below(24)) * 2048))
            small(1)
            write(1)
            add(first, random.oneIn(3) ? .delete(0) : .snapshot)
            if random.oneIn(3) { add(second, random.oneIn(2) ? .compact : .delete(1)) }
        }
    }

    mutating func failingMerge() {
        for _ in 0..<4 {
            scatter(0)
            write(0)
            meet()
            add(first, .snapshot)
            meet()
        }
        for _ in 0..<7 {
            add(first, .delete(0))
            small(1)
            add(1, .read(sector: sector(), count: shape.clusterSectors))
        }
    }

    mutating func largeClusters() {
        for _ in 0..<4 {
            for _ in 0..<3 {
                write(0)
                let place = sector()
                add(0, .zero(sector: place, count: shape.clusterSectors, mayDiscard: random.oneIn(2)))
                let inner = place + random.below(shape.clusterSectors)
                add(0, .write(sector: inner, count: 1 + random.below(2048), durable: false))
            }
            meet()
            add(first, .snapshot)
            meet()
            if random.oneIn(2) { add(first, .delete(0)) }
        }
        for _ in 0..<4 { add(first, .delete(0)) }
    }

    mutating func backups() {
        for round in 0..<6 {
            for _ in 0..<3 { small(0) }
            scatter(1)
            meet()
            add(first, .snapshot)
            meet()
            add(reader, .backup(4, incremental: round > 0))
            if round > 1 { add(second, .delete(random.below(2))) }
            if random.oneIn(3) { add(reader + 1, .restore(random.below(4))) }
        }
    }
}

extension Step.Action {
    /// Cut where the device ends.
    func within(_ shape: WorldShape) -> Step.Action {
        let end = shape.byteCount / Pattern.sectorBytes
        func cut(_ sector: Int, _ count: Int) -> (Int, Int) {
            let start = min(sector, end - 1)
            return (start, max(1, min(count, end - start)))
        }
        switch self {
        case .write(let sector, let count, let durable):
            let (start, length) = cut(sector, count)
            return .write(sector: start, count: length, durable: durable)
        case .zero(let sector, let count, let mayDiscard):
            let (start, length) = cut(sector, count)
            return .zero(sector: start, count: length, mayDiscard: mayDiscard)
        case .discard(let sector, let count):
            let (start, length) = cut(sector, count)
            return .discard(sector: start, count: length)
        case .read(let sector, let count):
            let (start, length) = cut(sector, count)
            return .read(sector: start, count: length)
        default: return self
        }
    }
}

extension StepGenerator {
    mutating func steps(_ theme: StepTheme) -> [Step] {
        let actions = theme.actions(shape, &random)
        return actions.enumerated().map { number, item in
            var step = Step(number: number, lane: item.lane, action: item.action.within(shape))
            if random.oneIn(theme == .stoppedMerge ? 2 : 5) { step.stop = 1 + random.below(40) }
            step.fault = fault(theme)
            return step
        }
    }

    private mutating func fault(_ theme: StepTheme) -> StepFault? {
        guard theme == .failingMerge else { return fault() }
        guard random.oneIn(4) else { return nil }
        return StepFault(
            kind: .error(.ioError), number: 1 + random.below(random.oneIn(2) ? 80 : 400), count: 1 + random.below(3))
    }
}
