import BlockIO
import DiskImage
import Geometry
import ImageFormat
import LinuxSystem
import TestSupport
import Testing

@Suite struct CreationTests {
    let fs = LinuxFileSystem()
    static let clusters: [UInt64] = [32 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 64 << 20]

    @Test(
        "a new disk passes the tools' checks", .enabled(if: hasPloop && hasQemuImg), arguments: clusters,
        [
            (ImageVersion.v1, false), (.v2, false), (.v1, true), (.v2, true),
        ])
    func toolsAccept(clusterBytes: UInt64, _ kind: (version: ImageVersion, isPreallocated: Bool)) throws {
        let folder = try TemporaryFolder()
        let disk = folder.file("disk")
        var options = CreateOptions(
            byteCount: max(8 << 20, 2 * clusterBytes), clusterSize: try #require(ClusterSize(bytes: clusterBytes)),
            version: kind.version)
        options.isPreallocated = kind.isPreallocated
        try createDisk(at: disk, options: options, in: fs)
        let image = disk + "/root.hds"
        let check = try runPloop("check", "-f", "-c", "-r", image)
        #expect(check.exitCode == 0, "\(check.outputText)\(check.errorText)")
        try expectTool("qemu-img", "check", "-f", "parallels", image)
        let size = try expectTool(
            "sh", "-c", "qemu-img info --output=json -f parallels \(image) | jq '.[\"virtual-size\"]'")
        #expect(size == "\(options.byteCount)\n")
        let report = try checkDisk(at: disk, in: fs)
        #expect(report.severity == nil, "\(report)")
        let info = try diskInfo(at: disk, in: fs)
        #expect(
            info.byteCount == options.byteCount && info.clusterBytes == clusterBytes
                && info.version == kind.version.rawValue)
        #expect(info.isPreallocated == kind.isPreallocated && info.snapshotCount == 0 && info.chainLength == 1)
        if kind.isPreallocated { #expect(info.allocatedBytes >= options.byteCount) }
    }

    @Test("ploop's snapshot commands work on a new disk", .enabled(if: hasPloop)) func ploopSnapshots() throws {
        let folder = try TemporaryFolder()
        let disk = folder.file("disk")
        try createDisk(at: disk, options: CreateOptions(byteCount: 80 << 20, version: .v1), in: fs)
        let descriptor = disk + "/DiskDescriptor.xml"
        let guid = "{22222222-1111-1111-1111-111111111111}"
        try expectPloop("snapshot", "-u", guid, descriptor)
        #expect(try diskInfo(at: disk, in: fs).snapshotCount == 1)
        #expect(try checkDisk(at: disk, in: fs).isSound)
        try switchSnapshot(of: disk, to: guid, in: fs)
        try expectPloop("snapshot-delete", "-u", guid, descriptor)
        let info = try diskInfo(at: disk, in: fs)
        #expect(info.snapshotCount == 0 && info.images.map(\.file) == ["root.hds"])
        #expect(try fs.list(disk).filter { $0.hasPrefix("root.hds.") } == [])
    }

    @Test("our descriptor is the one that ploop writes, byte for byte", .enabled(if: hasPloop)) func sameDescriptor()
        throws
    {
        let folder = try TemporaryFolder()
        try fs.createFolder(folder.file("theirs"))
        try expectPloop("init", "-s", "20M", "-t", "none", folder.file("theirs/root.hds"))
        try createDisk(at: folder.file("ours"), options: CreateOptions(byteCount: 20 << 20, version: .v1), in: fs)
        #expect(
            try readFile(folder.file("theirs/DiskDescriptor.xml")) == readFile(folder.file("ours/DiskDescriptor.xml")))
        #expect(try readFile(folder.file("theirs/root.hds")) == readFile(folder.file("ours/root.hds")))
    }

    @Test("a disk of 64 TiB is made at once and takes no space", .enabled(if: hasQemuImg)) func huge() throws {
        let folder = try TemporaryFolder()
        let disk = folder.file("disk")
        try createDisk(at: disk, options: CreateOptions(byteCount: 64 << 40), in: fs)
        let info = try diskInfo(at: disk, in: fs)
        #expect(info.byteCount == 64 << 40)
        #expect(info.images[0].fileBytes == 257 << 20)
        // QEMU takes the end of an empty image for that of its first cluster, and calls the rest of the table leaked.
        let check = try runTool("qemu-img", "check", "-f", "parallels", disk + "/root.hds")
        #expect(check.exitCode == 3 && check.outputText.contains("\n256 leaked clusters"))
        #expect(try checkDisk(at: disk, in: fs).severity == nil)
    }

    @Test("nothing is overwritten") func exists() throws {
        let folder = try TemporaryFolder()
        let disk = folder.file("disk")
        let options = CreateOptions(byteCount: 1 << 20)
        try createDisk(at: disk, options: options, in: fs)
        let before = try readFile(disk + "/root.hds")
        let error = #expect(throws: DiskError.self) { try createDisk(at: disk, options: options, in: fs) }
        #expect(error?.code == .exists)
        #expect(try readFile(disk + "/root.hds") == before)
        try fs.remove(disk + "/DiskDescriptor.xml")
        #expect(throws: DiskError.self) { try createDisk(at: disk, options: options, in: fs) }
        #expect(try readFile(disk + "/root.hds") == before)
    }

    @Test("an empty folder may be there already; other files in it stay") func intoFolder() throws {
        let folder = try TemporaryFolder()
        let other = try fs.open(folder.file("other"), OpenMode(writable: true, creation: .exclusive))
        try other.writeBytes([1], at: 0)
        try createDisk(at: folder.path, options: CreateOptions(byteCount: 1 << 20), in: fs)
        #expect(try fs.list(folder.path) == ["DiskDescriptor.xml", "other", "root.hds"])
    }

    @Test("what a version can't hold is refused, and leaves nothing") func tooLarge() throws {
        let folder = try TemporaryFolder()
        let error = #expect(throws: DiskError.self) {
            try createDisk(at: folder.file("d"), options: CreateOptions(byteCount: 2 << 40, version: .v1), in: fs)
        }
        #expect(error?.code == .invalid)
        #expect(try fs.list(folder.path) == [])
    }

    @Test("a raw base is plain content, and ploop takes it", .enabled(if: hasPloop)) func raw() throws {
        let folder = try TemporaryFolder()
        let disk = folder.file("disk")
        var options = CreateOptions(byteCount: (20 << 20) - 5, version: .v1)
        options.isRaw = true
        try createDisk(at: disk, options: options, in: fs)
        let info = try diskInfo(at: disk, in: fs)
        #expect(info.hasRawBase && info.byteCount == 20 << 20 && info.version == 0)
        #expect(try checkDisk(at: disk, in: fs).severity == nil)
        try expectPloop("snapshot", "-u", "{22222222-1111-1111-1111-111111111111}", disk + "/DiskDescriptor.xml")
        #expect(try checkDisk(at: disk, in: fs).isSound)
    }

    @Test("a disk with an owner is refused; paths that are no disk are told apart") func errors() throws {
        let folder = try TemporaryFolder()
        let disk = folder.file("disk")
        try createDisk(at: disk, options: CreateOptions(byteCount: 1 << 20), in: fs)
        let lock = try DiskFolder(resolvedPath: disk, fs: fs).lockOwner()
        var error = #expect(throws: DiskError.self) { try checkDisk(at: disk, in: fs) }
        #expect(error?.code == .inUse)
        error = #expect(throws: DiskError.self) { try exportImage(from: disk, to: folder.file("x"), in: fs) }
        #expect(error?.code == .inUse)
        error = #expect(throws: DiskError.self) { try checkDisk(at: disk + "/root.hds", repair: true, in: fs) }
        #expect(error?.code == .inUse)
        withExtendedLifetime(lock) {}
        error = #expect(throws: DiskError.self) { try diskInfo(at: folder.file("nothing"), in: fs) }
        #expect(error?.code == .notFound)
        error = #expect(throws: DiskError.self) { try diskInfo(at: folder.path, in: fs) }
        #expect(error?.code == .notADisk)
        try makeRaw(folder.file("raw"), byteCount: 1 << 20, [])
        error = #expect(throws: DiskError.self) { try checkDisk(at: folder.file("raw"), in: fs) }
        #expect(error?.code == .notADisk)
    }
}
