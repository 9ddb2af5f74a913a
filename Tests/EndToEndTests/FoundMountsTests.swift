import LinuxSystem
import TestSupport
import Testing

/// File systems that the number of the disk's device does not lead to are frozen all the same.
@Suite(.enabled(if: Product.isBuilt, "the program and its plugin are not beside the tests"), .timeLimit(.minutes(3)))
struct FoundMountsTests {
    private static let canMakeDevices = canMountLoop && hasTool("mkfs.ext4") && hasTool("nbdfuse")
    private static let hasBtrfs = canMakeDevices && hasTool("mkfs.btrfs") && kernelHas("btrfs")

    private static func kernelHas(_ fileSystem: String) -> Bool {
        _ = try? ChildProcess.run("modprobe", [fileSystem])
        let list = (try? kernelText("/proc/filesystems")).flatMap { $0 } ?? ""
        return list.split(separator: "\n").contains { $0.hasSuffix("\t\(fileSystem)") }
    }

    private struct Snapshots: Decodable {
        struct One: Decodable {
            var consistent: Bool
            var freezeNanoseconds: UInt64
        }
        var snapshots: [One]
    }

    private func expectFrozen(_ bench: DeviceBench) throws {
        let taken = try #require(try bench.decode(Snapshots.self, "snapshot", "create", bench.disk).snapshots.first)
        #expect(taken.consistent && taken.freezeNanoseconds > 0)
    }

    @Test(.enabled(if: canMakeDevices && hasTool("unshare"), "needs root, loop devices, nbdfuse and ext4"))
    func whatIsMountedInAnotherNamespaceOnly() throws {
        let bench = try DeviceBench()
        let device = try #require(try bench.attach("--device").device)
        try expectTool("mkfs.ext4", "-q", device)
        let input = try Pipe()
        let output = try Pipe()
        let script = """
            mount --make-rprivate / && mount "$1" "$2" && echo x > "$2/file" && echo mounted && read -r line
            umount "$2"
            """
        let container = try ChildProcess(
            "unshare", ["-m", "sh", "-c", script, "sh", device, bench.mountPoint],
            input: .descriptor(input.reading.number), output: .descriptor(output.writing.number))
        let word = input.keepWriting()
        let said = output.keepReading()
        #expect(try said.readSome(upTo: 100) == Array("mounted\n".utf8))
        try expectFrozen(bench)
        try word.writeAll(Array("\n".utf8))
        #expect(try container.wait() == 0)
        try bench.godwit("disk", "detach", bench.disk)
    }

    @Test(.enabled(if: canMakeDevices, "needs root, loop devices, nbdfuse and ext4"))
    func aLoopDeviceOverTheDisk() throws {
        let bench = try DeviceBench()
        let device = try #require(try bench.attach("--device").device)
        let made = try ChildProcess.run("losetup", ["--find", "--show", "--offset", "1048576", device])
        let loop = made.outputText.filter { !$0.isNewline }
        defer { _ = try? ChildProcess.run("losetup", ["--detach", loop]) }
        try expectTool("mkfs.ext4", "-q", loop)
        try expectTool("mount", loop, bench.mountPoint)
        defer { try? unmountFileSystem(at: bench.mountPoint) }
        try expectFrozen(bench)
    }

    /// Any user may say so of a file system that has nothing to do with the device.
    @Test(.enabled(if: canMakeDevices && hasTool("unshare"), "needs root, loop devices, nbdfuse and ext4"))
    func aFileSystemThatOnlyNamesTheDevice() throws {
        let bench = try DeviceBench()
        let device = try #require(try bench.attach("--device").device)
        let input = try Pipe()
        let output = try Pipe()
        let script = """
            mount --make-rprivate / && mount -t tmpfs "$1" "$2" && echo mounted && read -r line
            umount "$2"
            """
        let stranger = try ChildProcess(
            "unshare", ["-m", "sh", "-c", script, "sh", device, bench.mountPoint],
            input: .descriptor(input.reading.number), output: .descriptor(output.writing.number))
        let word = input.keepWriting()
        let said = output.keepReading()
        #expect(try said.readSome(upTo: 100) == Array("mounted\n".utf8))
        let taken = try bench.decode(Snapshots.self, "snapshot", "create", bench.disk).snapshots.first
        #expect(taken?.consistent == false && taken?.freezeNanoseconds == 0)
        try bench.godwit("disk", "detach", bench.disk)
        try word.writeAll(Array("\n".utf8))
        #expect(try stranger.wait() == 0)
    }

    @Test(.enabled(if: hasBtrfs, "needs root, loop devices, nbdfuse and btrfs"))
    func btrfs() throws {
        let bench = try DeviceBench()
        let device = try #require(try bench.attach("--device").device)
        try expectTool("mkfs.btrfs", "-q", device)
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        try expectFrozen(bench)
        try bench.godwit("disk", "umount", bench.disk)
        try bench.godwit("disk", "detach", bench.disk)
    }
}
