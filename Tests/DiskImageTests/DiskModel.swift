import BlockIO
import Geometry
import LinuxSystem
import TestSupport

@testable import DiskImage

/// A disk on a file system, and what each of its sectors may hold. A written sector carries a tag that is its own.
final class DiskModel {
    enum Step: CustomStringConvertible {
        case write(sector: Int, count: Int, durable: Bool)
        case zero(sector: Int, count: Int, mayDiscard: Bool)
        case discard(sector: Int, count: Int)
        case flush
        case snapshot
        case abandon
        case delete(Int)
        case grow(UInt64)
        case reopen

        var description: String {
            switch self {
            case .write(let sector, let count, let durable): "write \(sector)+\(count)\(durable ? " durable" : "")"
            case .zero(let sector, let count, let mayDiscard):
                "zero \(sector)+\(count)\(mayDiscard ? " may discard" : "")"
            case .discard(let sector, let count): "discard \(sector)+\(count)"
            case .flush: "flush"
            case .snapshot: "snapshot"
            case .abandon: "abandon"
            case .delete(let index): "delete \(index)"
            case .grow(let bytes): "grow \(bytes)"
            case .reopen: "reopen"
            }
        }
    }

    struct Frozen {
        var guid: String
        var live: [Int: UInt32]
        var byteCount: UInt64
    }

    struct Mismatch: Error, CustomStringConvertible {
        var description: String
    }

    static let path = "/disk"
    var fs: SimulatedFileSystem
    let clusterSize: ClusterSize
    var options: DiskOptions
    var disk: Disk?

    var byteCount: UInt64
    /// A size that a grow cut off may have left.
    var sizeWanted: UInt64?
    /// Tag by sector; none: zeros.
    var live: [Int: UInt32] = [:]
    /// What sectors written since the last flush may hold after a crash.
    var possible: [Int: Set<UInt32>] = [:]
    var touched: Set<UInt64> = []
    var frozen: [Frozen] = []
    /// A snapshot that was being made or removed when the power went.
    var uncertain: Frozen?
    private var nextTag: UInt32 = 1

    init(byteCount: UInt64, clusterSize: ClusterSize = .smallest, alignment: Int = 4096) throws {
        fs = SimulatedFileSystem(directAlignment: alignment)
        self.clusterSize = clusterSize
        self.byteCount = byteCount
        options = .standard
        options.finishInBackground = false
        options.mapCacheBytes = 1 << 20
        options.reserveAheadBytes = 8 * clusterSize.bytes
        try createDisk(at: Self.path, options: CreateOptions(byteCount: byteCount, clusterSize: clusterSize), in: fs)
    }

    func open() throws {
        let disk = try Disk.open(Self.path, in: fs, options: options)
        self.disk = disk
        if let wanted = sizeWanted, disk.byteCount == wanted { byteCount = wanted }
        sizeWanted = nil
        guard disk.byteCount == byteCount else {
            throw Mismatch(description: "size \(disk.byteCount) for \(byteCount)")
        }
    }

    func current() throws -> Disk {
        guard let disk else { throw Mismatch(description: "no disk is open") }
        return disk
    }

    static func bytes(tag: UInt32, sector: Int, into memory: UnsafeMutableRawBufferPointer) {
        let word = tag == 0 ? 0 : UInt64(tag) << 32 | UInt64(UInt32(truncatingIfNeeded: sector))
        for offset in stride(from: 0, to: 512, by: 8) {
            memory.storeBytes(of: word, toByteOffset: offset, as: UInt64.self)
        }
    }

    // MARK: Steps

    func apply(_ step: Step) throws {
        switch step {
        case .write(let sector, let count, let durable):
            let tag = nextTag
            nextTag += 1
            var data = [UInt8](repeating: 0, count: count * 512)
            data.withUnsafeMutableBytes { memory in
                for index in 0..<count {
                    Self.bytes(
                        tag: tag, sector: sector + index,
                        into: UnsafeMutableRawBufferPointer(rebasing: memory[index * 512..<(index + 1) * 512]))
                }
            }
            note(sector..<sector + count, tag)
            let disk = try current()
            try data.withUnsafeBytes { try disk.write(at: UInt64(sector) * 512, from: $0, durable: durable) }
            set(sector..<sector + count, tag)
            if durable { for index in sector..<sector + count { possible[index] = nil } }
        case .zero(let sector, let count, let mayDiscard):
            note(sector..<sector + count, 0)
            try current().writeZeroes(
                ByteRange(offset: UInt64(sector) * 512, count: UInt64(count) * 512), mayDiscard: mayDiscard)
            set(sector..<sector + count, 0)
        case .discard(let sector, let count):
            note(sector..<sector + count, 0)
            try current().discard(ByteRange(offset: UInt64(sector) * 512, count: UInt64(count) * 512))
            try takeOver(sector..<sector + count)
        case .flush:
            try current().flush()
            possible = [:]
        case .snapshot:
            let prepared = try current().prepareSnapshot()
            uncertain = Frozen(guid: prepared.guid, live: live, byteCount: byteCount)
            do { _ = try current().commitSnapshot(prepared) } catch {
                try current().abandonSnapshot(prepared)
                throw error
            }
            possible = [:]
            if let made = uncertain { frozen.append(made) }
            uncertain = nil
        case .abandon:
            let disk = try current()
            disk.abandonSnapshot(try disk.prepareSnapshot())
        case .delete(let index):
            guard !frozen.isEmpty else { return }
            uncertain = frozen.remove(at: index % frozen.count)
            guard let guid = uncertain?.guid else { return }
            guard try current().deleteSnapshot(guid) else { throw Mismatch(description: "delete stopped") }
            uncertain = nil
        case .grow(let bytes):
            guard bytes > byteCount else { return }
            sizeWanted = bytes.roundedUp(toMultipleOf: clusterSize.bytes)
            try current().grow(to: bytes)
            byteCount = try current().byteCount
            sizeWanted = nil
        case .reopen:
            try close()
            try open()
        }
    }

    func close() throws {
        try disk?.close()
        disk = nil
        possible = [:]
    }

    /// What the sectors held may stay, and what they are to hold may come.
    private func note(_ sectors: Range<Int>, _ tag: UInt32) {
        for sector in sectors {
            possible[sector, default: [live[sector] ?? 0]].insert(tag)
            touched.insert(UInt64(sector) * 512 / clusterSize.bytes)
        }
    }

    private func set(_ sectors: Range<Int>, _ tag: UInt32) {
        for sector in sectors { live[sector] = tag == 0 ? nil : tag }
    }

    // MARK: Looks

    /// The tags of sectors, each of which must be whole.
    private func tags(
        _ sectors: Range<Int>, _ read: (UInt64, UnsafeMutableRawBufferPointer) throws -> Void
    ) throws -> [UInt32] {
        var data = [UInt8](repeating: 0xEE, count: sectors.count * 512)
        return try data.withUnsafeMutableBytes { memory in
            try read(UInt64(sectors.lowerBound) * 512, memory)
            return try sectors.map { sector in
                let base = (sector - sectors.lowerBound) * 512
                let first = memory.load(fromByteOffset: base, as: UInt64.self)
                for offset in stride(from: 8, to: 512, by: 8)
                where memory.load(fromByteOffset: base + offset, as: UInt64.self) != first {
                    throw Mismatch(description: "sector \(sector) is torn")
                }
                guard first == 0 || UInt32(truncatingIfNeeded: first) == UInt32(sector) else {
                    throw Mismatch(description: "sector \(sector) holds that of \(UInt32(truncatingIfNeeded: first))")
                }
                return UInt32(first >> 32)
            }
        }
    }

    /// Takes what is there for the truth where more than one thing may be.
    func takeOver(_ sectors: Range<Int>) throws {
        let disk = try current()
        let found = try tags(sectors) { try disk.read(at: $0, into: $1) }
        for (sector, tag) in zip(sectors, found) {
            let allowed = possible[sector] ?? [live[sector] ?? 0]
            guard allowed.contains(tag) else {
                throw Mismatch(description: "sector \(sector) holds \(tag), not one of \(allowed.sorted())")
            }
            live[sector] = tag == 0 ? nil : tag
        }
    }

    private func sectors(of cluster: UInt64, below bytes: UInt64) -> Range<Int> {
        let start = cluster * clusterSize.bytes / 512
        return Int(start)..<Int(max(start, min(start + clusterSize.bytes / 512, bytes / 512)))
    }

    /// Everything that was ever touched reads as it should.
    func verify() throws {
        let disk = try current()
        for cluster in touched.sorted() {
            let range = sectors(of: cluster, below: byteCount)
            let found = try tags(range) { try disk.read(at: $0, into: $1) }
            for (sector, tag) in zip(range, found) where tag != live[sector] ?? 0 {
                throw Mismatch(description: "sector \(sector) holds \(tag), not \(live[sector] ?? 0)")
            }
        }
        try verifySnapshots()
    }

    func verifySnapshots() throws {
        for state in frozen {
            let view = try FrozenState.open(Self.path, snapshot: state.guid, in: fs)
            guard view.byteCount == state.byteCount else {
                throw Mismatch(description: "snapshot has \(view.byteCount) bytes for \(state.byteCount)")
            }
            for cluster in touched.sorted() {
                let range = sectors(of: cluster, below: state.byteCount)
                if range.isEmpty { continue }
                let found = try tags(range) { try view.read(at: $0, into: $1) }
                for (sector, tag) in zip(range, found) where tag != state.live[sector] ?? 0 {
                    throw Mismatch(
                        description:
                            "sector \(sector) of snapshot \(state.guid) holds \(tag), not \(state.live[sector] ?? 0)")
                }
            }
        }
    }

    // MARK: Crashes

    /// Cuts the power, starts anew, and checks that nothing flushed is lost.
    func crash(_ survival: Survival) throws {
        disk = nil
        fs = fs.afterPowerCut(survival)
        try open()
        try settleUncertain()
        for cluster in touched.sorted() { try takeOver(sectors(of: cluster, below: byteCount)) }
        possible = [:]
        try verifySnapshots()
    }

    func settleUncertain() throws {
        let states = try current().snapshots()
        let present = Set(states.filter { !$0.isTemporary }.map(\.guid))
        for state in frozen where !present.contains(state.guid) {
            throw Mismatch(description: "snapshot \(state.guid) is lost")
        }
        if let state = uncertain, present.contains(state.guid) { frozen.append(state) }
        uncertain = nil
        // A merge that was cut off goes on.
        for state in states where state.isTemporary {
            // One that went with another is no failure.
            do { try current().deleteSnapshot(state.guid) } catch let error as DiskError where error.code == .notFound {
            }
        }
        guard try !current().snapshots().contains(where: \.isTemporary) else {
            throw Mismatch(description: "a temporary snapshot stays")
        }
    }

    /// The disk's files are sound and tidy once it was closed.
    func check() throws {
        let report = try checkDisk(at: Self.path, in: fs)
        let all = report.images.flatMap(\.findings) + report.findings
        let bad = all.filter { $0.kind != .leak }
        guard report.isSound, bad.isEmpty else {
            throw Mismatch(description: "check: \(bad.map(\.message))")
        }
    }
}

extension DiskModel {
    /// Random steps, mostly writes of a few sectors.
    static func steps(
        _ count: Int, sectors: Int, clusterSectors: Int, snapshots: Bool, random: inout SeededRandom
    ) -> [Step] {
        (0..<count).map { _ in
            let length: Int
            switch random.below(10) {
            case 0..<5: length = random.below(16) + 1
            case 5..<8: length = 8 * (random.below(8) + 1)
            default: length = clusterSectors * (random.below(3) + 1)
            }
            var sector = random.below(sectors)
            if length >= 8 { sector &= ~7 }
            if length >= clusterSectors, !random.oneIn(3) { sector -= sector % clusterSectors }
            let count = min(length, sectors - sector)
            switch random.below(100) {
            case 0..<52: return .write(sector: sector, count: count, durable: random.oneIn(12))
            case 52..<60: return .zero(sector: sector, count: count, mayDiscard: !random.oneIn(4))
            case 60..<72: return .discard(sector: sector, count: count)
            case 72..<86: return .flush
            case 86..<89: return .reopen
            case 89..<94: return snapshots ? .snapshot : .flush
            case 94..<98: return snapshots ? .delete(random.below(8)) : .flush
            default: return snapshots ? .abandon : .flush
            }
        }
    }
}
