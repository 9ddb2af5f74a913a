import BlockIO
import Geometry
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

@testable import DiskImage

/// Work that was stopped goes on from what is on the disk, whatever happened in between.
@Suite struct StoppedWorkTests {
    private let fs = SimulatedFileSystem()
    private let cluster = ClusterSize.smallest.bytes

    private func newDisk(clusters: UInt64, _ clusterSize: ClusterSize = .smallest) throws -> Disk {
        try createDisk(
            at: "/disk", options: CreateOptions(byteCount: clusters * clusterSize.bytes, clusterSize: clusterSize),
            in: fs)
        return try open()
    }

    private func open() throws -> Disk {
        var options = DiskOptions.standard
        options.finishInBackground = false
        return try Disk.open("/disk", in: fs, options: options)
    }

    /// A little in each of some clusters that stand on all pages of the table.
    private func fill(_ disk: Disk, _ byte: UInt8, _ clusters: some Sequence<UInt64>) throws {
        for index in clusters {
            try [UInt8](repeating: byte, count: 4096).withUnsafeBytes { try disk.write(at: index * cluster, from: $0) }
        }
        try disk.flush()
    }

    private func snapshot(_ disk: Disk) throws -> String {
        try disk.commitSnapshot(try disk.prepareSnapshot()).guid
    }

    private func expect(_ disk: Disk, _ byte: UInt8, at clusters: some Sequence<UInt64>) throws {
        for index in clusters {
            let found = try disk.bytes(at: index * cluster, count: 1)[0]
            guard found == byte else {
                Issue.record("cluster \(index) holds \(found), not \(byte)")
                return
            }
        }
    }

    private static let all = Swift.stride(from: UInt64(0), to: 4096, by: 2)

    @Test("a delete that was stopped, then another into its child, then it again")
    func twoDeletes() throws {
        let disk = try newDisk(clusters: 4096)
        try fill(disk, 1, Self.all)
        let first = try snapshot(disk)
        try fill(disk, 2, Self.all)
        let second = try snapshot(disk)
        try fill(disk, 3, Self.all)
        _ = try snapshot(disk)
        #expect(try !disk.deleteSnapshot(first) { done, total in done < total * 3 / 4 })
        // The state below it is still there, to be removed; what it held of this one is gone from here.
        #expect(try disk.deleteSnapshot(second))
        try expect(disk, 3, at: Self.all)
        #expect(try disk.deleteSnapshot(first))
        try expect(disk, 3, at: Self.all)
        try disk.close()
        let again = try open()
        try expect(again, 3, at: Self.all)
        try again.close()
        #expect(try checkDisk(at: "/disk", in: fs).isSound)
    }

    @Test("what a stopped delete has let go of is not looked for where it was")
    func placesLetGo() throws {
        let disk = try newDisk(clusters: 4096)
        try fill(disk, 1, Self.all)
        let first = try snapshot(disk)
        try fill(disk, 2, Self.all)
        let second = try snapshot(disk)
        // On the same pages of the table, and nothing that hides the others.
        try fill(disk, 3, Self.all.map { $0 + 1 })
        _ = try snapshot(disk)
        try expect(disk, 2, at: Self.all)
        #expect(try !disk.deleteSnapshot(first) { done, total in done < total * 3 / 4 })
        try expect(disk, 2, at: Self.all)
        #expect(
            try !disk.deleteSnapshot(second) { done, total in
                do { try expect(disk, 2, at: Self.all) } catch { Issue.record("\(error)") }
                return done < total / 2
            })
        try expect(disk, 2, at: Self.all)
        #expect(try disk.deleteSnapshot(second))
        #expect(try disk.deleteSnapshot(first))
        try expect(disk, 2, at: Self.all)
        try expect(disk, 3, at: Self.all.map { $0 + 1 })
        try disk.close()
    }

    @Test("a merge of the top that was stopped, then writes, then it again")
    func writesInBetween() throws {
        let disk = try newDisk(clusters: 4096)
        try fill(disk, 1, Self.all)
        let first = try snapshot(disk)
        // More than is merged with writes held, so that it is frozen for it.
        try fill(disk, 2, Self.all)
        #expect(try !disk.deleteSnapshot(first) { done, total in done < total * 3 / 4 })
        try fill(disk, 3, 0..<600)
        try expect(disk, 3, at: 0..<600)
        for _ in 0..<4 {
            let waiting = try disk.snapshots().filter { $0.isTemporary }
            guard let next = waiting.first else { break }
            #expect(try disk.deleteSnapshot(next.guid))
        }
        #expect(disk.deltaCount == 1)
        try expect(disk, 3, at: 0..<600)
        try expect(disk, 2, at: Self.all.filter { $0 >= 600 })
        try disk.close()
    }

    @Test("a held merge that does not come to its end uncovers nothing", arguments: [true, false])
    func heldMergeThenDiscard(fails: Bool) throws {
        let disk = try newDisk(clusters: 16)
        let first = try snapshot(disk)
        try fill(disk, 2, 0..<16)
        // That nothing lies below them is known from here on.
        try expect(disk, 2, at: 0..<16)
        if fails {
            #expect(throws: DiskError.self) {
                try disk.deleteSnapshot(first) { done, total in
                    if done == total { fs.setPlan(.ioError(at: 1, of: [.rename])) }
                    return true
                }
            }
            fs.setPlan(nil)
        } else {
            #expect(try !disk.deleteSnapshot(first) { done, _ in done < 8 })
        }
        let range = ByteRange(offset: 0, count: 16 * cluster)
        try disk.writeZeroes(range, mayDiscard: true)
        try expect(disk, 0, at: 0..<16)
        #expect(try disk.deleteSnapshot(first))
        try expect(disk, 0, at: 0..<16)
        try disk.close()
        #expect(try checkDisk(at: "/disk", in: fs).isSound)
    }

    @Test("nothing is uncovered because of a table that the host may not have stored")
    func mergeAboveADoubt() throws {
        let disk = try newDisk(clusters: 16)
        try fill(disk, 5, 0..<16)
        let first = try snapshot(disk)
        try disk.discard(ByteRange(offset: 0, count: 8 * cluster))
        let second = try snapshot(disk)
        try disk.discard(ByteRange(offset: 0, count: 8 * cluster))
        try disk.flush()
        #expect(throws: DiskError.self) {
            try disk.deleteSnapshot(first) { done, total in
                // The sync after the page of the table, which the host drops.
                if done == total { fs.setPlan(FaultPlan(.failDropping(.ioError), at: 2, of: [.synchronize])) }
                return true
            }
        }
        fs.setPlan(nil)
        #expect(throws: DiskError.self) { try disk.deleteSnapshot(second) }
        try expect(disk, 0, at: 0..<8)
        let again = try Disk.open("/disk", in: fs.afterPowerCut(.nothing))
        try expect(again, 0, at: 0..<8)
        try expect(again, 5, at: 8..<16)
        try again.close()
    }

    @Test("a size that the descriptor was not told is told when the disk is closed")
    func failedGrow() throws {
        let disk = try newDisk(clusters: 16)
        // The first one is of the record of what is served.
        fs.setPlan(.ioError(at: 2, of: [.rename]))
        #expect(throws: DiskError.self) { try disk.grow(to: 32 * cluster) }
        fs.setPlan(nil)
        #expect(disk.byteCount == 32 * cluster)
        try disk.close()
        // Not even a note: one that lags behind is that.
        #expect(try checkDisk(at: "/disk", in: fs).findings.isEmpty)
    }

    @Test("what a stopped merge has left is what is merged then, also by another process")
    func goesOn() throws {
        let disk = try newDisk(clusters: 4096)
        let first = try snapshot(disk)
        try fill(disk, 2, Self.all)
        _ = try snapshot(disk)
        var total: UInt64 = 0
        #expect(
            try !disk.deleteSnapshot(first) { done, all in
                total = all
                return done < all / 2
            })
        try disk.close()
        let again = try open()
        try expect(again, 2, at: Self.all)
        var left: UInt64 = 0
        #expect(
            try again.deleteSnapshot(first) { _, all in
                left = all
                return true
            })
        #expect(total == 2048 && left < total * 3 / 4)
        try expect(again, 2, at: Self.all)
        try again.close()
        #expect(try checkDisk(at: "/disk", in: fs).isSound)
    }

    @Test("a merge of clusters of several pieces hides what the parent had", arguments: [0, 1, 2, 3])
    func largeClusters(hidden: Int) throws {
        let size = try #require(ClusterSize(bytes: 4 << 20))
        let disk = try newDisk(clusters: 4, size)
        let piece = 1 << 20
        try [UInt8](repeating: 1, count: 4 * piece).withUnsafeBytes { try disk.write(at: 0, from: $0) }
        let first = try snapshot(disk)
        // Zeros but for one piece.
        try disk.writeZeroes(ByteRange(offset: 0, count: UInt64(4 * piece)), mayDiscard: false)
        try [UInt8](repeating: 2, count: piece).withUnsafeBytes {
            try disk.write(at: UInt64(hidden * piece), from: $0)
        }
        _ = try snapshot(disk)
        #expect(try disk.deleteSnapshot(first))
        for index in 0..<4 {
            #expect(
                try disk.bytes(at: UInt64(index * piece), count: piece).allSatisfy { $0 == (index == hidden ? 2 : 0) })
        }
        try disk.close()
    }

    @Test("a merge that can't open what it needs changes nothing, and the next one is right")
    func failedReopening() throws {
        let disk = try newDisk(clusters: 64)
        try fill(disk, 1, 0..<64)
        let first = try snapshot(disk)
        try fill(disk, 2, 0..<64)
        let second = try snapshot(disk)
        try fill(disk, 3, 0..<32)
        let base = "/disk/" + baseImageName
        // The base's name is gone when the merge comes to its end.
        #expect(throws: DiskError.self) {
            try disk.deleteSnapshot(first) { done, total in
                if done == total { try? fs.rename(base, to: base + ".away") }
                return true
            }
        }
        try fs.rename(base + ".away", to: base)
        #expect(disk.deltaCount == 3)
        try expect(disk, 3, at: 0..<32)
        try expect(disk, 2, at: 32..<64)
        #expect(try disk.deleteSnapshot(second))
        try fill(disk, 4, 0..<8)
        try expect(disk, 4, at: 0..<8)
        try expect(disk, 3, at: 8..<32)
        try expect(disk, 2, at: 32..<64)
        #expect(try disk.deleteSnapshot(first))
        try expect(disk, 4, at: 0..<8)
        try disk.close()
        let again = try open()
        try expect(again, 3, at: 8..<32)
        try expect(again, 2, at: 32..<64)
        try again.close()
    }

    /// A frozen pair of which the lower one has 64 whole clusters, and the upper one hides the first 32 with zeros.
    private func trimmedPair() throws -> (disk: Disk, lower: String) {
        let disk = try newDisk(clusters: 64)
        let whole = [UInt8](repeating: 1, count: Int(64 * cluster))
        try whole.withUnsafeBytes { try disk.write(at: 0, from: $0) }
        let lower = try snapshot(disk)
        try disk.discard(ByteRange(offset: 0, count: 32 * cluster))
        _ = try snapshot(disk)
        return (disk, lower)
    }

    private func expectTrimmed(_ disk: Disk) throws {
        try expect(disk, 0, at: 0..<32)
        try expect(disk, 1, at: 32..<64)
    }

    @Test("a merge that fails when it has moved clusters of the file below leaves no way to where they were")
    func failedAfterMoves() throws {
        let (disk, lower) = try trimmedPair()
        // Where they are is known from here on.
        try expectTrimmed(disk)
        let base = "/disk/" + baseImageName
        #expect(throws: DiskError.self) {
            try disk.deleteSnapshot(lower) { done, total in
                if done == total { try? fs.rename(base, to: base + ".away") }
                return true
            }
        }
        try fs.rename(base + ".away", to: base)
        try expectTrimmed(disk)
        // The next one cuts the file to what its table names.
        var looks = 0
        #expect(
            try disk.deleteSnapshot(lower) { _, _ in
                looks += 1
                #expect(throws: Never.self) { try expectTrimmed(disk) }
                return true
            })
        #expect(looks > 0)
        try expectTrimmed(disk)
        try disk.close()
        #expect(try checkDisk(at: "/disk", in: fs).isSound)
    }

    @Test("a full host does not keep a merge from its end that needs no space")
    func fullHost() throws {
        let (before, first) = try trimmedPair()
        try before.close()
        var options = DiskOptions.standard
        options.finishInBackground = false
        options.compactBytesMax = 0
        // What is given back leaves gaps.
        let gappy = try Disk.open("/disk", in: fs, options: options)
        #expect(try gappy.deleteSnapshot(first))
        let lower = try #require(try gappy.snapshots().first).guid
        try fill(gappy, 2, 40..<41)
        _ = try snapshot(gappy)
        try gappy.close()
        // As a host that is full when the file is closed leaves them.
        let base = try fs.open("/disk/" + baseImageName, OpenMode(writable: true))
        #expect(try base.punch(offset: cluster, count: 32 * cluster))
        let disk = try open()
        #expect(
            try disk.deleteSnapshot(lower) { done, total in
                // Less than a cluster is left.
                if done == total { fs.setCapacity(fs.usedBytes + cluster / 2) }
                return true
            })
        fs.setCapacity(nil)
        try expect(disk, 0, at: 0..<32)
        try expect(disk, 1, at: 32..<40)
        try expect(disk, 2, at: 40..<41)
        try expect(disk, 1, at: 41..<64)
        try disk.close()
        #expect(try checkDisk(at: "/disk", in: fs).isSound)
    }

    @Test("a snapshot within a merge that fails leaves nothing prepared")
    func failedSwitchWithin() throws {
        let disk = try newDisk(clusters: 2048)
        let first = try snapshot(disk)
        try fill(disk, 1, 0..<1500)
        // Held as ploop's tools hold it.
        var lock = try fs.lock("/disk/DiskDescriptor.xml.lck", wait: false)
        #expect(lock != nil)
        #expect(throws: DiskError.self) { try disk.deleteSnapshot(first) }
        lock = nil
        disk.abandonSnapshot(try disk.prepareSnapshot())
        try disk.grow(to: 4096 * cluster)
        #expect(try disk.deleteSnapshot(first))
        try expect(disk, 1, at: 0..<1500)
        try disk.close()
    }

    @Test("the descriptor's lock is waited for before a switch")
    func descriptorLock() throws {
        let disk = try newDisk(clusters: 8)
        let prepared = try disk.prepareSnapshot()
        var lock = try fs.lock("/disk/DiskDescriptor.xml.lck", wait: false)
        #expect(throws: DiskError.self) { try disk.commitSnapshot(prepared) }
        #expect(disk.deltaCount == 1)
        lock = nil
        _ = lock
        _ = try disk.commitSnapshot(prepared)
        #expect(disk.deltaCount == 2)
        try disk.close()
    }

    @Test("a discard below the top takes no space, and gives back what was trimmed with the next merge")
    func discards() throws {
        let disk = try newDisk(clusters: 512)
        for index in UInt64(0)..<256 {
            try [UInt8](repeating: 1, count: Int(cluster)).withUnsafeBytes {
                try disk.write(at: index * cluster, from: $0)
            }
        }
        try fill(disk, 2, 300..<310)
        let first = try snapshot(disk)
        try disk.flush()
        let before = fs.usedBytes
        try disk.discard(ByteRange(offset: 0, count: 256 * cluster))
        try disk.flush()
        // The table, and what the top's file is ahead.
        #expect(fs.usedBytes < before + 16 * cluster)
        #expect(try disk.bytes(at: 5 * cluster, count: 1) == [0])
        // As a backup does: a state for it, then the one before it goes.
        _ = try snapshot(disk)
        #expect(fs.usedBytes < before + 32 * cluster)
        #expect(try disk.deleteSnapshot(first))
        #expect(fs.usedBytes < before - 200 * cluster)
        try expect(disk, 0, at: 0..<256)
        try expect(disk, 2, at: 300..<310)
        try disk.close()
        #expect(fs.usedBytes < before - 200 * cluster)
        #expect(try checkDisk(at: "/disk", in: fs).isSound)
        let again = try open()
        try expect(again, 0, at: 0..<256)
        try expect(again, 2, at: 300..<310)
        try again.close()
    }
}
