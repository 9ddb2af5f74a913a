import BlockIO
import FoundationEssentials
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

/// Commands may be killed at any instant: the next one finds what is there, and nothing is left.
@Suite(
    .enabled(if: Product.isBuilt, "the program is not beside the tests"), .serialized,
    .timeLimit(.minutes(5)))
struct KilledCommandTests {
    private static let canMakeDevices = canMountLoop && hasTool("mkfs.ext4") && hasTool("nbdfuse")
    private static let notAttached: CInt = 7
    private static let alreadyAttached: CInt = 8

    /// Starts the command, and kills it after so long unless it has ended.
    private func killed(_ bench: DeviceBench, after milliseconds: Int, _ arguments: String...) throws -> CInt {
        let child = try ChildProcess(
            Product.program, arguments, environment: bench.environment, output: .null, errors: .null)
        if let code = try child.wait(deadlineMilliseconds: milliseconds) { return code }
        try child.send(Signal.kill)
        return try child.wait()
    }

    /// A migration that died had stopped the guest; what it noted is done again as whoever recovers.
    @Test func aRecordThatAnybodyCouldHaveWrittenIsNotFollowed() throws {
        let bench = try DeviceBench(size: "16M")
        let (configuration, trace) = (bench.folder.file("godwit.toml"), bench.folder.file("started"))
        let hook = "[hooks]\nstart = \"touch \(trace)\"\n"
        try LinuxFileSystem().replaceContents(of: configuration, with: Array(hook.utf8))
        let boot = try #require(try kernelText("/proc/sys/kernel/random/boot_id")).prefix { $0 != "\n" }
        let record = "\(bench.disk)/godwit-migration.json"
        let text = "{\"identity\":\"a\",\"attempts\":[],\"stop\":{\"boot\":\"\(boot)\",\"mountpoint\":\"/etc\"}}"
        try LinuxFileSystem().replaceContents(of: record, with: Array(text.utf8))
        let recover = ["migrate", "--recover", bench.disk, "--config", configuration]
        for (owner, isFollowed) in [("65534", false), ("0", true)] {
            try expectTool("chown", owner, bench.disk)
            let result = try bench.run(recover)
            #expect((result.exitCode == 0) == isFollowed, "\(result.exitCode) \(result.errorText)")
            #expect(result.errorText.contains("may be anybody's") == !isFollowed, "\(result.errorText)")
            #expect(try LinuxFileSystem().exists(trace) == isFollowed)
        }
    }

    /// Processes that know of the bench's folder, once those have ended that are about to.
    private func processes(of bench: DeviceBench) throws -> [String] {
        var left: [String] = []
        for name in try LinuxFileSystem().list("/proc") {
            guard let number = Int32(name), number != ownProcess(),
                let words = try kernelText("/proc/\(name)/cmdline"), words.contains(bench.path),
                let process = try ProcessHandle(number),
                try !process.waitForEnd(deadlineMilliseconds: 5_000)
            else { continue }
            left.append("\(name): \(words.replacing("\0", with: " "))")
        }
        return left
    }

    private func expectNothingLeft(_ bench: DeviceBench, _ comment: String) throws {
        let processes = try processes(of: bench)
        #expect(processes.isEmpty, "\(comment): \(processes)")
        let mounts = try MountTable.current().mounts.map(\.mountPoint).filter { $0.hasPrefix(bench.path + "/") }
        #expect(mounts.isEmpty, "\(comment)")
        let loops = try ChildProcess.run("losetup", ["--list", "--noheadings", "--output", "NAME,BACK-FILE"]).outputText
        #expect(!loops.contains(bench.path), "\(comment): \(loops)")
        #expect(try LinuxFileSystem().list(bench.runFolder).isEmpty, "\(comment)")
    }

    @Test func attach() throws {
        let bench = try DeviceBench(size: "64M")
        for step in 0..<24 {
            let code = try killed(bench, after: step * 2, "disk", "attach", bench.disk, "--backend", "user")
            try bench.godwit("status")
            let again = try bench.run(["disk", "attach", bench.disk, "--backend", "user"])
            #expect([0, Self.alreadyAttached].contains(again.exitCode), "\(step): \(code), \(again.errorText)")
            try bench.godwit("disk", "detach", bench.disk)
            try expectNothingLeft(bench, "\(step)")
        }
    }

    @Test func detach() throws {
        let bench = try DeviceBench(size: "64M")
        for step in 0..<16 {
            try bench.attach()
            _ = try killed(bench, after: step, "disk", "detach", bench.disk)
            let again = try bench.run(["disk", "detach", bench.disk])
            #expect([0, Self.notAttached].contains(again.exitCode), "\(step): \(again.errorText)")
            try expectNothingLeft(bench, "\(step)")
        }
    }

    @Test(.enabled(if: canMakeDevices, "needs root, loop devices, nbdfuse and ext4"))
    func mountAndUnmount() throws {
        let bench = try DeviceBench(size: "64M")
        let device = try #require(try bench.attach("--device").device)
        try expectTool("mkfs.ext4", "-q", device)
        try bench.godwit("disk", "detach", bench.disk)
        for step in 0..<16 {
            // Attached by the same command in every other round.
            if step % 2 == 0 { try bench.attach() }
            _ = try killed(
                bench, after: step * 9, "disk", "mount", bench.disk, bench.mountPoint, "--backend", "user")
            if step % 4 < 2 {
                let again = try bench.run(["disk", "mount", bench.disk, bench.mountPoint, "--backend", "user"])
                #expect([0, Self.alreadyAttached].contains(again.exitCode), "\(step): \(again.errorText)")
                try expectTool("touch", bench.mountPoint + "/file")
                _ = try killed(bench, after: step * 5, "disk", "umount", bench.disk)
            }
            let end = try bench.run(["disk", "detach", bench.disk])
            #expect([0, Self.notAttached].contains(end.exitCode), "\(step): \(end.errorText)")
            try expectNothingLeft(bench, "\(step)")
        }
    }

    @Test func aServerWithoutARecordIsFound() throws {
        let bench = try DeviceBench(size: "64M")
        let attached = try bench.attach()
        let entry = try #require(try LinuxFileSystem().list(bench.runFolder).first { $0.utf8.count == 16 })
        try LinuxFileSystem().remove("\(bench.runFolder)/\(entry)/attach.json")
        #expect(try bench.run(["disk", "attach", bench.disk]).exitCode == Self.alreadyAttached)
        #expect(try bench.status().pid == attached.pid)
        try bench.godwit("disk", "detach", bench.disk)
        try expectNothingLeft(bench, "adopted")
    }

    @Test func aDiskThatWasRenamedIsFoundByBothNames() throws {
        let bench = try DeviceBench(size: "64M")
        try bench.attach()
        let moved = bench.folder.file("moved")
        try LinuxFileSystem().rename(bench.disk, to: moved)
        let again = try bench.run(["disk", "attach", moved])
        #expect(again.exitCode == Self.alreadyAttached && again.errorText.contains(bench.disk), "\(again.errorText)")
        try bench.godwit("disk", "detach", moved)
        try LinuxFileSystem().rename(moved, to: bench.disk)
        try bench.attach()
        try LinuxFileSystem().rename(bench.disk, to: moved)
        try bench.godwit("disk", "detach", bench.disk)
        try LinuxFileSystem().rename(moved, to: bench.disk)
        try expectNothingLeft(bench, "renamed")
        try bench.godwit("disk", "check", bench.disk)
    }
}

/// One disk whose server hangs stops nothing else.
@Suite(
    .enabled(if: Product.isBuilt, "the program is not beside the tests"), .timeLimit(.minutes(3)))
struct HungServerTests {
    private static let timeout: CInt = 25
    private static let interrupted: CInt = 130

    private struct States: Decodable {
        struct One: Decodable {
            struct Attachment: Decodable { var disk: String }
            var attachment: Attachment
            var state: String
        }
        var disks: [One]
    }

    @Test func itIsToldAndGivenUp() throws {
        let bench = try DeviceBench(size: "64M")
        let attached = try bench.attach()
        let other = bench.folder.file("other")
        try bench.godwit("disk", "create", other, "--size", "64M")
        try bench.godwit("disk", "attach", other, "--backend", "user")
        defer { _ = try? bench.run(["disk", "detach", other, "--force"]) }
        let server = try #require(try ProcessHandle(attached.pid))
        try server.send(Signal.stop)
        let states = try bench.decode(States.self, "status")
        #expect(states.disks.first { $0.attachment.disk.hasSuffix("/disk") }?.state == "not answering")
        #expect(states.disks.first { $0.attachment.disk.hasSuffix("/other") }?.state == "serving")
        let list = try bench.run(["snapshot", "list", bench.disk])
        #expect(list.exitCode == Self.timeout, "\(list.errorText)")
        // The first signal ends what waits for it, and leaves nothing.
        try bench.godwit("store", "init", bench.folder.file("store"))
        let backup = try ChildProcess(
            Product.program, ["backup", bench.disk, "--store", bench.folder.file("store")],
            environment: bench.environment, output: .null, errors: .null)
        #expect(try backup.wait(deadlineMilliseconds: 1_000) == nil)
        try backup.send(Signal.interrupt)
        #expect(try backup.wait(deadlineMilliseconds: 6_000) == Self.interrupted)
        try bench.godwit("snapshot", "create", other)
        let end = try bench.run(["disk", "detach", bench.disk])
        #expect(end.exitCode == Self.timeout && end.errorText.contains("repaired"), "\(end.errorText)")
        #expect(try ProcessHandle(attached.pid) == nil)
        try bench.attach()
    }

    @Test(.enabled(if: canMountLoop && hasTool("mkfs.ext4") && hasTool("nbdfuse")))
    func anUnmountIsLeftAndEnded() throws {
        let bench = try DeviceBench(size: "64M")
        let attached = try bench.attach("--device")
        try expectTool("mkfs.ext4", "-q", try #require(attached.device))
        try bench.godwit("disk", "mount", bench.disk, bench.mountPoint)
        try expectTool("cp", "/bin/sh", bench.mountPoint + "/file")
        let server = try #require(try ProcessHandle(attached.pid))
        try server.send(Signal.stop)
        let umount = try ChildProcess(
            Product.program, ["disk", "umount", bench.disk], environment: bench.environment, output: .null,
            errors: .null)
        #expect(try umount.wait(deadlineMilliseconds: 30_000) == Self.timeout)
        let end = try ChildProcess(
            Product.program, ["disk", "detach", "--force", bench.disk], environment: bench.environment, output: .null,
            errors: .null)
        #expect(try end.wait(deadlineMilliseconds: 60_000) == Self.timeout)
        #expect(try ProcessHandle(attached.pid) == nil)
        #expect(try MountTable.current().mount(at: bench.mountPoint) == nil)
    }
}
