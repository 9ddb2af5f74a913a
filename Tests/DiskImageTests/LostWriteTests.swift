import BlockIO
import Geometry
import ImageFormat
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

@testable import DiskImage

/// The host reports once that it lost what was written: nothing is called durable after that until it was written
/// again.
@Suite struct LostWriteTests {
    private func write(_ disk: Disk, _ byte: UInt8, at offset: UInt64 = 0) throws {
        try [UInt8](repeating: byte, count: 4096).withUnsafeBytes { try disk.write(at: offset, from: $0) }
    }

    private func newDisk(isRaw: Bool = false) throws -> (SimulatedFileSystem, Disk) {
        let fs = SimulatedFileSystem()
        var create = CreateOptions(byteCount: 64 * ClusterSize.smallest.bytes, clusterSize: .smallest)
        create.isRaw = isRaw
        try createDisk(at: "/disk", options: create, in: fs)
        var options = DiskOptions.standard
        options.finishInBackground = false
        return (fs, try Disk.open("/disk", in: fs, options: options))
    }

    @Test("a flush that failed never succeeds again, and closing tells it")
    func flush() throws {
        let (fs, disk) = try newDisk()
        try write(disk, 1)
        try disk.flush()
        try write(disk, 2)
        fs.setPlan(.ioError(at: 1, of: [.synchronize]))
        #expect(throws: DiskError.self) { try disk.flush() }
        fs.setPlan(nil)
        #expect(throws: DiskError.self) { try disk.flush() }
        #expect(throws: DiskError.self) { try write(disk, 3) }
        #expect(throws: DiskError.self) { try disk.close() }
        #expect(throws: DiskError.self) { try disk.close() }
    }

    @Test("what the host lost is not read from its cache by who opens the disk next", arguments: [true, false])
    func cache(isKilled: Bool) throws {
        let fs = try lostDisk(isKilled: isKilled)
        func drops() -> Int { fs.cacheDrops["/disk/" + baseImageName, default: 0] }
        // One by who opened it, one by who could close it.
        #expect(drops() == (isKilled ? 1 : 2))
        let again = try Disk.open("/disk", in: fs)
        #expect(drops() == (isKilled ? 2 : 3))
        #expect(try again.bytes(at: 0, count: 1) == [1])
        // What it flushes is durable, with all that it has shown.
        try write(again, 3, at: 1 << 20)
        try again.flush()
        let after = try Disk.open("/disk", in: fs.afterPowerCut(.nothing))
        #expect(try after.bytes(at: 0, count: 1) == [1] && after.bytes(at: 1 << 20, count: 1) == [3])
        try after.close()
    }

    @Test("nor of a raw file, which can't tell that it was not closed") func rawCache() throws {
        let fs = try lostDisk(isKilled: true, isRaw: true)
        let again = try Disk.open("/disk", in: fs)
        #expect(try again.bytes(at: 0, count: 1) == [1])
        try again.close()
    }

    /// What a stopped merge took out of the table of an image that was closed may not be on the medium.
    @Test("nor of an image below the top, which was closed") func lowerCache() throws {
        let (fs, disk) = try newDisk()
        for index in UInt64(0)..<8 { try write(disk, 1, at: index * ClusterSize.smallest.bytes) }
        _ = try disk.commitSnapshot(try disk.prepareSnapshot())
        for index in UInt64(0)..<8 { try write(disk, 2, at: index * ClusterSize.smallest.bytes) }
        _ = try disk.commitSnapshot(try disk.prepareSnapshot())
        try disk.finishFrozen()
        let paths = try fs.list("/disk").map { "/disk/" + $0 }
        let before = Dictionary(uniqueKeysWithValues: paths.map { ($0, fs.cacheDrops[$0, default: 0]) })
        try disk.close()
        let again = try Disk.open("/disk", in: fs)
        for delta in again.gate.chain.deltas {
            #expect(fs.cacheDrops[delta.path, default: 0] > before[delta.path, default: 0], "\(delta.path)")
        }
        try again.close()
    }

    /// A disk whose owner has met a flush that failed, with what waited for it lost, and has ended.
    private func lostDisk(isKilled: Bool, isRaw: Bool = false) throws -> SimulatedFileSystem {
        let (fs, disk) = try newDisk(isRaw: isRaw)
        try write(disk, 1)
        try disk.flush()
        try write(disk, 2)
        fs.setPlan(FaultPlan(.failDropping(.ioError), at: 1, of: [.synchronize]))
        #expect(throws: DiskError.self) { if isKilled { try disk.flush() } else { try disk.close() } }
        fs.setPlan(nil)
        return fs
    }

    @Test("the in-use mark is durable before the first change", arguments: 0..<20 as Range<UInt64>)
    func markFirst(seed: UInt64) throws {
        let (fs, disk) = try newDisk()
        try write(disk, 1)
        try disk.flush()
        try disk.close()
        let reopened = try Disk.open("/disk", in: fs)
        // In place: its data may survive a cut without any flush.
        try write(reopened, 2)
        let after = fs.afterPowerCut(.random(seed: seed))
        let path = "/disk/" + baseImageName
        let header = try DeltaFile.readHeader(of: after.open(path, .read), path: path)
        #expect(header.inUse == .open)
    }

    @Test("a merge that lost something is not done again in its file; the guest goes on, and the next opening merges")
    func merge() throws {
        var number = 1
        var lost = 0
        while true {
            let (fs, disk) = try newDisk()
            for index in UInt64(0)..<8 { try write(disk, 1, at: index * ClusterSize.smallest.bytes) }
            let first = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
            for index in UInt64(0)..<8 { try write(disk, 2, at: index * ClusterSize.smallest.bytes) }
            _ = try disk.commitSnapshot(try disk.prepareSnapshot())
            try disk.finishFrozen()
            fs.setPlan(.ioError(at: number, of: [.synchronize]))
            var failure: DiskError?
            do { try disk.deleteSnapshot(first) } catch { failure = error }
            fs.setPlan(nil)
            guard let failure else {
                // Beyond the last one, or what was kept for the next to ask.
                if disk.maintenance.withLock({ $0.finishFailure == nil }) { break }
                number += 1
                continue
            }
            // What was lost of the top is the guest's.
            let isTop = disk.gate.failure != nil
            if failure.isFinal, !isTop {
                lost += 1
                #expect(throws: DiskError.self) { try disk.deleteSnapshot(first) }
            }
            let third = 3 * ClusterSize.smallest.bytes
            if !isTop {
                // The guest notices nothing.
                try write(disk, 3, at: third)
                try disk.flush()
                #expect(try disk.bytes(at: third, count: 1) == [3])
            }
            #expect(try disk.bytes(at: 0, count: 1) == [2])
            try? disk.close()
            let again = try Disk.open("/disk", in: fs)
            for state in try again.snapshots() where state.isTemporary { try again.deleteSnapshot(state.guid) }
            #expect(try again.bytes(at: 0, count: 1) == [2])
            #expect(try again.bytes(at: third, count: 1) == [isTop ? 2 : 3])
            try again.close()
            number += 1
        }
        #expect(lost >= 2)
    }

    @Test("what a background finisher met is told by the next operation on snapshots, and once")
    func finisher() throws {
        let (fs, disk) = try newDisk()
        try write(disk, 1)
        _ = try disk.commitSnapshot(try disk.prepareSnapshot())
        fs.setPlan(.ioError(at: 1, of: [.synchronize]))
        let error = #expect(throws: DiskError.self) { try disk.finishFrozen(inBackground: true) }
        disk.maintenance.change { $0.finishFailure = error }
        fs.setPlan(nil)
        #expect(throws: DiskError.self) { try disk.prepareSnapshot() }
        disk.abandonSnapshot(try disk.prepareSnapshot())
        try disk.close()
    }

    @Test("a full host stops nothing for good")
    func fullHost() throws {
        let (fs, disk) = try newDisk()
        try write(disk, 1)
        let first = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
        for index in UInt64(1)..<32 { try write(disk, 2, at: index * ClusterSize.smallest.bytes) }
        _ = try disk.commitSnapshot(try disk.prepareSnapshot())
        fs.setPlan(.outOfSpace(at: 1))
        #expect { try disk.deleteSnapshot(first) } throws: { ($0 as? DiskError)?.code == .outOfSpace }
        fs.setPlan(nil)
        #expect(try disk.deleteSnapshot(first))
        #expect(try disk.bytes(at: 5 * ClusterSize.smallest.bytes, count: 1) == [2])
        try disk.close()
        #expect(try checkDisk(at: "/disk", in: fs).isSound)
    }
}
