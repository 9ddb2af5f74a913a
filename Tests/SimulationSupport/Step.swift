public import SystemPackage
public import TestSupport

/// What goes wrong while a step runs, at the so many-th call that it makes of the kinds in question.
public struct StepFault: Sendable, CustomStringConvertible {
    public enum Kind: Sendable {
        case error(Errno)
        case torn(Errno)
        /// A synchronization fails and drops what was pending.
        case dropped
        /// The power of the step's host goes.
        case cut(Survival)
        /// The step's process dies.
        case kill
    }
    public var kind: Kind
    public var number: Int
    /// How many calls in a row it meets.
    public var count = 1

    var calls: Set<FaultPlan.Call> {
        switch kind {
        case .error(.noSpace): FaultPlan.Call.taking
        case .error: FaultPlan.Call.changes.union([.read, .look])
        case .torn: [.write]
        case .dropped: [.synchronize]
        case .cut, .kill: FaultPlan.Call.changes.union([.read, .look])
        }
    }

    public var description: String {
        let what =
            switch kind {
            case .error(.noSpace): "no space"
            case .error: "an I/O error"
            case .torn: "a torn write"
            case .dropped: "a failed sync that drops"
            case .cut(let survival): "a power cut (\(survival))"
            case .kill: "a kill"
            }
        return "\(what) at call \(number)" + (count > 1 ? " and \(count - 1) more" : "")
    }
}

/// One thing that somebody does. Steps of a lane follow each other; lanes run beside each other.
public struct Step: Sendable, CustomStringConvertible {
    public enum Action: Sendable {
        case write(sector: Int, count: Int, durable: Bool)
        case zero(sector: Int, count: Int, mayDiscard: Bool)
        case discard(sector: Int, count: Int)
        case read(sector: Int, count: Int)
        case flush
        /// A sector in each of so many clusters.
        case scatter(cluster: Int, count: Int)
        case prepare, commit, abandon
        /// Prepares and commits.
        case snapshot
        case delete(Int)
        case grow(Int)
        case compact
        /// Closes, checks, and opens again.
        case reopen
        /// Follows the disk like a migration does, and compares the copy while writes are held.
        case follow(rounds: Int)
        /// Reads a snapshot as another process.
        case readFrozen(Int)
        /// Backs a snapshot up as another process; the number says whether it is incremental.
        case backup(Int, incremental: Bool)
        case restore(Int)
        /// A host's disk gets new content in so many places.
        case change(Int)
        case verify
        /// A file of the store is spoiled or gone; the number says which and how.
        case damage(Int)
        /// The disk is moved to one of the target's folders; the link is cut after so many messages, if any.
        case migrate(Int, messages: Int)
        case recover(messages: Int)
        /// Waits until other lanes have done what comes before it in the list.
        case meet
        case clock(Int64)
        case cut(Survival)
        case kill
    }

    /// Its number in the run's list: what it decides by chance depends on it, and not on the steps before.
    public var number: Int
    public var lane: Int
    public var action: Action
    /// Stops at that call of `progress`.
    public var stop: Int?
    public var fault: StepFault?

    public var description: String {
        var text = "\(number) lane \(lane): \(action)"
        if let stop { text += ", stopped at progress \(stop)" }
        if let fault { text += ", \(fault)" }
        return text
    }
}

/// The world that steps happen in.
public struct WorldShape: Sendable, CustomStringConvertible {
    public var clusterShift: Int
    public var deviceClusters: Int
    public var direct: Bool
    public var finishInBackground: Bool
    public var reserveAheadClusters: Int
    public var partialClustersMax: Int
    public var pointsPerSwitch: Int
    public var guests: Int
    public var maintainers: Int
    public var readers: Int
    public var chunkBytes: Int
    /// Clusters that requests begin in.
    public var hot: [Int]

    public var clusterBytes: Int { 1 << clusterShift }
    public var clusterSectors: Int { clusterBytes / Pattern.sectorBytes }
    public var byteCount: Int { deviceClusters * clusterBytes }
    public var description: String {
        "\(deviceClusters) clusters of \(clusterBytes >> 10) KiB, \(direct ? "direct" : "buffered"), "
            + "\(guests) guests, \(maintainers) maintainers, \(readers) readers, a switch in \(pointsPerSwitch) calls"
    }

    /// The lanes: guests, who work on the stack, then other processes.
    var lanes: Int { guests + maintainers + readers }
    func isOwners(_ lane: Int) -> Bool { lane < guests + maintainers }
}

extension WorldShape {
    public init(random: inout SeededRandom) {
        clusterShift = [15, 15, 15, 15, 16, 18, 20, 21, 22][random.below(9)]
        direct = !random.oneIn(3)
        finishInBackground = !random.oneIn(3)
        reserveAheadClusters = [1, 4, 16][random.below(3)]
        partialClustersMax = random.oneIn(3) ? 2 : 1000
        pointsPerSwitch = [2, 4, 8, 40, 1000][random.below(5)]
        guests = 1 + random.below(3)
        maintainers = 1 + random.below(2)
        readers = random.oneIn(4) ? 0 : 1 + random.below(2)
        chunkBytes = 4096 << (2 * random.below(3))
        // Pages of 1024 slots; sixteen apart they share a part of the map, which keeps four.
        let pages = [1, 1, 3, 16 * 6, 16 * 6][random.below(clusterShift > 18 ? 3 : 5)]
        deviceClusters = pages == 1 ? 20 + random.below(200) : pages * 1024 - 30 - random.below(40)
        if clusterShift > 20 { deviceClusters = min(deviceClusters, 1500) }
        hot = []
        let spots = 3 + random.below(5)
        for spot in 0..<spots {
            let page = pages < 16 ? random.below(pages) : (spot < spots - 1 ? spot % 6 * 16 : random.below(pages))
            let slot = [0, 1, 1000, 1007, random.below(1024)][random.below(5)]
            let cluster = min(page * 1024 + slot, deviceClusters - 1)
            for offset in 0...random.below(clusterShift > 18 ? 2 : 6) {
                hot.append(min(cluster + offset, deviceClusters - 1))
            }
        }
        hot = Array(Set(hot)).sorted()
    }
}
