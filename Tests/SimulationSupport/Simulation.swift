import TestSupport

/// One run of a world, and what came of it.
public struct Simulation: Sendable {
    public enum World: Sendable, CustomStringConvertible {
        case disk(WorldShape)
        case store(StoreShape)
        case migration(MigrationShape)

        public var description: String {
            switch self {
            case .disk(let shape): "a disk: \(shape)"
            case .store(let shape): "a store: \(shape)"
            case .migration(let shape): "a migration: \(shape)"
            }
        }
    }

    public var seed: UInt64
    public var world: World
    public var steps: [Step]
    public var isTraced = false

    public init(seed: UInt64) {
        self.seed = seed
        var random = SeededRandom(seed: seed)
        if seed % 5 == 0 {
            let shape = StoreShape(random: &random)
            world = .store(shape)
            steps = shape.steps(10 + random.below(40), random: &random)
            return
        }
        if seed % 10 == 9 {
            let shape = MigrationShape(random: &random)
            world = .migration(shape)
            steps = shape.steps(8 + random.below(20), random: &random)
            return
        }
        var shape = WorldShape(random: &random)
        if seed % 5 < 3 {
            let theme = StepTheme.allCases[random.below(StepTheme.allCases.count)]
            theme.prepare(&shape, &random)
            world = .disk(shape)
            var generator = StepGenerator(shape, random: random)
            steps = generator.steps(theme)
            return
        }
        world = .disk(shape)
        var generator = StepGenerator(shape, random: random)
        steps = generator.steps(12 + Int(seed % 6) * 16)
    }

    public struct Outcome: Sendable {
        public var finding: String?
        public var log: [String] = []
        public var done: [String: Int] = [:]
    }

    public func run() -> Outcome {
        let scheduler = Scheduler(seed: seed)
        var outcome: Outcome
        switch world {
        case .disk(let shape):
            let world: DiskWorld
            do { world = try DiskWorld(shape, scheduler) } catch { return Outcome(finding: "\(error)") }
            world.isTracing = isTraced
            scheduler.run { [steps, seed] in world.run(steps, seed: seed) }
            outcome = Outcome(finding: world.finding?.description, log: world.log, done: world.done)
        case .migration(let shape):
            let world = MigrationWorld(shape, scheduler)
            world.isTracing = isTraced
            scheduler.run { [steps, seed] in world.run(steps, seed: seed) }
            outcome = Outcome(finding: world.finding?.description, log: world.log, done: world.done)
        case .store(let shape):
            let world = StoreWorld(shape, scheduler)
            world.isTracing = isTraced
            scheduler.run { [steps, seed] in world.run(steps, seed: seed) }
            outcome = Outcome(finding: world.finding?.description, log: world.log, done: world.done)
        }
        if let failure = scheduler.failure, outcome.finding == nil { outcome.finding = failure }
        return outcome
    }

    /// The steps that are left, by their numbers; `f` for one without its fault, `s` for one that is not stopped.
    public var list: String {
        let all = Simulation(seed: seed).steps
        return steps.map { step in
            let old = all[step.number]
            return "\(step.number)" + (old.fault != nil && step.fault == nil ? "f" : "")
                + (old.stop != nil && step.stop == nil ? "s" : "")
        }.joined(separator: ",")
    }

    /// Leaves only those of a ``list``.
    public mutating func keep(_ list: String) {
        let all = Simulation(seed: seed).steps
        steps = list.split(separator: ",").compactMap { item in
            guard let number = Int(item.prefix { $0.isNumber }), all.indices.contains(number) else { return nil }
            var step = all[number]
            if item.contains("f") { step.fault = nil }
            if item.contains("s") { step.stop = nil }
            return step
        }
    }

    /// Leaves out steps as long as the run still fails, and returns what is left.
    public func shrunk(within runsMax: Int = 300, _ fails: (Simulation) -> Bool) -> Simulation {
        var best = self
        var runs = 0
        func stillFails(_ candidate: Simulation) -> Bool {
            runs += 1
            return runs <= runsMax && fails(candidate)
        }
        var size = max(1, best.steps.count / 2)
        while runs <= runsMax {
            var start = 0
            var isSmaller = false
            while start < best.steps.count {
                var candidate = best
                candidate.steps.removeSubrange(start..<min(start + size, best.steps.count))
                if stillFails(candidate) {
                    best = candidate
                    isSmaller = true
                } else {
                    start += size
                }
            }
            if size == 1, !isSmaller { break }
            if !isSmaller { size = max(1, size / 2) }
            size = max(1, min(size, best.steps.count))
        }
        // Then what goes wrong without need.
        for index in best.steps.indices {
            var candidate = best
            candidate.steps[index].fault = nil
            if best.steps[index].fault != nil, stillFails(candidate) { best = candidate }
            candidate = best
            candidate.steps[index].stop = nil
            if best.steps[index].stop != nil, stillFails(candidate) { best = candidate }
        }
        return best
    }
}
