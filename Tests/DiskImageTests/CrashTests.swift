import Geometry
import LinuxSystem
import Synchronization
import SystemPackage
import TestSupport
import Testing

@testable import DiskImage

@Suite struct CrashTests {
    private func survivals(_ seed: UInt64) -> [Survival] {
        // What lives through it by halves is the hardest; the rest takes turns.
        [.random(seed: seed), [.nothing, .everything, .prefix(seed: seed)][Int(seed % 3)]]
    }

    @Test("a freed cluster is free when the table without it is durable, and not before") func freed() throws {
        let fs = SimulatedFileSystem()
        let cluster = ClusterSize.smallest.bytes
        try createDisk(
            at: "/disk", options: CreateOptions(byteCount: 64 * cluster, clusterSize: .smallest), in: fs)
        let disk = try Disk.open("/disk", in: fs)
        try [UInt8](repeating: 1, count: Int(cluster)).withUnsafeBytes { try disk.write(at: 0, from: $0) }
        try disk.flush()
        try disk.discard(ByteRange(offset: 0, count: cluster))
        let allocator = try #require(disk.gate.chain.writable?.allocator)
        let seen = Mutex<[UInt64]>([])
        fs.setObserver { call, _ in
            if call == .synchronize { seen.withLock { $0.append(allocator.freeCount) } }
            return nil
        }
        try disk.flush()
        fs.setObserver(nil)
        // Before the data's flush, and before the table's.
        #expect(seen.withLock { $0 } == [0, 0])
        #expect(allocator.freeCount == 1)
        try disk.close()
    }

    /// Runs `steps` with the power cut at the 1st, 2nd, … change, and looks at what is left.
    private func cutEverywhere(
        _ steps: [DiskModel.Step], stride: Int = 1, byteCount: UInt64 = 2 << 20, prepare: [DiskModel.Step] = []
    ) throws {
        let whole = try run(prepare, steps, byteCount, cutAt: nil, .nothing)
        #expect(whole.changes > 0)
        var number = 1
        while number <= whole.changes {
            for survival in survivals(UInt64(number)) {
                do {
                    _ = try run(prepare, steps, byteCount, cutAt: number, survival)
                } catch {
                    Issue.record("cut at \(number) of \(whole.changes), \(survival): \(error)")
                    return
                }
            }
            number += stride
        }
    }

    private func run(
        _ prepare: [DiskModel.Step], _ steps: [DiskModel.Step], _ byteCount: UInt64, cutAt number: Int?,
        _ survival: Survival
    ) throws -> (changes: Int, model: DiskModel) {
        let model = try DiskModel(byteCount: byteCount)
        try model.open()
        for step in prepare { try model.apply(step) }
        let before = model.fs.changeCount
        if let number { model.fs.setPlan(.stop(atChange: number)) }
        var changes = 0
        do {
            for step in steps { try model.apply(step) }
            try model.verify()
            try model.close()
            changes = model.fs.changeCount - before
            try model.check()
            return (changes, model)
        } catch let error as DiskError {
            guard model.fs.isStopped else { throw error }
        } catch let error as SystemError {
            guard model.fs.isStopped else { throw error }
        }
        try model.crash(survival)
        // It goes on working.
        try model.apply(.write(sector: 3, count: 70, durable: false))
        try model.apply(.flush)
        try model.verify()
        try model.close()
        try model.check()
        try model.open()
        try model.verify()
        try model.close()
        return (changes, model)
    }

    @Test("flushed data survives a cut at any change: allocation and overwriting")
    func allocation() throws {
        try cutEverywhere([
            .write(sector: 0, count: 8, durable: false), .flush, .write(sector: 130, count: 3, durable: false),
            .write(sector: 4, count: 100, durable: false), .flush, .write(sector: 640, count: 64, durable: true),
            .write(sector: 0, count: 64, durable: false), .reopen, .write(sector: 800, count: 8, durable: false),
            .flush,
        ])
    }

    @Test("flushed data survives a cut at any change: discard, zeros and reuse")
    func discard() throws {
        try cutEverywhere(
            [
                .discard(sector: 64, count: 128), .write(sector: 1024, count: 80, durable: false), .flush,
                .write(sector: 1280, count: 64, durable: false), .zero(sector: 256, count: 96, mayDiscard: true),
                .zero(sector: 384, count: 64, mayDiscard: false), .flush,
                .write(sector: 1408, count: 200, durable: true),
                .discard(sector: 0, count: 700), .flush, .write(sector: 64, count: 3, durable: false), .reopen,
            ], prepare: [.write(sector: 0, count: 768, durable: false), .flush])
    }

    @Test("flushed data and snapshots survive a cut at any change of a snapshot")
    func snapshot() throws {
        try cutEverywhere(
            [
                .write(sector: 2, count: 90, durable: false), .snapshot, .write(sector: 64, count: 10, durable: false),
                .discard(sector: 128, count: 64), .flush, .snapshot, .write(sector: 70, count: 4, durable: true),
            ], prepare: [.write(sector: 0, count: 300, durable: false)])
    }

    @Test("flushed data and snapshots survive a cut at any change of a merge")
    func merge() throws {
        try cutEverywhere(
            [
                .delete(0), .write(sector: 500, count: 9, durable: true), .delete(0),
                .write(sector: 0, count: 9, durable: true),
            ],
            prepare: [
                .write(sector: 0, count: 300, durable: false), .snapshot,
                .write(sector: 64, count: 100, durable: false),
                .discard(sector: 192, count: 64), .snapshot, .write(sector: 10, count: 200, durable: false),
                .zero(sector: 0, count: 64, mayDiscard: true), .write(sector: 600, count: 100, durable: false), .flush,
            ])
    }

    @Test("flushed data and the size survive a cut at any change of a grow")
    func grow() throws {
        // 8176 entries fit into one cluster.
        let size = UInt64(8170) << 15
        try cutEverywhere(
            [
                .write(sector: 130, count: 5, durable: false), .grow(UInt64(8300) << 15),
                .write(sector: 8299 * 64, count: 60, durable: true), .snapshot, .grow(UInt64(17000) << 15), .delete(0),
                .write(sector: 0, count: 9, durable: true),
            ], byteCount: size,
            prepare: [
                .write(sector: 0, count: 300, durable: false), .write(sector: 8160 * 64, count: 64, durable: false),
                .flush,
            ])
    }

    @Test("random steps with random power cuts", arguments: 0..<4)
    func randomCuts(part: Int) throws {
        var random = SeededRandom("random steps with random power cuts, part \(part)")
        let size: UInt64 = part == 0 ? (1 << 20) + 512 * 1024 : 3 << 20
        let model = try DiskModel(byteCount: size, alignment: part == 3 ? 512 : 4096)
        try model.open()
        var log: [String] = []
        for round in 0..<25 {
            let steps = DiskModel.steps(
                60, sectors: Int(size / 512), clusterSectors: 64, snapshots: part > 0, random: &random)
            model.fs.setPlan(.stop(atChange: random.below(400) + 1))
            do {
                for step in steps {
                    log.append("\(round): \(step)")
                    try model.apply(step)
                }
                model.fs.setPlan(nil)
                log.append("\(round): verify")
                try model.verify()
                log.append("\(round): crash")
                try model.crash(.random(seed: random.next()))
            } catch {
                guard model.fs.isStopped else {
                    Issue.record("seed \(random.seed): \(error)\n\(log.suffix(40).joined(separator: "\n"))")
                    return
                }
                do {
                    log.append("\(round): cut")
                    try model.crash(random.oneIn(3) ? .nothing : .random(seed: random.next()))
                    try model.verify()
                } catch {
                    Issue.record("seed \(random.seed) after a cut: \(error)\n\(log.suffix(40).joined(separator: "\n"))")
                    return
                }
            }
            if random.oneIn(4) {
                do {
                    try model.close()
                    try model.check()
                    try model.open()
                    try model.verify()
                } catch {
                    Issue.record("seed \(random.seed) closing: \(error)\n\(log.suffix(40).joined(separator: "\n"))")
                    return
                }
            }
        }
    }
}
