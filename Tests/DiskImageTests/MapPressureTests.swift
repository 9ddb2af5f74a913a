import BlockIO
import Geometry
import LinuxSystem
import TestSupport
import Testing

@testable import DiskImage

/// Tables of many pages, of which few are kept: what leaves memory comes back as it was left.
@Suite struct MapPressureTests {
    private static let cluster = ClusterSize.smallest.bytes
    /// Pages whose numbers differ by so many share a part of the map, which keeps four.
    private static let stride: UInt64 = 16
    private let fs = SimulatedFileSystem()

    private func newDisk() throws -> Disk {
        let pages = Self.stride * 8
        let bytes = pages * UInt64(DeltaFile.pageSlots) * Self.cluster
        try createDisk(at: "/disk", options: CreateOptions(byteCount: bytes, clusterSize: .smallest), in: fs)
        var options = DiskOptions.standard
        options.mapCacheBytes = 0
        options.finishInBackground = false
        return try Disk.open("/disk", in: fs, options: options)
    }

    private func write(_ disk: Disk, _ byte: UInt8, at cluster: UInt64) throws {
        try [UInt8](repeating: byte, count: 4096).withUnsafeBytes {
            try disk.write(at: cluster * Self.cluster, from: $0)
        }
    }

    private func firstByte(_ disk: Disk, of cluster: UInt64) throws -> UInt8 {
        try disk.bytes(at: cluster * Self.cluster, count: 512)[0]
    }

    /// Has the page of the first clusters leave memory, if it may.
    private func crowd(_ disk: Disk) throws {
        for number in 1...6 {
            _ = try firstByte(disk, of: DeltaFile.firstCluster(ofPage: UInt64(number) * Self.stride))
        }
    }

    /// Runs `body` once, before the first call of that kind for which `isMeant`.
    private func before(
        _ kind: FaultPlan.Call, _ isMeant: @escaping @Sendable (String) -> Bool,
        _ body: @escaping @Sendable () throws -> Void
    ) -> Monitor<String?> {
        let outcome = Monitor<String?>(nil)
        let hasBegun = Monitor(false)
        fs.setObserver { call, subject in
            guard call == kind, isMeant(subject),
                !hasBegun.withLock({ was in
                    defer { was = true }
                    return was
                })
            else { return nil }
            var failure = ""
            do { try body() } catch { failure = "\(error)" }
            outcome.withLock { $0 = failure }
            return nil
        }
        return outcome
    }

    @Test("a page that a flush is writing stays") func beingWritten() throws {
        let disk = try newDisk()
        try write(disk, 7, at: 5)
        // The first write of a flush is that of the table; the file does not have it yet.
        let outcome = before(.write, { $0.hasPrefix("/disk/root.hds ") }) {
            try crowd(disk)
            #expect(try firstByte(disk, of: 5) == 7)
        }
        try disk.flush()
        fs.setObserver(nil)
        #expect(outcome.withLock { $0 } == "")
        try crowd(disk)
        #expect(try firstByte(disk, of: 5) == 7)
        try disk.close()
    }

    @Test("a page that was changed, written and left while it was loaded is loaded anew") func olderLoad() throws {
        let disk = try newDisk()
        try write(disk, 1, at: 5)
        _ = try disk.commitSnapshot(try disk.prepareSnapshot())
        try disk.flush()
        try crowd(disk)
        // The load of a page has read the top's, and comes to the one below.
        let outcome = before(.read, { $0.hasPrefix("/disk/root.hds 0+") }) {
            try write(disk, 2, at: 5)
            try disk.flush()
            try crowd(disk)
        }
        _ = try firstByte(disk, of: 9)
        fs.setObserver(nil)
        #expect(outcome.withLock { $0 } == "")
        #expect(try firstByte(disk, of: 5) == 2)
        try disk.close()
    }

    @Test("what is no request of the guest does nothing in a file that is not the top any more") func formerTop() throws
    {
        let disk = try newDisk()
        try write(disk, 1, at: 5)
        let top = try #require(disk.gate.chain.writable)
        #expect(try disk.changing(top) { _ throws(DiskError) in true } == true)
        _ = try disk.commitSnapshot(try disk.prepareSnapshot())
        for entry in [Disk.Entry.waiting, .atOnce] {
            #expect(try disk.changing(top, entry) { _ throws(DiskError) in true } == nil)
        }
        try disk.close()
    }

    @Test("a chain is put on when nobody is inside, readers included") func exclusive() throws {
        let disk = try newDisk()
        let gate = disk.gate
        let hasRun = Monitor(false)
        _ = try gate.enterRead()
        let changer = try OwnThread(name: "changer") {
            gate.exclusively { chain in
                hasRun.change { $0 = true }
                return chain
            }
        }
        // There is no event for what must not happen.
        #expect(hasRun.wait(until: SystemTime().monotonic() + 500_000_000) { $0 ? true : nil } == nil)
        gate.leaveRead()
        changer.join()
        #expect(hasRun.withLock { $0 })
        try disk.close()
    }
}
