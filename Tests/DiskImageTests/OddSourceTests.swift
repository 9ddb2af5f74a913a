import BlockIO
import Geometry
import ImageFormat
import LinuxSystem
import TestSupport
import Testing

@testable import DiskImage

/// Sources and targets of an import or export that are no plain file of a round size.
@Suite struct OddSourceTests {
    private let fs = LinuxFileSystem()

    @Test(
        "an import has the size of its source, and so has the export",
        arguments: [(64 << 20) + 65536, (10 << 20) + 512, 5 << 20, 512, 33 * 32768 + 4096])
    func sizes(bytes: Int) throws {
        let folder = try TemporaryFolder()
        let raw = folder.file("raw")
        try makeRaw(raw, byteCount: UInt64(bytes), [(UInt64(bytes) - 512, pattern(512, seed: 3))])
        let report = try importImage(from: raw, to: folder.file("disk"), in: fs)
        #expect(report.byteCount == UInt64(bytes) && report.sourceBytes == UInt64(bytes))
        #expect(try diskInfo(at: folder.file("disk"), in: fs).byteCount == UInt64(bytes))
        let disk = try Disk.open(folder.file("disk"), in: fs)
        #expect(disk.byteCount == UInt64(bytes))
        // A snapshot has the size of what it is of.
        let guid = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
        #expect(disk.byteCount == UInt64(bytes))
        let one = [UInt8](repeating: 9, count: 512)
        try one.withUnsafeBytes { try disk.write(at: UInt64(bytes) - 512, from: $0) }
        try pattern(512, seed: 3).withUnsafeBytes { try disk.write(at: UInt64(bytes) - 512, from: $0) }
        _ = try disk.deleteSnapshot(guid)
        try disk.close()
        #expect(try checkDisk(at: folder.file("disk"), in: fs).isSound)
        _ = try exportImage(from: folder.file("disk"), to: folder.file("out"), in: fs)
        #expect(try readFile(folder.file("out")) == readFile(raw))
        if bytes % (32 << 10) != 0 {
            let error = #expect(throws: DiskError.self) {
                try HeldDisk.take(folder.file("disk"), in: fs, readOnly: false).stack()
            }
            #expect(error?.code == .unsupported)
        } else {
            // The driver takes whole clusters.
            _ = try HeldDisk.take(folder.file("disk"), in: fs, readOnly: false).stack()
        }
    }

    @Test("going back to a snapshot of an odd size keeps it") func switching() throws {
        let folder = try TemporaryFolder()
        let bytes: UInt64 = (2 << 20) + 512
        try makeRaw(folder.file("raw"), byteCount: bytes, [(0, [1])])
        _ = try importImage(from: folder.file("raw"), to: folder.file("disk"), in: fs)
        let disk = try Disk.open(folder.file("disk"), in: fs)
        let guid = try disk.commitSnapshot(try disk.prepareSnapshot()).guid
        try disk.close()
        try switchSnapshot(of: folder.file("disk"), to: guid, in: fs)
        #expect(try diskInfo(at: folder.file("disk"), in: fs).byteCount == bytes)
    }

    @Test("a file with a part of a sector is rounded up, and told") func partOfSector() throws {
        let folder = try TemporaryFolder()
        try makeRaw(folder.file("raw"), byteCount: (10 << 20) + 102, [((10 << 20) + 100, [1, 2])])
        let report = try importImage(from: folder.file("raw"), to: folder.file("disk"), in: fs)
        #expect(report.byteCount == (10 << 20) + 512 && report.sourceBytes == (10 << 20) + 102)
        _ = try exportImage(from: folder.file("disk"), to: folder.file("out"), in: fs)
        #expect(
            try readFile(folder.file("out")) == readFile(folder.file("raw")) + [UInt8](repeating: 0, count: 410))
    }

    @Test(
        "images of other formats are recognised, and refused with the remedy", .enabled(if: hasQemuImg),
        arguments: ["qcow", "qcow2", "qed", "vmdk", "vdi", "vhdx", "vpc", "vpc,subformat=fixed,force_size=on"])
    func formats(format: String) throws {
        let folder = try TemporaryFolder()
        let (file, disk) = (folder.file("image"), folder.file("disk"))
        let parts = format.split(separator: ",", maxSplits: 1).map(String.init)
        if parts.count == 2 {
            try expectTool("qemu-img", "create", "-q", "-f", parts[0], "-o", parts[1], file, "10M")
        } else {
            try expectTool("qemu-img", "create", "-q", "-f", format, file, "10M")
        }
        let error = #expect(throws: DiskError.self) { try importImage(from: file, to: disk, in: fs) }
        #expect(error?.code == .unsupported)
        let remedy = "qemu-img convert -f \(parts[0]) -O raw"
        #expect(error?.message.contains(remedy) == true, "\(String(describing: error))")
        #expect(try !fs.exists(disk))
        var options = ImportOptions()
        options.isRaw = true
        _ = try importImage(from: file, to: disk, options: options, in: fs)
        #expect(try fs.exists(disk))
    }

    @Test("compressed files are recognised", arguments: ["gzip", "bzip2", "xz", "zstd"]) func compressed(tool: String)
        throws
    {
        guard hasTool(tool) else { return }
        let folder = try TemporaryFolder()
        try makeRaw(folder.file("raw"), byteCount: 1 << 20, [(0, pattern(1000, seed: 1))])
        try expectTool("sh", "-c", "\(tool) -c '\(folder.file("raw"))' > '\(folder.file("packed"))'")
        let error = #expect(throws: DiskError.self) {
            try importImage(from: folder.file("packed"), to: folder.file("disk"), in: fs)
        }
        #expect(error?.code == .unsupported && error?.message.contains("\(tool) -d") == true)
    }

    @Test("a pipe is refused at once", .timeLimit(.minutes(5))) func pipe() throws {
        let folder = try TemporaryFolder()
        try expectTool("mkfifo", folder.file("pipe"))
        let error = #expect(throws: DiskError.self) {
            try importImage(from: folder.file("pipe"), to: folder.file("disk"), in: fs)
        }
        #expect(error?.code == .invalid && error?.message.contains("pipe") == true)
    }

    @Test("an image that somebody has open is not exported, nor checked") func inUse() throws {
        let folder = try TemporaryFolder()
        try createDisk(at: folder.file("disk"), options: CreateOptions(byteCount: 1 << 20), in: fs)
        try fs.rename(folder.file("disk/root.hds"), to: folder.file("image"))
        let disk = try Disk.open(folder.file("image"), in: fs)
        var error = #expect(throws: DiskError.self) {
            try exportImage(from: folder.file("image"), to: folder.file("out"), in: fs)
        }
        #expect(error?.code == .inUse)
        error = #expect(throws: DiskError.self) { try checkDisk(at: folder.file("image"), in: fs) }
        #expect(error?.code == .inUse)
        try disk.close()
        _ = try exportImage(from: folder.file("image"), to: folder.file("out"), in: fs)
    }

    @Test(
        "a disk on a file system that is mounted read-only is exported, imported and checked",
        .enabled(if: canMountLoop))
    func readOnlySource() throws {
        let folder = try TemporaryFolder()
        let mount = try LoopMount(folder)
        try makeRaw(folder.file("raw"), byteCount: 3 << 20, [(0, pattern(1 << 20, seed: 1))])
        _ = try importImage(from: folder.file("raw"), to: "\(mount.path)/disk", in: fs)
        try expectTool("mount", "-o", "remount,ro", mount.path)
        _ = try exportImage(from: "\(mount.path)/disk", to: folder.file("out"), in: fs)
        #expect(try readFile(folder.file("out")) == readFile(folder.file("raw")))
        _ = try exportImage(from: "\(mount.path)/disk/root.hds", to: folder.file("out2"), in: fs)
        _ = try importImage(from: "\(mount.path)/disk", to: folder.file("copy"), in: fs)
        #expect(try checkDisk(at: "\(mount.path)/disk", in: fs).isSound)
        let error = #expect(throws: DiskError.self) { try Disk.open("\(mount.path)/disk", in: fs) }
        #expect(error?.code == .readOnly)
    }

    @Test("a block device is a source and a target", .enabled(if: canMountLoop)) func blockDevices() throws {
        let folder = try TemporaryFolder()
        let bytes: UInt64 = (8 << 20) + 4096
        try makeRaw(folder.file("backing"), byteCount: bytes, [(0, pattern(Int(bytes), seed: 7))])
        try makeRaw(folder.file("raw"), byteCount: 5 << 20, [(1 << 20, pattern(1 << 20, seed: 8))])
        _ = try importImage(from: folder.file("raw"), to: folder.file("disk"), in: fs)
        let loop = try LoopDevice(folder.file("backing"))
        let report = try importImage(from: loop.path, to: folder.file("from"), in: fs)
        #expect(report.byteCount == bytes)
        _ = try exportImage(from: folder.file("from"), to: folder.file("out"), in: fs)
        #expect(try readFile(folder.file("out")) == pattern(Int(bytes), seed: 7))

        var error = #expect(throws: DiskError.self) {
            try exportImage(from: folder.file("disk"), to: loop.path, in: fs)
        }
        #expect(error?.code == .exists && error?.message.contains("--overwrite") == true)
        _ = try exportImage(from: folder.file("disk"), to: loop.path, overwrites: true, in: fs)
        try expectTool("cmp", "-n", "\(5 << 20)", folder.file("raw"), loop.path)
        try makeRaw(folder.file("large"), byteCount: 9 << 20, [(0, [1])])
        _ = try importImage(from: folder.file("large"), to: folder.file("disk9"), in: fs)
        error = #expect(throws: DiskError.self) {
            try exportImage(from: folder.file("disk9"), to: loop.path, overwrites: true, in: fs)
        }
        #expect(error?.code == .outOfSpace)
        #expect(try fs.kind(of: loop.path) == .blockDevice)
    }

    @Test("a block device that is mounted is neither source nor target", .enabled(if: canMountLoop))
    func mountedDevice() throws {
        let folder = try TemporaryFolder()
        let mount = try LoopMount(folder)
        try createDisk(at: folder.file("disk"), options: CreateOptions(byteCount: 1 << 20), in: fs)
        let device = mount.device.path
        var error = #expect(throws: DiskError.self) { try importImage(from: device, to: folder.file("d"), in: fs) }
        #expect(error?.code == .inUse)
        error = #expect(throws: DiskError.self) {
            try exportImage(from: folder.file("disk"), to: device, overwrites: true, in: fs)
        }
        #expect(error?.code == .inUse)
    }
}

/// A loop device over a file; gone with its owner.
private final class LoopDevice {
    let path: String
    init(_ file: String) throws {
        let made = try expectTool("losetup", "-f", "--show", file)
        path = String(made.split(separator: "\n").first ?? "")
    }
    deinit { _ = try? runTool("losetup", "-d", path) }
}

/// A small ext4 file system, mounted; gone with its owner.
private final class LoopMount {
    let path: String
    let device: LoopDevice
    init(_ folder: TemporaryFolder) throws {
        try makeRaw(folder.file("fs.img"), byteCount: 40 << 20, [])
        try expectTool("mkfs.ext4", "-q", folder.file("fs.img"))
        device = try LoopDevice(folder.file("fs.img"))
        path = folder.file("mounted")
        try LinuxFileSystem().createFolder(path)
        try expectTool("mount", device.path, path)
    }
    deinit { _ = try? runTool("umount", path) }
}
