import BlockIO
import DiskImage
import Geometry
import ImageFormat
import LinuxSystem
import TestSupport
import Testing

@Suite struct CheckTests {
    let fs = LinuxFileSystem()

    /// A disk of 16 clusters of 64 KiB, with clusters 0, 1 and 5 allocated as 1, 2 and 3 of the file.
    private func makeDisk(_ folder: TemporaryFolder, version: ImageVersion = .v2) throws -> (
        disk: String, image: String
    ) {
        let raw = folder.file("raw")
        try makeRaw(raw, byteCount: 1 << 20, [(0, pattern(128 << 10, seed: 1)), (5 << 16, pattern(64 << 10, seed: 2))])
        let disk = folder.file("disk")
        _ = try importImage(
            from: raw, to: disk, options: ImportOptions(clusterSize: ClusterSize(bytes: 64 << 10), version: version),
            in: fs)
        return (disk, disk + "/root.hds")
    }

    private func content(_ folder: TemporaryFolder, _ path: String) throws -> [UInt8] {
        let out = folder.file("content")
        _ = try exportImage(from: path, to: out, in: fs)
        defer { try? fs.remove(out) }
        return try readFile(out)
    }

    @Test(
        "each fault is found, told in its class, and repaired", .enabled(if: hasPloop),
        arguments: [
            (CheckFinding.Kind.slotBeyondDevice, 64 + 4 * 16, UInt32(1)), (.beyondFile, 64 + 4 * 3, 4),
            (.beyondFile, 64 + 4 * 3, 0xFFFF_FFFE),
            (.duplicate, 64 + 4 * 3, 2), (.inUse, 44, 0x746F_6E59), (.inUse, 44, 1), (.emptyFlag, 52, 1),
        ])
    func faults(kind: CheckFinding.Kind, offset: Int, value: UInt32) throws {
        let folder = try TemporaryFolder()
        let (disk, image) = try makeDisk(folder)
        let before = try content(folder, disk)
        try patch(image, at: UInt64(offset), littleEndian(value))
        let found = try checkDisk(at: disk, in: fs)
        #expect(found.images[0].counts == [kind.rawValue: 1], "\(found)")
        #expect(found.severity == kind.severity && !found.isSound)
        #expect(try checkDisk(at: image, in: fs).images[0].counts == [kind.rawValue: 1])

        let repaired = try checkDisk(at: disk, repair: true, in: fs)
        #expect(repaired.severity == nil, "\(repaired)")
        #expect(repaired.repaired == [kind.rawValue: 1])
        #expect(!repaired.images[0].repairs.isEmpty)
        let check = try runPloop("check", "-f", "-c", "-r", image)
        #expect(check.exitCode == 0, "\(check.outputText)\(check.errorText)")
        var expected = before
        if kind == .duplicate {
            // Both owners keep the bytes.
            expected.replaceSubrange(3 << 16..<4 << 16, with: before[1 << 16..<2 << 16])
        }
        #expect(try content(folder, disk) == expected)
    }

    @Test("version 1 entries that are no multiple of the cluster are found and cleared", .enabled(if: hasPloop))
    func misaligned() throws {
        let folder = try TemporaryFolder()
        let (disk, image) = try makeDisk(folder, version: .v1)
        let before = try content(folder, disk)
        try patch(image, at: 64 + 4 * 9, littleEndian(129))
        #expect(try checkDisk(at: disk, in: fs).images[0].counts == ["misaligned": 1])
        #expect(try checkDisk(at: disk, repair: true, in: fs).severity == nil)
        #expect(try content(folder, disk) == before)
        #expect(try runPloop("check", "-f", "-c", "-r", image).exitCode == 0)
    }

    @Test("entries into the block table are found and cleared") func beforeData() throws {
        let folder = try TemporaryFolder()
        let disk = folder.file("disk")
        // A table of two clusters: cluster 1 of the file is table.
        try createDisk(
            at: disk, options: CreateOptions(byteCount: 20000 << 15, clusterSize: .smallest), in: fs)
        try patch(disk + "/root.hds", at: 64, littleEndian(1))
        #expect(
            try checkDisk(at: disk, in: fs).images[0].counts
                == ["beforeData": 1, "emptyFlag": 0].filter { $0.value > 0 })
        #expect(try checkDisk(at: disk, repair: true, in: fs).severity == nil)
    }

    @Test("leaks are notes that stay, tails are cut") func leaksAndTails() throws {
        let folder = try TemporaryFolder()
        let (disk, image) = try makeDisk(folder)
        try patch(image, at: 64 + 4, littleEndian(0))
        let file = try fs.open(image, .update)
        try file.writeBytes([UInt8](repeating: 7, count: 70_000), at: 4 << 16)
        let found = try checkDisk(at: disk, in: fs)
        #expect(found.images[0].counts == ["leak": 1, "tail": 1] && found.isSound)
        let repaired = try checkDisk(at: disk, repair: true, in: fs)
        #expect(repaired.images[0].counts == ["leak": 1])
        #expect(try file.size() == 4 << 16)
    }

    @Test("three owners of one cluster get one each") func triplicate() throws {
        let folder = try TemporaryFolder()
        let (disk, image) = try makeDisk(folder)
        try patch(image, at: 64 + 4 * 8, littleEndian(2))
        try patch(image, at: 64 + 4 * 12, littleEndian(2))
        let before = try content(folder, disk)
        let repaired = try checkDisk(at: disk, repair: true, in: fs)
        #expect(repaired.severity == nil && repaired.repaired == ["duplicate": 2])
        #expect(try content(folder, disk) == before)
        #expect(try fs.open(image, .read).size() == 6 << 16)
    }

    @Test(
        "holes in images that QEMU made are noted, and filled so that ploop takes them",
        .enabled(if: hasPloop && hasQemuImg && isOnExt4))
    func sparse() throws {
        let folder = try TemporaryFolder()
        let image = folder.file("q.hds")
        try expectTool("qemu-img", "create", "-f", "parallels", "-o", "size=20M", image)
        try expectTool("qemu-io", "-f", "parallels", "-c", "write -P 1 300k 8k", "-c", "write -P 2 5M 4k", image)
        #expect(try runPloop("check", "-f", "-r", image).exitCode == 11)
        let found = try checkDisk(at: image, in: fs)
        #expect(found.isSound && found.images[0].counts["sparse"] ?? 0 > 0, "\(found)")
        #expect(try checkDisk(at: image, repair: true, in: fs).severity == nil)
        let check = try runPloop("check", "-f", "-c", "-r", image)
        #expect(check.exitCode == 0, "\(check.outputText)\(check.errorText)")
        try expectTool(
            "qemu-io", "-f", "parallels", "-c", "read -P 1 300k 8k", "-c", "read -P 2 5M 4k", "-c", "read -P 0 6M 4k",
            image)
    }

    @Test("every flipped bit of header and table is repaired, or refused with a reason") func bitFlips() throws {
        let folder = try TemporaryFolder(in: memoryFolder)
        let (_, image) = try makeDisk(folder)
        let whole = try readFile(image)
        for bit in 0..<(64 + 4 * 18) * 8 {
            var flipped = Array(whole[..<4096])
            flipped[bit / 8] ^= 1 << (bit % 8)
            let file = try fs.open(image, .update)
            try file.truncate(to: UInt64(whole.count))
            try file.writeBytes(flipped, at: 0)
            do throws(DiskError) {
                let found = try checkDisk(at: image, in: fs)
                let repaired = try checkDisk(at: image, repair: true, in: fs)
                #expect(repaired.isSound, "bit \(bit): \(found) \(repaired)")
            } catch {
                #expect(bit < 64 * 8 && !error.message.isEmpty, "bit \(bit): \(error)")
            }
        }
    }

    @Test("an extension is used up by a repair, and one that is necessary forbids it") func formatExtension() throws {
        let folder = try TemporaryFolder()
        let (_, image) = try makeDisk(folder)
        let cluster = try #require(ClusterSize(bytes: 64 << 10))
        let file = try fs.open(image, .update)
        var header = try ImageHeader(parsing: try file.readBytes(at: 0, count: 64), fileBytes: 4 << 16)
        header.extensionSector = 4 * 128
        header.inUse = .closedWithExtension
        try file.writeBytes(header.encode(), at: 0)
        try file.writeBytes(
            try FormatExtension(sections: [.init(magic: 5, flags: 1, data: [1])]).encode(clusterSize: cluster),
            at: 4 << 16)
        #expect(try checkDisk(at: image, in: fs).severity == nil)
        header.inUse = .open
        try file.writeBytes(header.encode(), at: 0)
        let error = #expect(throws: DiskError.self) { try checkDisk(at: image, repair: true, in: fs) }
        #expect(error?.code == .unsupported)
        try file.writeBytes(
            try FormatExtension(sections: [.init(magic: 5, flags: 0, data: [1])]).encode(clusterSize: cluster),
            at: 4 << 16)
        #expect(try checkDisk(at: image, repair: true, in: fs).severity == nil)
        let after = try ImageHeader(parsing: try file.readBytes(at: 0, count: 64), fileBytes: try file.size())
        #expect(after.extensionSector == 0 && after.inUse == .closed)
    }

    @Test("contradictions between the images of a disk are found", .enabled(if: hasPloop)) func chain() throws {
        let folder = try TemporaryFolder()
        let (disk, _) = try makeDisk(folder, version: .v1)
        try expectPloop("snapshot", "-u", "{22222222-1111-1111-1111-111111111111}", disk + "/DiskDescriptor.xml")
        #expect(try checkDisk(at: disk, in: fs).severity == nil)
        let top = "\(disk)/\(try #require(try diskInfo(at: disk, in: fs).images.last?.file))"
        let old = try readFile(top)
        var options = CreateOptions(byteCount: 512 << 10, clusterSize: try #require(ClusterSize(bytes: 64 << 10)))
        options.version = .v2
        try createDisk(at: folder.file("other"), options: options, in: fs)
        try fs.rename(folder.file("other/root.hds"), to: top)
        let found = try checkDisk(at: disk, in: fs)
        #expect(found.findings.map(\.kind) == [.mismatch, .mismatch, .mismatch] && !found.isSound, "\(found.findings)")
        try fs.remove(top)
        #expect(try checkDisk(at: disk, in: fs).findings.map(\.kind).contains(.missingImage))
        let file = try fs.open(top, OpenMode(writable: true, creation: .exclusive))
        try file.writeBytes(old, at: 0)
        #expect(try checkDisk(at: disk, in: fs).severity == nil)
        let stray = try fs.open(
            disk + "/root.hds.{22222222-1111-1111-1111-111111111111}", OpenMode(writable: true, creation: .exclusive))
        try stray.writeBytes([1], at: 0)
        #expect(try checkDisk(at: disk, in: fs).findings.map(\.kind) == [.strayFile])
    }

    @Test("a descriptor that missed a grow is set right by a repair") func descriptorSize() throws {
        let folder = try TemporaryFolder()
        let (disk, _) = try makeDisk(folder)
        let path = disk + "/DiskDescriptor.xml"
        let text = String(decoding: try readFile(path), as: UTF8.self).replacing(">2048</", with: ">1024</")
        try fs.replaceContents(of: path, with: Array(text.utf8))
        let found = try checkDisk(at: disk, in: fs)
        // The image counts, and whoever attaches it puts the descriptor right.
        #expect(found.findings.map(\.kind) == [.mismatch] && found.severity == .note && found.isSound)
        #expect(found.findings.first?.message.contains("attached") == true)
        #expect(try checkDisk(at: disk, repair: true, in: fs).severity == nil)
        #expect(try checkDisk(at: disk, in: fs).severity == nil)
        let larger = String(decoding: try readFile(path), as: UTF8.self).replacing(">2048</", with: ">4096</")
        try fs.replaceContents(of: path, with: Array(larger.utf8))
        #expect(try checkDisk(at: disk, in: fs).severity == .warning)
    }
}
