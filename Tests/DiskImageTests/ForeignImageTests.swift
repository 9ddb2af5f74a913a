import BlockIO
import Geometry
import ImageFormat
import LinuxSystem
import TestSupport
import Testing

@testable import DiskImage

/// Images in a state that our own programs never leave: other software's, or a host's that lost what it had stored.
@Suite struct ForeignImageTests {
    private static let cluster = 32 << 10
    private static let path = "/disk"
    private static let image = "/disk/root.hds"

    /// A closed disk of `clusters` clusters of 32 KiB with the first four allocated.
    private func makeDisk(clusters: Int = 64, bytes: UInt64? = nil) throws -> SimulatedFileSystem {
        let fs = SimulatedFileSystem()
        var options = CreateOptions(byteCount: bytes ?? UInt64(clusters * Self.cluster), clusterSize: .smallest)
        options.isRounded = false
        try createDisk(at: Self.path, options: options, in: fs)
        let disk = try Disk.open(Self.path, in: fs)
        try fill(disk, 0..<4, 0x11)
        try disk.close()
        return fs
    }

    private func fill(_ disk: Disk, _ clusters: Range<Int>, _ byte: UInt8) throws {
        let data = [UInt8](repeating: byte, count: clusters.count * Self.cluster)
        try data.withUnsafeBytes { try disk.write(at: UInt64(clusters.lowerBound * Self.cluster), from: $0) }
    }

    private func patch(_ fs: SimulatedFileSystem, _ path: String = image, at offset: UInt64, _ bytes: [UInt8]) throws {
        try fs.open(path, .update).writeBytes(bytes, at: offset)
    }

    private func header(_ fs: SimulatedFileSystem, _ path: String = image) throws -> ImageHeader {
        let file = try fs.open(path, .read)
        return try ImageHeader(parsing: try file.readBytes(at: 0, count: 64), fileBytes: try file.size())
    }

    /// Puts a format extension at the end of an image.
    private func addExtension(
        _ fs: SimulatedFileSystem, _ path: String = image, mark: InUseMark, isNecessary: Bool = false
    ) throws {
        let file = try fs.open(path, .update)
        let end = try file.size()
        let bytes = try FormatExtension(sections: [.init(magic: 5, flags: isNecessary ? 1 : 0, data: [1])])
            .encode(clusterSize: .smallest)
        try file.writeBytes(bytes, at: end)
        var changed = try header(fs, path)
        changed.extensionSector = end / 512
        changed.inUse = mark
        try file.writeBytes(changed.encode(), at: 0)
    }

    @Test(
        "an extension of an image is let go before its place is given to data",
        arguments: [InUseMark.open, .closed, .closedWithExtension, InUseMark(rawValue: 7)])
    func extensions(mark: InUseMark) throws {
        let fs = try makeDisk()
        try addExtension(fs, mark: mark)
        let disk = try Disk.open(Self.path, in: fs)
        // What a guest could write to have its image refused: an extension that forbids changes.
        let trap = try FormatExtension(sections: [.init(magic: 5, flags: 1, data: [1])]).encode(clusterSize: .smallest)
        for cluster in 10..<20 {
            try trap.withUnsafeBytes { try disk.write(at: UInt64(cluster * Self.cluster), from: $0) }
        }
        try disk.flush()
        #expect(try header(fs).extensionSector == 0)
        try disk.close()
        #expect(try checkDisk(at: Self.path, in: fs).isSound)
        let again = try Disk.open(Self.path, in: fs)
        #expect(try again.bytes(at: UInt64(10 * Self.cluster), count: Self.cluster) == trap)
        try again.close()
    }

    @Test("a delta below the top that was not closed loses its extension, too") func lowerExtension() throws {
        let fs = try makeDisk()
        let disk = try Disk.open(Self.path, in: fs)
        let guid = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
        try disk.close()
        try addExtension(fs, mark: .open)
        let again = try Disk.open(Self.path, in: fs)
        #expect(try header(fs).extensionSector == 0)
        try fill(again, 30..<34, 0x22)
        _ = try again.deleteSnapshot(guid)
        try again.close()
        #expect(try header(fs).extensionSector == 0)
        #expect(try checkDisk(at: Self.path, in: fs).isSound)
    }

    @Test("a merge into a delta with an extension lets it go first, and respects one that forbids changes")
    func mergedExtension() throws {
        for isNecessary in [false, true] {
            let fs = try makeDisk()
            let disk = try Disk.open(Self.path, in: fs)
            let guid = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
            try disk.close()
            try addExtension(fs, mark: .closedWithExtension, isNecessary: isNecessary)
            let again = try Disk.open(Self.path, in: fs)
            try fill(again, 30..<34, 0x22)
            if isNecessary {
                let error = #expect(throws: DiskError.self) { try again.deleteSnapshot(guid) }
                #expect(error?.code == .unsupported)
                #expect(try header(fs).extensionSector != 0)
            } else {
                _ = try again.deleteSnapshot(guid)
                #expect(try header(fs).extensionSector == 0)
            }
            #expect(try again.bytes(at: UInt64(30 * Self.cluster), count: 4) == [0x22, 0x22, 0x22, 0x22])
            try again.close()
        }
    }

    @Test("two entries of one cluster are refused, closed or not, and a repair gives each its own")
    func duplicates() throws {
        for mark in [InUseMark.closed, .open] {
            let fs = try makeDisk()
            var changed = try header(fs)
            changed.inUse = mark
            try patch(fs, at: 0, changed.encode())
            try patch(fs, at: 64 + 4 * 1, littleEndian(1))
            let error = #expect(throws: DiskError.self) { try Disk.open(Self.path, in: fs) }
            #expect(error?.code == .corrupt && error?.message.contains("disk check") == true)
            #expect(try checkDisk(at: Self.path, repair: true, in: fs).isSound)
            let disk = try Disk.open(Self.path, in: fs)
            try fill(disk, 0..<1, 0x66)
            #expect(try disk.bytes(at: UInt64(Self.cluster), count: 2) == [0x11, 0x11])
            try disk.close()
        }
    }

    @Test("data that the host lost is never replaced silently") func dangling() throws {
        let fs = try makeDisk()
        var changed = try header(fs)
        changed.inUse = .open
        try patch(fs, at: 0, changed.encode())
        try fs.open(Self.image, .update).truncate(to: UInt64(3 * Self.cluster))
        let table = try fs.open(Self.image, .read).readBytes(at: 64, count: 16)
        let error = #expect(throws: DiskError.self) { try Disk.open(Self.path, in: fs) }
        #expect(error?.code == .corrupt)
        #expect(error?.message.contains("2 clusters (2, 3)") == true, "\(String(describing: error))")
        #expect(try fs.open(Self.image, .read).readBytes(at: 64, count: 16) == table)
        #expect(try checkDisk(at: Self.path, in: fs).images[0].counts["beyondFile"] == 2)
        let repaired = try checkDisk(at: Self.path, repair: true, in: fs)
        #expect(repaired.isSound)
        #expect(
            repaired.images[0].repairs.contains { $0.contains("bytes 65536 to 131071") },
            "\(repaired.images[0].repairs)")
        let disk = try Disk.open(Self.path, in: fs)
        #expect(try disk.bytes(at: UInt64(Self.cluster), count: 2) == [0x11, 0x11])
        #expect(try disk.bytes(at: UInt64(2 * Self.cluster), count: 2) == [0, 0])
        try disk.close()
    }

    @Test("slots behind the end of the device never become entries when it grows") func slots() throws {
        for snapshots in [0, 1] {
            let fs = try makeDisk()
            for slot in [64, 65, 70, 2000, 8000] { try patch(fs, at: UInt64(64 + 4 * slot), littleEndian(1)) }
            let disk = try Disk.open(Self.path, in: fs)
            var guids: [String] = []
            for _ in 0..<snapshots { guids.append(try disk.commitSnapshot(try disk.prepareSnapshot()).guid) }
            try fill(disk, 63..<64, 0x33)
            try disk.grow(to: UInt64(8176 * Self.cluster))
            for slot in [64, 65, 70, 2000, 8000] {
                #expect(try disk.bytes(at: UInt64(slot * Self.cluster), count: 2) == [0, 0], "cluster \(slot)")
            }
            try fill(disk, 64..<66, 0x44)
            // Makes the delta below as large as the one above.
            for guid in guids { _ = try disk.deleteSnapshot(guid) }
            #expect(try disk.bytes(at: UInt64(70 * Self.cluster), count: 2) == [0, 0])
            #expect(try disk.bytes(at: 0, count: 2) == [0x11, 0x11])
            #expect(try disk.bytes(at: UInt64(63 * Self.cluster), count: 2) == [0x33, 0x33])
            try disk.close()
            #expect(try checkDisk(at: Self.path, in: fs).isSound)
        }
    }

    @Test("what lies in a file behind the end of a device of odd size never shows when it grows")
    func oddSize() throws {
        for hasSnapshot in [false, true] {
            let bytes = UInt64(64 * Self.cluster + 512)
            let fs = try makeDisk(bytes: bytes)
            let disk = try Disk.open(Self.path, in: fs)
            #expect(disk.byteCount == bytes)
            let one = [UInt8](repeating: 0x55, count: 512)
            try one.withUnsafeBytes { try disk.write(at: bytes - 512, from: $0) }
            try disk.close()
            // Cluster 64 is the last of the file.
            let file = try fs.open(Self.image, .update)
            let end = try file.size()
            let rest = Self.cluster - 512
            try file.writeBytes([UInt8](repeating: 0xEE, count: rest), at: end - UInt64(rest))
            let again = try Disk.open(Self.path, in: fs)
            if hasSnapshot { _ = try again.commitSnapshot(try again.prepareSnapshot()) }
            #expect(again.byteCount == bytes)
            try again.grow(to: bytes + UInt64(Self.cluster))
            let read = try again.bytes(at: bytes - 512, count: Self.cluster)
            #expect(read == one + [UInt8](repeating: 0, count: Self.cluster - 512))
            try again.close()
        }
    }

    @Test("an image is not merged into one that can't become as large as it, and stays") func oddChild() throws {
        let fs = try makeDisk(bytes: UInt64(64 * Self.cluster))
        let disk = try Disk.open(Self.path, in: fs)
        let frozen = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
        let top = try #require(try disk.snapshots().first { $0.isTop }).file
        try disk.close()
        // One sector more than the image below has, and one entry of the table.
        let sectors = UInt64(64 * Self.cluster / 512 + 1)
        let file = try fs.open("\(Self.path)/\(top)", .update)
        try file.writeBytes(withUnsafeBytes(of: UInt32(65).littleEndian) { Array($0) }, at: 32)
        try file.writeBytes(withUnsafeBytes(of: sectors.littleEndian) { Array($0) }, at: 36)
        let odd = try Disk.open(Self.path, in: fs)
        #expect(odd.byteCount == sectors * 512)
        #expect { try odd.deleteSnapshot(frozen) } throws: { ($0 as? DiskError)?.code == .unsupported }
        try odd.close()
        let again = try Disk.open(Self.path, in: fs)
        // The disk can be grown, and merged then.
        try again.grow(to: UInt64(66 * Self.cluster))
        #expect(try again.deleteSnapshot(frozen))
        #expect(again.byteCount == UInt64(66 * Self.cluster))
        try again.close()
    }

    @Test("the rest of a cluster at the end of a file never shows in a new one") func raggedTail() throws {
        let fs = try makeDisk()
        let file = try fs.open(Self.image, .update)
        let end = try file.size()
        try file.writeBytes([UInt8](repeating: 0xEE, count: 9000), at: end)
        let disk = try Disk.open(Self.path, in: fs)
        let one = [UInt8](repeating: 0x55, count: 512)
        for cluster in 20..<24 {
            try one.withUnsafeBytes { try disk.write(at: UInt64(cluster * Self.cluster + 1024), from: $0) }
        }
        for cluster in 20..<24 {
            let read = try disk.bytes(at: UInt64(cluster * Self.cluster), count: Self.cluster)
            #expect(read.filter { $0 == 0x55 }.count == 512 && read.filter { $0 == 0 }.count == Self.cluster - 512)
        }
        try disk.close()
    }

    @Test("a file that says it is huge is opened at once", .timeLimit(.minutes(5))) func hugeFile() throws {
        for mark in [InUseMark.closed, .open] {
            let fs = try makeDisk()
            var changed = try header(fs)
            changed.inUse = mark
            try patch(fs, at: 0, changed.encode())
            try fs.open(Self.image, .update).truncate(to: 1 << 62)
            _ = try checkDisk(at: Self.path, in: fs)
            let disk = try? Disk.open(Self.path, in: fs)
            if let disk { #expect(try disk.bytes(at: 0, count: 2) == [0x11, 0x11]) }
            try disk?.close()
        }
    }

    @Test("the mark is durable before the first change", arguments: 0..<40) func markFirst(seed: Int) throws {
        let state = try makeDisk()
        let file = try state.open(Self.image, .read)
        let size = try file.size()
        let before = try file.readBytes(at: UInt64(Self.cluster), count: Int(size) - Self.cluster)
        var number = 1
        var isDone = false
        while !isDone {
            let fs = state.duplicate()
            let disk = try Disk.open(Self.path, in: fs)
            fs.setPlan(.stop(atChange: number))
            // In place, and never flushed: what survives is the host's choice.
            isDone = (try? fill(disk, 0..<4, 0x77)) != nil
            let after = fs.afterPowerCut(.random(seed: UInt64(seed * 100 + number)))
            let found = try after.open(Self.image, .read)
            let now = try found.readBytes(at: UInt64(Self.cluster), count: before.count)
            if now != before { #expect(try header(after).inUse == .open, "cut at \(number)") }
            number += 1
        }
        #expect(number > 2)
    }
}
