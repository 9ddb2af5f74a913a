import AgentAPI
@testable import AgentCore
import BlockIO
import DiskImage
import Geometry
import Glibc
import LinuxSystem
import Migration
import TestSupport
import Testing
import Transport

/// What the attachments of this process start as a disk's server.
private let program = builtProgram("godwit")

/// Two hosts in one process, with run folders of their own.
private struct Hosts {
    let temporary: TemporaryFolder
    let fs = LinuxFileSystem()
    let here: String
    let there: String
    let ours: DeviceAttachments
    let theirs: DeviceAttachments

    init(byteCount: UInt64) throws {
        temporary = try TemporaryFolder()
        here = temporary.file("here/disk")
        there = temporary.file("there/disk")
        for name in ["here", "there", "run", "run2"] { try fs.createFolder(temporary.file(name)) }
        ours = DeviceAttachments(runFolder: temporary.file("run"))
        theirs = DeviceAttachments(runFolder: temporary.file("run2"))
        try createDisk(at: here, options: CreateOptions(byteCount: byteCount), in: fs)
    }

    /// A service whose far side is a thread of this process.
    var service: MigrationService {
        let theirs = self.theirs
        return MigrationService(attachments: ours, fs: fs) { _, _ throws(TransportError) in
            let (near, far) = MemoryStream.pair(capacity: 4 << 20)
            let agent = PeerAgent(
                fs: LinuxFileSystem(), product: "test",
                receiver: MigrationService.receiver(
                    attachments: theirs, configuration: Configuration(), allowsCommands: true))
            do throws(SystemError) {
                _ = try OwnThread(name: "agent") { try? agent.serve(far, peerName: "the source") }
            } catch {
                throw TransportError(.system, error.description)
            }
            return try MessageChannel(stream: near, peerName: "the target")
        }
    }

    /// All bytes of an image or disk, as a digest of sorts: equal for equal content.
    func exported(_ path: String, to name: String) throws -> String {
        let file = temporary.file(name)
        _ = try exportImage(from: path, to: file, in: fs)
        return file
    }
}

@Suite(.serialized) struct MigrationServiceTests {
    @Test(
        "a disk in use does not grow while it moves, and moves with the size that it has",
        .enabled(if: program != nil))
    func growth() throws {
        setenv("GODWIT_EXECUTABLE", program ?? "", 1)
        let hosts = try Hosts(byteCount: 64 << 20)
        var attaching = AttachOptions()
        attaching.backend = .user
        _ = try hosts.ours.attach(hosts.here, options: attaching)
        defer { try? hosts.ours.detach(hosts.here) }
        try hosts.ours.control(hosts.here).perform(.grow(bytes: 80 << 20))
        var refused = 0
        let report = try hosts.service.migrate(hosts.here, to: "far:\(hosts.there)") { event in
            guard event == .checked else { return }
            let error = #expect(throws: ControlError.self) {
                try hosts.ours.control(hosts.here).perform(.grow(bytes: 96 << 20))
            }
            if error?.code == ControlError.busy { refused += 1 }
        }
        #expect(refused == 1 && report.sizeBytes == 80 << 20)
        #expect(try diskInfo(at: hosts.there, in: hosts.fs).byteCount == 80 << 20)
    }

    @Test("spellings of one target are one, and a home is not part of a name")
    func spellings() throws {
        let hosts = try Hosts(byteCount: 1 << 20)
        for target in ["Far:22:/a//b/./c/", "far:/a/b/c", "ssh://far/a/b/c"] {
            #expect(try hosts.service.reach(target, wantsCommands: false).name == "far:/a/b/c")
        }
        for target in ["far:a", "far:~/a", "ssh://far/~/a", "far:./a"] {
            #expect(try hosts.service.reach(target, wantsCommands: false).name == "far:a")
        }
        // The name is what a recovery finds the target by.
        for target in [
            "ssh://far/~/vm@1/web", "ssh://far/~/2024:web", "ssh://far/~/a/b@c:d", "far:2222:a", "far:/a@b:c",
            "far:./2024", "far:~/2024", "far:22:2024", "far:./~x", "far:./~/x", "far:2222:2024",
        ] {
            let reached = try hosts.service.reach(target, wantsCommands: false)
            let again = try hosts.service.reach(reached.name, wantsCommands: false)
            #expect(again.name == reached.name && again.folder == reached.folder, "\(target): \(reached.name)")
        }
        #expect {
            try hosts.service.migrate(hosts.here, to: "far:~other/a")
        } throws: {
            ($0 as? MigrationError)?.message.contains("without '~'") == true
        }
    }

    @Test("a detached disk moves in one round")
    func detached() throws {
        let hosts = try Hosts(byteCount: 64 << 20)
        let disk = try Disk.open(hosts.here, in: hosts.fs)
        var random = SeededRandom(seed: 1)
        for offset in stride(from: UInt64(0), to: 64 << 20, by: 3 << 20) {
            try random.bytes(70_000).withUnsafeBytes { try disk.write(at: offset, from: $0) }
        }
        try disk.close()
        let report = try hosts.service.migrate(hosts.here, to: "far:\(hosts.there)")
        #expect(report.rounds.count == 1)
        #expect(report.sourceDigest == report.targetDigest)
        #expect(report.leftBehind == nil)
        let before = try hosts.exported(hosts.here + "/root.hds", to: "before.raw")
        let after = try hosts.exported(hosts.there, to: "after.raw")
        try expectTool("cmp", before, after)
        #expect { try Disk.open(hosts.here, in: hosts.fs) } throws: { ($0 as? DiskError)?.code == .inUse }
    }

    @Test(
        "an attached disk moves while a writer works on it, within its downtime, and arrives whole",
        .enabled(if: program != nil && hasTool("fio")), arguments: ["4k", "64k"])
    func attached(blockSize: String) throws {
        setenv("GODWIT_EXECUTABLE", program ?? "", 1)
        let hosts = try Hosts(byteCount: 1 << 30)
        var attaching = AttachOptions()
        attaching.backend = .user
        let attached = try hosts.ours.attach(hosts.here, options: attaching)
        let uri = try #require(attached.uri)
        defer {
            try? hosts.ours.detach(hosts.here)
            try? hosts.theirs.detach(hosts.there)
        }
        try expectTool(
            "fio", "--name=fill", "--ioengine=nbd", "--uri=\(uri)", "--rw=write", "--bs=1M", "--size=256M",
            "--buffer_compress_percentage=50", "--refill_buffers")
        let writer = try ChildProcess(
            "fio",
            [
                "--name=writer", "--ioengine=nbd", "--uri=\(uri)", "--rw=randwrite", "--bs=\(blockSize)",
                "--iodepth=8", "--size=256M", "--rate=4M", "--time_based", "--runtime=120",
                "--output=\(hosts.temporary.file("fio.txt"))",
            ])
        // Reaped at once, so that the hook sees it end.
        let reaper = try OwnThread(name: "reaper") { _ = try? writer.wait() }
        // The guest's end: it is told to stop, and the hook waits until it has.
        let stop = "kill -INT \(writer.identifier); while kill -0 \(writer.identifier) 2> /dev/null; do :; done"
        let hooks = HookRunner(hooks: [.stop: Hook(command: stop, limitSeconds: 30)])
        var options = MigrationOptions()
        // A debug build on a busy host: what is to be shown is that it converges and loses nothing, not how fast it is.
        options.limits.downtimeNanoseconds = 2_000_000_000
        options.startCommand = "echo $GODWIT_DISK > \(hosts.temporary.file("started"))"
        let report = try hosts.service.migrate(
            hosts.here, to: "far:\(hosts.there)", options: options, hooks: hooks)
        print("rounds \(report.rounds.count), downtime \(report.downtimeMilliseconds) ms")
        reaper.join()
        #expect(report.sourceDigest == report.targetDigest)
        #expect(report.finalBytes > 0)
        #expect(report.startFailure == nil && report.leftBehind == nil)
        #expect(try hosts.theirs.attached(hosts.there) != nil)
        try hosts.theirs.detach(hosts.there)
        let before = try hosts.exported(hosts.here + "/root.hds", to: "before.raw")
        let after = try hosts.exported(hosts.there, to: "after.raw")
        try expectTool("cmp", before, after)
    }
}
