import BlockIO
import LinuxSystem
import TestSupport
import Testing

/// A disk on a host without space, as its administrator sees it.
@Suite(
    .enabled(
        if: Product.isBuilt && canMountLoop && hasTool("mkfs.ext4") && hasTool("nbdfuse"),
        "needs root, loop devices, nbdfuse, ext4, and the program beside the tests"), .serialized,
    .timeLimit(.minutes(10)))
struct FullHostTests {
    private static let noSpace: CInt = 14

    /// A mounted disk on which a program's write waits for space on the host; or has ended, and only the page cache has
    /// what it wrote.
    private final class Scene {
        let bench: DeviceBench
        let writer: ChildProcess

        init(isWriting: Bool = true) throws {
            bench = try DeviceBench(size: "64M", cluster: "64K", fileSystemSize: "40M")
            let device = try #require(try bench.attach("--device").device)
            // So that the program's data is all that needs space.
            try expectTool("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
            try bench.godwit("disk", "umount", bench.disk)
            try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
            _ = try runTool("dd", "if=/dev/zero", "of=\(bench.fileSystem)/filler", "bs=64k")
            writer = try ChildProcess(
                "dd",
                ["if=/dev/urandom", "of=\(bench.mountPoint)/file", "bs=1M", "count=16"]
                    + (isWriting ? ["conv=fsync"] : []), errors: .null)
            if isWriting { try bench.awaitState("full") } else { #expect(try writer.wait() == 0) }
        }
    }

    @Test func `writes wait, status says so, and nothing hangs that waits for them`() throws {
        let scene = try Scene()
        let bench = scene.bench
        let snapshot = try bench.run(["snapshot", "create", bench.disk])
        #expect(snapshot.exitCode == Self.noSpace && snapshot.errorText.contains("space"), "\(snapshot.errorText)")
        #expect(try scene.writer.wait(deadlineMilliseconds: 0) == nil)
        try LinuxFileSystem().remove("\(bench.fileSystem)/filler")
        // Nothing was lost, and nobody was told of an error.
        #expect(try scene.writer.wait(deadlineMilliseconds: 60_000) == 0)
        try bench.awaitState("serving")
        #expect(try LinuxFileSystem().open("\(bench.mountPoint)/file", .read).size() == 16 << 20)
        try bench.godwit("snapshot", "create", bench.disk)
        try bench.detachWhenUnused()
        try expectTool("e2fsck", "-f", "-n", try #require(try bench.attach("--device").device))
    }

    @Test func `a freeze for which there is not the space is left, and freezes nothing`() throws {
        let bench = try Scene(isWriting: false).bench
        let start = SystemTime().monotonic()
        let snapshot = try bench.run(["snapshot", "create", bench.disk, "--freeze-deadline", "3s"])
        #expect(snapshot.exitCode == Self.noSpace, "\(snapshot.errorText)")
        #expect(SystemTime().monotonic() - start < 60_000_000_000)
        try LinuxFileSystem().remove("\(bench.fileSystem)/filler")
        try bench.awaitState("serving")
        // Nobody comes late to freeze it.
        try expectTool("timeout", "60", "sh", "-c", "echo 1 > \"$1\"/after && sync -f \"$1\"", "sh", bench.mountPoint)
        try bench.godwit("snapshot", "create", bench.disk)
        try bench.detachWhenUnused()
        try expectTool("e2fsck", "-f", "-n", try #require(try bench.attach("--device").device))
    }

    @Test func `an unmounting that waits for space is left, and goes on when there is some`() throws {
        let bench = try Scene(isWriting: false).bench
        let umount = try bench.runWhenUnused(["disk", "umount", bench.disk])
        #expect(umount.exitCode == Self.noSpace, "\(umount.errorText)")
        #expect(umount.errorText.contains("wait for space on the host"), "\(umount.errorText)")
        // Whoever comes next is not kept out.
        try bench.awaitState("full")
        let again = try bench.run(["disk", "detach", bench.disk])
        #expect([6, Self.noSpace].contains(again.exitCode), "\(again.errorText)")
        try LinuxFileSystem().remove("\(bench.fileSystem)/filler")
        try bench.awaitState("serving")
        try bench.detachWhenUnused()
        let device = try #require(try bench.attach("--device").device)
        try expectTool("e2fsck", "-f", "-n", device)
        #expect(try expectTool("debugfs", "-R", "stat file", device).contains("Size: 16777216"))
    }

    /// The kernel has unmounted it by the time that it waits.
    @Test func `a forced detachment of what only the page cache has ends, too`() throws {
        let bench = try Scene(isWriting: false).bench
        let detached = try bench.run(["disk", "detach", bench.disk, "--force"])
        #expect(detached.exitCode == 0, "\(detached.errorText)")
        try LinuxFileSystem().remove("\(bench.fileSystem)/filler")
        try bench.godwit("disk", "check", bench.disk)
    }

    @Test func `a forced detachment ends the waiting`() throws {
        let scene = try Scene()
        let bench = scene.bench
        let detached = try bench.run(["disk", "detach", bench.disk, "--force"])
        #expect(detached.exitCode == 0, "\(detached.errorText)")
        #expect(try scene.writer.wait(deadlineMilliseconds: 60_000) != nil)
        try LinuxFileSystem().remove("\(bench.fileSystem)/filler")
        try bench.godwit("disk", "check", bench.disk)
    }
}

extension DeviceBench {
    private struct States: Decodable {
        struct One: Decodable { var state: String }
        var disks: [One]
    }

    fileprivate func awaitState(_ wanted: String) throws {
        let deadline = SystemTime().monotonic() + 60_000_000_000
        var none: [PollEntry] = []
        while true {
            let state = try decode(States.self, "status", disk).disks.first?.state
            if state == wanted { return }
            guard SystemTime().monotonic() < deadline else {
                throw BenchError(message: "the disk is \(state ?? "gone"), not \(wanted)")
            }
            try pollDescriptors(&none, deadlineMilliseconds: 50)
        }
    }

    /// Other tests make mount namespaces meanwhile, in which our mount is, too; and an unmounting that was left to
    /// itself is not over when the disk serves again.
    fileprivate func runWhenUnused(_ arguments: [String]) throws -> ProgramResult {
        let deadline = SystemTime().monotonic() + 60_000_000_000
        var none: [PollEntry] = []
        while true {
            let result = try run(arguments)
            let isHeldElsewhere =
                result.errorText.contains("mount namespace")
                || result.errorText.contains("held by another block device")
            guard isHeldElsewhere, SystemTime().monotonic() < deadline else { return result }
            try pollDescriptors(&none, deadlineMilliseconds: 100)
        }
    }

    fileprivate func detachWhenUnused() throws {
        let result = try runWhenUnused(["disk", "detach", disk])
        guard result.exitCode == 0 else { throw ToolFailure(command: ["godwit", "disk", "detach"], result: result) }
    }
}
