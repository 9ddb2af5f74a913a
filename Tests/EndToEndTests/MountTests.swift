import BlockIO
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

/// The kernel's file systems on the device. Serialised: there are few loop devices.
@Suite(
    .enabled(if: Product.isBuilt && Product.hasPlugin, "the program and the plugin are not beside the tests"),
    .enabled(
        if: canMountLoop && hasTool("mkfs.ext4") && hasTool("nbdfuse"), "needs root, loop devices, nbdfuse and ext4"),
    .serialized)
struct MountTests {
    private static let busy: CInt = 6

    private struct Snapshots: Decodable {
        struct One: Decodable {
            var guid: String
            var consistent: Bool
            var freezeNanoseconds: UInt64
        }
        var snapshots: [One]
    }

    /// An attached disk with an empty ext4, not mounted.
    private func formatted() throws -> (bench: DeviceBench, attached: DeviceBench.Attached) {
        let bench = try DeviceBench(size: "256M")
        let attached = try bench.attach("--device")
        try expectTool("mkfs.ext4", "-q", try #require(attached.device))
        return (bench, attached)
    }

    /// Checks the file system of a disk that is not mounted, and the disk.
    private func checkAll(_ bench: DeviceBench) throws {
        try bench.godwit("disk", "detach", bench.disk)
        let device = try #require(try bench.attach("--device").device)
        try expectTool("e2fsck", "-fn", device)
        try bench.godwit("disk", "detach", bench.disk)
        try bench.godwit("disk", "check", bench.disk)
    }

    @Test func aFileSystemLivesOnTheDisk() throws {
        let (bench, _) = try formatted()
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        try expectTool("cp", Product.plugin, bench.mountPoint + "/file")
        try bench.godwit("disk", "umount", bench.disk)
        try bench.godwit("disk", "detach", bench.disk)
        #expect(try LinuxFileSystem().list(bench.runFolder).isEmpty)
        // A new attachment, in one step.
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint, "-t", "ext4", "-o", "noatime")
        try expectTool("cmp", Product.plugin, bench.mountPoint + "/file")
        #expect(try bench.run(["disk", "mount", bench.disk, bench.mountPoint]).exitCode != 0)
        try checkAll(bench)
    }

    /// With and without an image below; by hand, and as qemu-img does. What they must lead to is a file's content.
    @Test(.enabled(if: hasTool("fallocate") && hasTool("qemu-img")))
    func zerosThatAreAskedForOfTheBlockDeviceAreThere() throws {
        let bench = try DeviceBench(size: "16M")
        let image = bench.folder.file("image")
        for round in 0..<2 {
            try expectTool("sh", "-c", "head -c 16M /dev/zero | tr '\\0' x > '\(image)'")
            let device = try #require(try bench.attach("--device").device)
            try expectTool("dd", "if=\(image)", "of=\(device)", "bs=1M", "oflag=direct", "conv=notrunc")
            if round == 1 { try bench.godwit("snapshot", "create", bench.disk) }
            for (offset, count) in [(1 << 20 | 65536, 65536), (3 << 20, 5 << 20 | 4096), (15 << 20 | 512, 512)] {
                for target in [device, image] {
                    try expectTool(
                        "fallocate", "--punch-hole", "--keep-size", "--offset", "\(offset)", "--length", "\(count)",
                        target)
                }
            }
            try expectTool("cmp", image, device)
            try expectTool("dd", "if=/dev/zero", "of=\(image)", "bs=4k", "seek=300", "count=100", "conv=notrunc")
            try expectTool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, device)
            try expectTool("cmp", image, device)
            try bench.godwit("disk", "detach", bench.disk)
            try bench.godwit("disk", "export", bench.disk, bench.folder.file("exported-\(round)"))
            try expectTool("cmp", image, bench.folder.file("exported-\(round)"))
        }
    }

    /// As something that tidies /run up does: systemd-tmpfiles, or a hand.
    @Test("a disk whose record is lost is left in use", arguments: ["attach.json", "*"])
    func lostRecord(names: String) throws {
        let (bench, attached) = try formatted()
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        do {
            let held = try LinuxFileSystem().open(
                bench.mountPoint + "/file", OpenMode(writable: true, creation: .exclusive))
            try expectTool("find", bench.runFolder, "-xdev", "!", "-type", "d", "-name", names, "-delete")
            // By its sockets the server is still found.
            let isFound = names != "*"
            for (arguments, code) in [
                (["disk", "attach", bench.disk], 8), (["disk", "attach", bench.disk, "--device"], Self.busy),
                (["disk", "mount", bench.disk, bench.folder.file("other")], Self.busy),
                (["disk", "detach", bench.disk], Self.busy), (["disk", "detach", bench.disk, "--force"], Self.busy),
            ] {
                let refused = try bench.run(arguments)
                #expect(refused.exitCode == (isFound ? code : 5), "\(arguments): \(refused.errorText)")
                let reason = isFound ? (code == 8 ? "attached already" : "is mounted at") : "process \(attached.pid) "
                #expect(refused.errorText.contains(reason), "\(refused.errorText)")
                #expect(try MountTable.current().mount(at: bench.mountPoint) != nil)
            }
            try held.writeBytes([1, 2, 3], at: 0)
            try held.synchronize()
        }
        if names == "attach.json" { #expect(try bench.run(["disk", "detach", bench.disk]).exitCode == Self.busy) }
        // The way out that it tells.
        try expectTool("umount", bench.mountPoint)
        if names == "*" {
            try expectTool("losetup", "--detach", try #require(attached.device))
            let server = try #require(try ProcessHandle(attached.pid))
            try server.send(Signal.terminate)
            #expect(try server.waitForEnd(deadlineMilliseconds: 30_000))
        } else {
            try bench.godwit("disk", "detach", bench.disk)
        }
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        #expect(try LinuxFileSystem().contents(of: bench.mountPoint + "/file", limit: 16) == [1, 2, 3])
        try checkAll(bench)
    }

    /// It was taken away by hand, and may be another disk's.
    @Test func aDeviceThatBecameAnothersIsNotUsed() throws {
        let (bench, attached) = try formatted()
        let device = try #require(attached.device)
        try expectTool("losetup", "--detach", device)
        let other = bench.folder.file("other")
        try expectTool("truncate", "-s", "64M", other)
        // Where somebody was faster it is theirs, which is as good.
        let isTaken = try ChildProcess.run("losetup", [device, other]).exitCode == 0
        defer { if isTaken { _ = try? ChildProcess.run("losetup", ["--detach", device]) } }
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        let source = try expectTool("findmnt", "--noheadings", "--output", "SOURCE", bench.mountPoint)
        #expect(!source.hasPrefix(device + "\n"), "\(source)")
        try checkAll(bench)
        if isTaken { #expect(try expectTool("losetup", device).contains(other)) }
    }

    @Test func aBusyFileSystemStaysMounted() throws {
        let (bench, _) = try formatted()
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        do {
            let file = try LinuxFileSystem().open(
                bench.mountPoint + "/open", OpenMode(writable: true, creation: .exclusive))
            let refused = try bench.run(["disk", "detach", bench.disk])
            #expect(refused.exitCode == Self.busy, "\(refused.errorText)")
            try file.writeBytes([1, 2, 3], at: 0)
            try file.synchronize()
        }
        try bench.godwit("disk", "detach", bench.disk)
    }

    @Test(.enabled(if: hasTool("qemu-io"))) func aPartitionIsMounted() throws {
        let bench = try DeviceBench(size: "256M")
        let attached = try bench.attach()
        // A DOS table with one entry: type 0x83, from sector 2048, 131072 sectors.
        let table = bench.folder.file("table")
        let entry: [UInt8] = [0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 2, 0]
        try LinuxFileSystem().replaceContents(
            of: table,
            with: [UInt8](repeating: 0, count: 446) + entry + [UInt8](repeating: 0, count: 48) + [0x55, 0xAA])
        try expectTool("qemu-io", "-f", "raw", "-c", "write -s \(table) 0 512", attached.uri)
        let absent = try bench.run(["disk", "mount", bench.disk, bench.mountPoint, "--partition", "7"])
        #expect(absent.exitCode != 0)
        // Nothing is on it yet, so the mount fails, and leaves nothing.
        #expect(try bench.run(["disk", "mount", bench.disk, bench.mountPoint, "--partition", "1"]).exitCode != 0)
        #expect(try bench.status().device == nil)
        let image = bench.folder.file("fs")
        try expectTool("truncate", "-s", "64M", image)
        try expectTool("mkfs.ext4", "-q", image)
        try expectTool("qemu-io", "-f", "raw", "-c", "write -s \(image) 1M 64M", attached.uri)
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint, "--partition", "1")
        try expectTool("cp", Product.plugin, bench.mountPoint + "/file")
        try bench.godwit("disk", "detach", bench.disk)
    }

    /// As mount(8) and umount(8) call them; whether they do, the driver's tests see.
    @Test func theHelpersOfMountAttachAndDetach() throws {
        let (bench, _) = try formatted()
        try bench.godwit("disk", "detach", bench.disk)
        let arguments = [
            bench.disk, bench.mountPoint, "-v", "-t", "godwit.ext4", "-o", "rw,backend=user,noatime,nofail",
        ]
        #expect(try bench.run(["internal-mount"] + arguments).exitCode == 0)
        let mount = try #require(try MountTable.current().mount(at: bench.mountPoint))
        #expect(mount.type == "ext4")
        // As `mount -a` does, which can't see that it is this disk's.
        #expect(try bench.run(["internal-mount"] + arguments).exitCode == 0)
        #expect(try MountTable.current().mounts.filter { $0.mountPoint == bench.mountPoint }.count == 1)
        try bench.godwit("internal-umount", bench.mountPoint)
        #expect(try MountTable.current().mount(at: bench.mountPoint) == nil)
        #expect(try LinuxFileSystem().list(bench.runFolder).isEmpty)
        #expect(try bench.run(["internal-umount", bench.mountPoint]).exitCode != 0)
        #expect(try bench.run(["internal-mount"] + arguments + ["-o", "partition=7"]).exitCode != 0)
        #expect(try LinuxFileSystem().list(bench.runFolder).isEmpty, "what it made is left")
    }

    @Test func aMountThatWasUndoneByHandIsForgotten() throws {
        let (bench, _) = try formatted()
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        try expectTool("umount", bench.mountPoint)
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        #expect(try MountTable.current().mount(at: bench.mountPoint) != nil)
        try bench.godwit("disk", "detach", bench.disk)
    }

    @Test(.enabled(if: hasTool("fio"))) func aSnapshotUnderLoadIsConsistent() throws {
        let (bench, _) = try formatted()
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        let load = try ChildProcess(
            "fio",
            [
                "--name=load", "--directory=\(bench.mountPoint)", "--rw=randwrite", "--bs=4k", "--size=8M", "--fsync=8",
                "--verify=crc32c", "--verify_state_save=0", "--loops=2",
            ], output: .null)
        let taken = try bench.decode(Snapshots.self, "snapshot", "create", bench.disk).snapshots
        let snapshot = try #require(taken.first)
        #expect(snapshot.consistent)
        #expect(snapshot.freezeNanoseconds > 0)
        #expect(try load.wait(deadlineMilliseconds: 120_000) == 0)
        #expect(try !FreezeHandle.thaw(FreezeTarget(path: bench.mountPoint)), "it was still frozen")
        try bench.godwit("snapshot", "delete", bench.disk, snapshot.guid)
        try checkAll(bench)
    }

    @Test func aMountOfAKilledServerIsTakenApart() throws {
        let (bench, attached) = try formatted()
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        try expectTool("cp", Product.plugin, bench.mountPoint + "/file")
        try expectTool("sync", "-f", bench.mountPoint)
        try bench.kill(attached)
        // Something still uses the mount.
        let held = try? LinuxFileSystem().open(bench.mountPoint + "/file", .read)
        try bench.godwit("disk", "detach", bench.disk)
        #expect(try MountTable.current().mount(at: bench.mountPoint) == nil)
        withExtendedLifetime(held) {}
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        try expectTool("cmp", Product.plugin, bench.mountPoint + "/file")
        try checkAll(bench)
    }

    @Test(.enabled(if: hasTool("jq"))) func aMountOfAKilledFuseFileIsTakenApart() throws {
        let (bench, attached) = try formatted()
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        try expectTool("cp", Product.plugin, bench.mountPoint + "/file")
        try expectTool("sync", "-f", bench.mountPoint)
        let fuse = try expectTool("sh", "-c", "jq -r .device.fuse.pid \"$0\"/*/attach.json", bench.runFolder)
        let process = try #require(try ProcessHandle(Int32(fuse.prefix { $0 != "\n" }) ?? 0))
        try process.send(Signal.kill)
        #expect(try process.waitForEnd(deadlineMilliseconds: 30_000))
        #expect(try bench.godwit("status", "--json", bench.disk).contains("\"failed\""))
        try bench.godwit("disk", "umount", bench.disk)
        #expect(try bench.godwit("status", "--json", bench.disk).contains("\"serving\""))
        #expect(try ProcessHandle(attached.pid) != nil)
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        try expectTool("cmp", Product.plugin, bench.mountPoint + "/file")
    }
}
