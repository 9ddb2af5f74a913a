import BlockIO
import DiskImage
import Geometry
import ImageFormat
import LinuxSystem
import TestSupport
import Testing

@Suite struct TransferTests {
    let fs = LinuxFileSystem()

    @Test(
        "raw files come in and go out unchanged, and stay sparse", .enabled(if: hasPloop && hasQemuImg),
        arguments: [
            UInt64(32 << 10), 64 << 10, 1 << 20, 64 << 20,
        ], ImageVersion.allCases)
    func roundTrip(clusterBytes: UInt64, version: ImageVersion) throws {
        let folder = try TemporaryFolder()
        let raw = folder.file("raw")
        try makeRaw(
            raw, byteCount: 130 << 20,
            [
                (0, pattern(10_000, seed: 1)), (9_999_000, pattern(3 << 20, seed: 2)),
                ((130 << 20) - 512, pattern(512, seed: 3)),
                (50 << 20, [UInt8](repeating: 0, count: 1 << 20)),
            ])
        let disk = folder.file("disk")
        let cluster = try #require(ClusterSize(bytes: clusterBytes))
        let report = try importImage(
            from: raw, to: disk, options: ImportOptions(clusterSize: cluster, version: version), in: fs)
        #expect(report.byteCount == 130 << 20)
        #expect(report.dataBytes <= (3 << 20) + 5 * clusterBytes + (1 << 20) || clusterBytes == 64 << 20)
        let image = disk + "/root.hds"
        if (130 << 20) % clusterBytes == 0 {
            try expectSameContent(image, raw)
        }
        let check = try runPloop("check", "-f", "-c", "-r", image)
        #expect(check.exitCode == 0, "\(check.outputText)\(check.errorText)")
        try expectTool("qemu-img", "check", "-f", "parallels", image)
        #expect(try checkDisk(at: disk, in: fs).severity == nil)
        let back = folder.file("back")
        _ = try exportImage(from: disk, to: back, in: fs)
        try expectTool("cmp", "-n", "\(130 << 20)", raw, back)
        #expect(try fs.open(back, .read).allocatedBytes() < 8 << 20)
        _ = try exportImage(from: image, to: folder.file("back2"), in: fs)
        try expectTool("cmp", back, folder.file("back2"))
    }

    static let qemuKinds: [(UInt64, UInt64)] = [
        (512, 1_048_576), (4096, 20_000_256), (98_304, 20_000_256), (1_048_576, 20_000_256), (1_048_576, 67_108_864),
        (3_145_728, 67_108_864), (33_554_432, 104_857_600), (134_217_728, 314_572_800),
    ]

    @Test("QEMU's images read the same, odd clusters and sizes too", .enabled(if: hasQemuImg), arguments: qemuKinds)
    func fromQemu(_ kind: (clusterBytes: UInt64, byteCount: UInt64)) throws {
        let (clusterBytes, byteCount) = kind
        let folder = try TemporaryFolder()
        let raw = folder.file("raw")
        try makeRaw(
            raw, byteCount: byteCount,
            [
                (0, pattern(700, seed: 4)), (300_000, pattern(200_000, seed: 5)),
                (byteCount - 1000, pattern(1000, seed: 6)),
            ])
        let image = folder.file("qemu.hds")
        try expectTool(
            "qemu-img", "convert", "-f", "raw", "-O", "parallels", "-o", "cluster_size=\(clusterBytes)", raw, image)
        let size = try diskInfo(at: image, in: fs).byteCount
        #expect(size == (byteCount + 511) / 512 * 512)
        let disk = folder.file("disk")
        _ = try importImage(from: image, to: disk, in: fs)
        #expect(try checkDisk(at: disk, in: fs).severity == nil)
        _ = try exportImage(from: disk, to: folder.file("back"), in: fs)
        try expectTool("cmp", "-n", "\(byteCount)", raw, folder.file("back"))
        _ = try exportImage(from: image, to: folder.file("direct"), in: fs)
        try expectTool("cmp", "-n", "\(byteCount)", raw, folder.file("direct"))
        #expect(try fs.open(folder.file("direct"), .read).size() == size)
    }

    @Test("an unclean image is read, a cut one refused", .enabled(if: hasQemuImg)) func unclean() throws {
        let folder = try TemporaryFolder()
        let raw = folder.file("raw")
        let content = pattern(3 << 20, seed: 7)
        try makeRaw(raw, byteCount: 20 << 20, [(0, content)])
        let image = folder.file("i.hds")
        try expectTool("qemu-img", "convert", "-f", "raw", "-O", "parallels", raw, image)
        let file = try fs.open(image, .update)
        try file.truncate(to: try file.size() - 1000)
        let error = #expect(throws: DiskError.self) { try importImage(from: image, to: folder.file("d1"), in: fs) }
        #expect(error?.code == .corrupt)
        #expect(try !fs.exists(folder.file("d1")))
        try file.writeBytes(littleEndian(InUseMark.open.rawValue), at: 44)
        let report = try importImage(from: image, to: folder.file("d2"), in: fs)
        #expect(report.danglingEntries == 1)
        _ = try exportImage(from: folder.file("d2"), to: folder.file("out"), in: fs)
        let out = try readFile(folder.file("out"))
        #expect(Array(out[..<((3 << 20) - 1000)]) == Array(content[..<((3 << 20) - 1000)]))
    }

    @Test("a disk with snapshots made by ploop is read as a stack", .enabled(if: hasPloop && hasQemuImg)) func stack()
        throws
    {
        let folder = try TemporaryFolder()
        let disk = folder.file("disk")
        let raw = folder.file("raw")
        var expected = [UInt8](repeating: 0, count: 20 << 20)
        let low = pattern(4 << 20, seed: 8)
        try makeRaw(raw, byteCount: 20 << 20, [(1 << 20, low)])
        expected.replaceSubrange(1 << 20..<5 << 20, with: low)
        _ = try importImage(from: raw, to: disk, options: ImportOptions(version: .v1), in: fs)
        try expectPloop("snapshot", "-u", "{22222222-1111-1111-1111-111111111111}", disk + "/DiskDescriptor.xml")
        // Put a cluster into the new top by hand.
        let top = try #require(try diskInfo(at: disk, in: fs).images.last?.file)
        let high = pattern(1 << 20, seed: 9)
        try patch("\(disk)/\(top)", at: 1 << 20, high)
        try patch("\(disk)/\(top)", at: 64 + 4 * 2, littleEndian(2048))
        expected.replaceSubrange(2 << 20..<3 << 20, with: high)
        _ = try exportImage(from: disk, to: folder.file("out"), in: fs)
        #expect(try readFile(folder.file("out")) == expected)
        let copy = folder.file("copy")
        _ = try importImage(from: disk, to: copy, in: fs)
        _ = try exportImage(from: copy, to: folder.file("out2"), in: fs)
        #expect(try readFile(folder.file("out2")) == expected)
    }

    @Test("a stopped transfer leaves nothing") func stopped() throws {
        let folder = try TemporaryFolder()
        let raw = folder.file("raw")
        try makeRaw(raw, byteCount: 40 << 20, [(0, pattern(30 << 20, seed: 10))])
        let error = #expect(throws: DiskError.self) {
            try importImage(from: raw, to: folder.file("d"), in: fs) { done, total in done < total / 2 }
        }
        #expect(error?.code == .busy)
        #expect(try fs.list(folder.path) == ["raw"])
        try createDisk(at: folder.file("d"), options: CreateOptions(byteCount: 1 << 20), in: fs)
        try makeRaw(folder.file("taken"), byteCount: 1, [])
        #expect(throws: DiskError.self) { try exportImage(from: folder.file("d"), to: folder.file("taken"), in: fs) }
        #expect(try readFile(folder.file("taken")).count == 1)
    }

    @Test(
        "every flipped bit of a source's header or table is an error or content of the right size",
        .enabled(if: hasQemuImg))
    func bitFlips() throws {
        let folder = try TemporaryFolder(in: memoryFolder)
        try makeRaw(folder.file("raw"), byteCount: 256 << 10, [(0, pattern(100_000, seed: 11))])
        let image = folder.file("i.hds")
        try expectTool(
            "qemu-img", "convert", "-f", "raw", "-O", "parallels", "-o", "cluster_size=32768", folder.file("raw"), image
        )
        let head = Array(try readFile(image)[..<96])
        for bit in 0..<96 * 8 {
            var flipped = head
            flipped[bit / 8] ^= 1 << (bit % 8)
            try patch(image, at: 0, flipped)
            let out = folder.file("out")
            do throws(DiskError) {
                let report = try exportImage(from: image, to: out, in: fs)
                #expect(report.byteCount > 0)
            } catch {
                #expect(!error.message.isEmpty)
                #expect(try !fs.exists(out))
            }
            if try fs.exists(out) { try fs.remove(out) }
            do throws(DiskError) { _ = try checkDisk(at: image, in: fs) } catch { #expect(!error.message.isEmpty) }
        }
    }
}
