import BlockIO
import Geometry
import ImageFormat
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

@testable import DiskImage

/// Rules whose breach shows only under a condition that other tests do not make.
@Suite struct RuleTests {
    @Test("the in-use mark is durable before the first change")
    func markIsDurableFirst() throws {
        let closed = try DiskModel(byteCount: 2 << 20)
        try closed.open()
        try closed.apply(.write(sector: 0, count: 200, durable: true))
        try closed.close()
        let image = DiskModel.path + "/root.hds"
        let data = UInt64(DiskModel.dataStart(closed.clusterSize))
        func content(_ fs: SimulatedFileSystem) throws -> [UInt8] {
            let file = try fs.open(image, .read)
            return try file.readBytes(at: data, count: Int(try file.size() - data))
        }
        let before = try content(closed.fs)
        var changedMarked = 0
        for seed in 0..<60 {
            let fs = closed.fs.duplicate()
            let disk = try Disk.open(DiskModel.path, in: fs, options: closed.options)
            try [UInt8](repeating: 7, count: 4096).withUnsafeBytes { try disk.write(at: 8192, from: $0) }
            let after = fs.afterPowerCut(.random(seed: UInt64(seed)))
            let header = try HeaderFields(
                parsing: try after.open(image, .read).readBytes(at: 0, count: ImageHeader.byteCount))
            guard try content(after) != before else { continue }
            #expect(!header.inUse.isClean, "seed \(seed): changed, and the image says it was closed")
            changedMarked += 1
        }
        #expect(changedMarked > 0)
    }

    @Test("a merge of clusters of several pieces hides all that the parent had")
    func mergeOfLargeClusters() throws {
        let size = try #require(ClusterSize(bytes: 2 << 20))
        let model = try DiskModel(byteCount: 16 << 20, clusterSize: size)
        try model.open()
        let sectors = Int(size.bytes / 512)
        try model.apply(.write(sector: 0, count: 3 * sectors, durable: false))
        try model.apply(.snapshot)
        // Zeros in the first piece, data behind it; and the other way round.
        try model.apply(.zero(sector: 0, count: sectors, mayDiscard: false))
        try model.apply(.write(sector: sectors - 8, count: 8, durable: false))
        try model.apply(.zero(sector: sectors, count: sectors, mayDiscard: false))
        try model.apply(.write(sector: sectors, count: 8, durable: false))
        try model.apply(.snapshot)
        try model.apply(.write(sector: 2 * sectors + 5, count: 1, durable: false))
        try model.apply(.delete(0))
        try model.verify()
        try model.apply(.delete(0))
        try model.verify()
        try model.apply(.reopen)
        try model.verify()
        try model.close()
        try model.check()
    }

    @Test("a failed flush is for good: the next one must not say that all is well", arguments: [true, false])
    func failedFlushIsForGood(drops: Bool) throws {
        // One for the data, one for the table.
        for number in 1...2 {
            let model = try DiskModel(byteCount: 2 << 20)
            try model.open()
            try model.apply(.write(sector: 0, count: 8, durable: true))
            try model.apply(.write(sector: 640, count: 64, durable: false))
            let effect: FaultPlan.Effect = drops ? .failDropping(.ioError) : .fail(.ioError)
            model.fs.setPlan(FaultPlan(effect, at: number, of: [.synchronize]))
            #expect(throws: DiskError.self) { try model.current().flush() }
            model.fs.setPlan(nil)
            #expect(throws: DiskError.self) { try model.current().flush() }
            #expect(throws: DiskError.self) { try model.apply(.write(sector: 0, count: 8, durable: false)) }
            try model.crash(.nothing)
            try model.verify()
            try model.close()
            try model.check()
        }
    }

    @Test("the descriptor is changed with its lock held, which ploop's tools take, too")
    func descriptorLockIsTaken() throws {
        let model = try DiskModel(byteCount: 2 << 20)
        try model.open()
        let disk = try model.current()
        let prepared = try disk.prepareSnapshot()
        // The simulated file system does not wait for a lock: it fails.
        let lock = try #require(try model.fs.lock(DiskModel.path + "/DiskDescriptor.xml.lck", wait: false))
        #expect(throws: DiskError.self) { try disk.commitSnapshot(prepared) }
        #expect(throws: DiskError.self) { try disk.grow(to: 4 << 20) }
        _ = withExtendedLifetime(lock) { 0 }
    }

    @Test("what changed since a state is found to the last cluster", arguments: 0..<6)
    func changedRuns(part: Int) throws {
        var random = SeededRandom("changed runs, part \(part)")
        let size = ClusterSize.smallest
        // Some pages of the table; the last one begins or ends with the device.
        let clusters = [1006, 1007, 1008, 2030, 2031, 2032 + random.below(60)][part]
        let model = try DiskModel(byteCount: UInt64(clusters) * size.bytes, clusterSize: size)
        try model.open()
        let disk = try model.current()
        let base = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
        var changed: Set<UInt64> = []
        for cluster in [0, 1007, 1008, 2031, clusters - 1] + (0..<12).map({ _ in random.below(clusters) })
        where cluster < clusters && random.below(3) > 0 {
            changed.insert(UInt64(cluster))
            try model.apply(.write(sector: cluster * 64 + 3, count: 1, durable: false))
        }
        let top = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
        let state = try FrozenState.open(DiskModel.path, snapshot: top, in: model.fs)
        var found: [UInt64] = []
        do {
            try state.forEachChangedRun(since: base) { (run) throws(SystemError) in
                found += run
                return true
            }
        } catch { Issue.record("\(error)") }
        #expect(found == changed.sorted(), "seed \(random.seed)")
    }
}

extension DiskModel {
    /// Where data begins in a small image.
    static func dataStart(_ size: ClusterSize) -> Int { size.byteCount }
}
