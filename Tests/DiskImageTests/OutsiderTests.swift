import BlockIO
import Geometry
import ImageFormat
import LinuxSystem
import TestSupport
import Testing

@testable import DiskImage

/// Images of ours under the tools of others, and theirs under ours.
@Suite struct OutsiderTests {
    private let fs = LinuxFileSystem()

    private func write(_ disk: Disk, _ offset: UInt64, _ byte: UInt8, _ count: Int) throws {
        try [UInt8](repeating: byte, count: count).withUnsafeBytes { try disk.write(at: offset, from: $0) }
    }

    private func expectSound(_ path: String) throws {
        let result = try runPloop("check", "-f", "-c", path)
        #expect(result.exitCode == 0, "\(result.outputText)\(result.errorText)")
        try expectTool("qemu-img", "check", "-f", "parallels", path)
    }

    @Test(
        "what random requests leave is sound to ploop and QEMU, and reads the same there",
        .enabled(if: hasPloop && hasTool("qemu-img")),
        arguments: [(ImageVersion.v1, true), (.v2, true), (.v2, false)])
    func randomRequests(version: ImageVersion, direct: Bool) throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disk")
        let size = 8 << 20
        var create = CreateOptions(byteCount: UInt64(size), clusterSize: .smallest)
        create.version = version
        try createDisk(at: path, options: create, in: fs)
        var options = DiskOptions.standard
        options.direct = direct
        options.compactBytesMax = direct ? 1 << 30 : 64 << 10
        let disk = try Disk.open(path, in: fs, options: options)
        var model = [UInt8](repeating: 0, count: size)
        var random = SeededRandom("requests for outsiders")
        for _ in 0..<300 {
            let offset = random.below(size / 512) * 512
            let count = min((random.below(200) + 1) * 512, size - offset)
            let range = ByteRange(offset: UInt64(offset), count: UInt64(count))
            switch random.below(10) {
            case 0..<6:
                let byte = UInt8(random.below(255) + 1)
                try write(disk, range.offset, byte, count)
                model.replaceSubrange(offset..<offset + count, with: repeatElement(byte, count: count))
            case 6..<8:
                try disk.writeZeroes(range, mayDiscard: random.oneIn(2))
                model.replaceSubrange(offset..<offset + count, with: repeatElement(0, count: count))
            case 8:
                try disk.discard(range)
                model.replaceSubrange(offset..<offset + count, with: try disk.bytes(at: range.offset, count: count))
            default: try disk.flush()
            }
        }
        #expect(try disk.bytes(at: 0, count: size) == model)
        try disk.close()
        let image = path + "/" + baseImageName
        try expectSound(image)
        let raw = folder.file("raw")
        let file = try fs.open(raw, OpenMode(writable: true, creation: .exclusive))
        try file.writeBytes(model, at: 0)
        try expectTool("qemu-img", "compare", "-f", "parallels", "-F", "raw", image, raw)
    }

    @Test(
        "a disk with snapshots that were merged and grown is sound to ploop, closed or reopened",
        .enabled(if: hasPloop && hasTool("qemu-img")))
    func snapshots() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disk")
        try createDisk(at: path, options: CreateOptions(byteCount: 40 << 20), in: fs)
        let disk = try Disk.open(path, in: fs)
        for index in 0..<20 { try write(disk, UInt64(index) * 2 << 20, UInt8(index + 1), 300_032) }
        let first = try disk.commitSnapshot(try disk.prepareSnapshot())
        try write(disk, 0, 0xAA, 4096)
        try disk.discard(ByteRange(offset: 4 << 20, count: 4 << 20))
        _ = try disk.commitSnapshot(try disk.prepareSnapshot())
        try write(disk, 5000 * 512, 0xBB, 512)
        #expect(try disk.deleteSnapshot(first.guid))
        _ = try disk.commitSnapshot(try disk.prepareSnapshot())
        try disk.grow(to: 3 << 30)
        try write(disk, (3 << 30) - 4096, 0xCC, 4096)
        try disk.close()
        #expect(try checkDisk(at: path, in: fs).isSound)
        for state in try disk.snapshots() { try expectSound(path + "/" + state.file) }
        // ploop's own tools go on from there.
        try expectPloop("snapshot-merge", path + "/DiskDescriptor.xml")
        let again = try Disk.open(path, in: fs)
        #expect(!again.repairedOnOpen)
        #expect(try again.bytes(at: 0, count: 1) == [0xAA])
        #expect(try again.bytes(at: 4 << 20, count: 1) == [0])
        #expect(try again.bytes(at: 5000 * 512, count: 1) == [0xBB])
        #expect(try again.bytes(at: (3 << 30) - 1, count: 1) == [0xCC])
        try again.close()
    }

    @Test("ploop's snapshots are read and merged", .enabled(if: hasPloop))
    func ploopSnapshots() throws {
        let folder = try TemporaryFolder()
        let image = folder.file("root.hdd")
        try expectPloop("init", "-s", "64M", "-t", "none", image)
        let disk = try Disk.open(folder.path, in: fs)
        try write(disk, 1 << 20, 1, 1 << 20)
        try disk.close()
        let guid = "{11111111-2222-3333-4444-555555555555}"
        try expectPloop("snapshot", "-u", guid, folder.file("DiskDescriptor.xml"))
        let above = try Disk.open(folder.path, in: fs)
        #expect(above.deltaCount == 2)
        try write(above, (1 << 20) + 4096, 2, 4096)
        let frozen = try FrozenState.open(folder.path, snapshot: guid, in: fs)
        var byte: [UInt8] = [9]
        try byte.withUnsafeMutableBytes { try frozen.read(at: (1 << 20) + 4096, into: $0) }
        #expect(byte == [1])
        frozen.close()
        #expect(try above.deleteSnapshot(guid))
        #expect(above.deltaCount == 1)
        #expect(try above.bytes(at: (1 << 20) + 4096, count: 1) == [2])
        try above.close()
        try expectSound(image)
    }

    @Test("QEMU's sparse images are written to and come out sound", .enabled(if: hasPloop && hasTool("qemu-io")))
    func qemuImages() throws {
        let folder = try TemporaryFolder()
        let image = folder.file("qemu.hds")
        try expectTool("qemu-img", "create", "-q", "-f", "parallels", image, "20000256")
        try expectTool("qemu-io", "-f", "parallels", "-c", "write -P 7 3M 64k", "-c", "write -P 8 19000000 256", image)
        let disk = try Disk.open(image, in: fs)
        #expect(disk.byteCount == 20_000_256)
        #expect(try disk.bytes(at: 3 << 20, count: 65536) == [UInt8](repeating: 7, count: 65536))
        #expect(try disk.bytes(at: 19_000_000, count: 256) == [UInt8](repeating: 8, count: 256))
        try write(disk, 20_000_256 - 512, 9, 512)
        #expect(throws: DiskError.self) { try write(disk, 20_000_256 - 256, 9, 512) }
        try disk.close()
        try expectSound(image)
        try expectTool(
            "qemu-io", "-f", "parallels", "-c", "read -P 9 19999744 512", "-c", "read -P 7 3M 64k",
            "-c", "write -P 5 1M 1M", image)
        let again = try Disk.open(image, in: fs)
        #expect(try again.bytes(at: 1 << 20, count: 1 << 20) == [UInt8](repeating: 5, count: 1 << 20))
        try again.close()
    }

    @Test("an image whose writer died is repaired when it is opened, by us and for others", .enabled(if: hasPloop))
    func unclosedImage() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disk")
        try createDisk(at: path, options: CreateOptions(byteCount: 64 << 20), in: fs)
        var disk: Disk? = try Disk.open(path, in: fs)
        for index in 0..<30 { try disk.map { try write($0, UInt64(index) * 2 << 20, 3, 4096) } }
        try disk?.discard(ByteRange(offset: 10 << 20, count: 20 << 20))
        try disk?.flush()
        // Dropped without closing, as a killed process drops it.
        disk = nil
        #expect(try runPloop("check", path + "/" + baseImageName).exitCode != 0)
        let again = try Disk.open(path, in: fs)
        #expect(again.repairedOnOpen)
        #expect(try again.bytes(at: 2 << 20, count: 4096) == [UInt8](repeating: 3, count: 4096))
        #expect(try again.bytes(at: 12 << 20, count: 1) == [0])
        try again.close()
        try expectSound(path + "/" + baseImageName)
    }

    @Test("clusters that are no power of two are refused", .enabled(if: hasTool("qemu-img")))
    func oddCluster() throws {
        let folder = try TemporaryFolder()
        let image = folder.file("odd.hds")
        try expectTool("qemu-img", "create", "-q", "-f", "parallels", "-o", "cluster_size=98304", image, "10M")
        do throws(DiskError) {
            _ = try Disk.open(image, in: fs)
            Issue.record("it was opened")
        } catch { #expect(error.code == .unsupported) }
    }

    @Test("a second owner is refused, also of an image by itself")
    func owners() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disk")
        try createDisk(at: path, options: CreateOptions(byteCount: 8 << 20), in: fs)
        let disk = try Disk.open(path, in: fs)
        do throws(DiskError) {
            _ = try Disk.open(path, in: fs)
            Issue.record("it was opened twice")
        } catch { #expect(error.code == .inUse) }
        let image = path + "/" + baseImageName
        do throws(DiskError) {
            _ = try checkDisk(at: image, repair: true, in: fs)
            Issue.record("an image of it was repaired")
        } catch { #expect(error.code == .inUse) }
        let reader = try Disk.open(path, in: fs, options: .readOnly)
        #expect(throws: DiskError.self) { try write(reader, 0, 1, 512) }
        try disk.close()
        try Disk.open(path, in: fs).close()
        // What is written there would be in no record of changes.
        do throws(DiskError) {
            _ = try Disk.open(image, in: fs)
            Issue.record("one image of a disk was opened for writing")
        } catch { #expect(error.code == .invalid) }
        try Disk.open(image, in: fs, options: .readOnly).close()
        // Migrated away, as its record says.
        try fs.rename(path + "/DiskDescriptor.xml", to: path + "/DiskDescriptor.xml.migrated")
        try fs.replaceContents(of: path + "/" + DiskFolder.migratedMarkName, with: Array("{}".utf8))
        do throws(DiskError) {
            _ = try Disk.open(image, in: fs)
            Issue.record("an image of a disk that was migrated was opened for writing")
        } catch { #expect(error.code == .inUse) }
    }
}

@Suite struct LargeDiskTests {
    @Test("a disk of 64 TiB costs what is used of it")
    func huge() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disk")
        let fs = LinuxFileSystem()
        let size: UInt64 = 64 << 40
        try createDisk(at: path, options: CreateOptions(byteCount: size), in: fs)
        let clock = SystemTime()
        var start = clock.monotonic()
        let disk = try Disk.open(path, in: fs)
        #expect(clock.monotonic() - start < 200_000_000)
        let before = peakMemoryBytes()
        var random = SeededRandom("offsets on a huge disk")
        var written: Set<UInt64> = []
        for _ in 0..<100 {
            let cluster = random.below(size >> 20)
            written.insert(cluster)
            try [UInt8](repeating: 1, count: 4096).withUnsafeBytes { try disk.write(at: cluster << 20, from: $0) }
        }
        let committed = try disk.commitSnapshot(try disk.prepareSnapshot())
        try [UInt8](repeating: 2, count: 4096).withUnsafeBytes { try disk.write(at: size - 4096, from: $0) }
        let second = try disk.commitSnapshot(try disk.prepareSnapshot())
        start = clock.monotonic()
        let frozen = try FrozenState.open(path, snapshot: second.guid, in: fs)
        var all: Set<UInt64> = []
        try frozen.forEachChangedRun(since: nil) { (run: Range<UInt64>) throws(DiskError) in
            all.formUnion(run)
            return true
        }
        #expect(all == written.union([size >> 20 - 1]))
        var later: [Range<UInt64>] = []
        try frozen.forEachChangedRun(since: committed.guid) { (run: Range<UInt64>) throws(DiskError) in
            later.append(run)
            return true
        }
        #expect(later == [size >> 20 - 1..<size >> 20])
        #expect(clock.monotonic() - start < 2_000_000_000)
        frozen.close()
        #expect(try disk.deleteSnapshot(committed.guid))
        #expect(try disk.bytes(at: size - 4096, count: 1) == [2])
        try disk.close()
        #expect(peakMemoryBytes() - before < 128 << 20)
    }

    @Test("a merge that is stopped goes on where it was, and says how far it is")
    func stoppedMerge() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("disk")
        let fs = LinuxFileSystem()
        try createDisk(at: path, options: CreateOptions(byteCount: 512 << 20, clusterSize: .smallest), in: fs)
        let disk = try Disk.open(path, in: fs)
        let first = try disk.commitSnapshot(try disk.prepareSnapshot())
        for index in 0..<3000 {
            try [UInt8](repeating: UInt8(index % 250 + 1), count: 512).withUnsafeBytes {
                try disk.write(at: UInt64(index) * 32768 * 4, from: $0)
            }
        }
        _ = try disk.commitSnapshot(try disk.prepareSnapshot())
        var calls: UInt64 = 0
        #expect(
            try !disk.deleteSnapshot(first.guid) { done, total in
                calls = done
                return done < total / 2
            })
        #expect(calls == 1500)
        #expect(throws: DiskError.self) { _ = try FrozenState.open(path, snapshot: first.guid, in: fs) }
        calls = 0
        #expect(
            try disk.deleteSnapshot(first.guid) { _, _ in
                calls += 1
                return true
            })
        #expect(calls < 3000)
        #expect(disk.deltaCount == 2)
        for index in stride(from: 0, to: 3000, by: 17) {
            #expect(try disk.bytes(at: UInt64(index) * 32768 * 4, count: 1) == [UInt8(index % 250 + 1)])
        }
        try disk.close()
        #expect(try checkDisk(at: path, in: fs).isSound)
    }
}
