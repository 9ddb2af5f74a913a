import SystemPackage
public import TestSupport

/// The world of several hosts and one store.
public struct StoreShape: Sendable, CustomStringConvertible {
    public var hosts: Int
    public var diskBytes: Int
    public var chunkBytes: Int
    public var indexEntriesMax: Int
    public var pointsPerSwitch: Int

    public init(random: inout SeededRandom) {
        hosts = 1 + random.below(3)
        chunkBytes = 4096 << (2 * random.below(2))
        diskBytes = 200_000 + random.below(4) * 150_000
        indexEntriesMax = [4, 8, 32, 32768][random.below(4)]
        pointsPerSwitch = [2, 4, 16, 1000][random.below(4)]
    }

    public var description: String {
        "\(hosts) hosts with disks of \(diskBytes) bytes, chunks of \(chunkBytes), an index after \(indexEntriesMax), "
            + "a switch in \(pointsPerSwitch) calls"
    }

    /// Makes the steps of a run.
    func steps(_ count: Int, random: inout SeededRandom) -> [Step] {
        let hasErrors = random.oneIn(3)
        let hasKills = !random.oneIn(3)
        let hasDamage = random.oneIn(3)
        return (0..<count).map { number in
            let action: Step.Action =
                switch random.below(100) {
                case 0..<30: .change(1 + random.below(8))
                case 30..<65: .backup(0, incremental: !random.oneIn(4))
                case 65..<78: .restore(random.below(32))
                case 78..<86: .verify
                case 86..<91: hasDamage ? .damage(random.below(1 << 20)) : .verify
                case 91..<93: .clock(Int64(random.below(7_200_000)) * 1_000_000 - 3_600_000_000_000)
                case 93..<96: hasKills ? .cut(Self.survival(&random)) : .change(3)
                default: hasKills ? .kill : .change(3)
                }
            var step = Step(number: number, lane: random.below(hosts), action: action)
            if random.oneIn(6) { step.stop = 1 + random.below(6) }
            if random.oneIn(5) {
                let at = 1 + random.below(random.oneIn(2) ? 20 : 120)
                if hasErrors, random.oneIn(2) {
                    let kind: StepFault.Kind =
                        [.error(.ioError), .error(.noSpace), .torn(.ioError), .dropped][random.below(4)]
                    step.fault = StepFault(kind: kind, number: at, count: 1 + random.below(3))
                } else if hasKills {
                    step.fault = StepFault(
                        kind: random.oneIn(2) ? .kill : .cut(Self.survival(&random)), number: at)
                }
            }
            return step
        }
    }

    private static func survival(_ random: inout SeededRandom) -> Survival {
        switch random.below(5) {
        case 0: .nothing
        case 1: .everything
        case 2: .prefix(seed: random.next())
        default: .random(seed: random.next())
        }
    }
}
