import BlockIO
import Foundation
import LinuxSystem
import TestSupport
import Testing

/// Servers: who owns a disk, and what a crash leaves.
@Suite(.enabled(if: Product.isBuilt, "the program is not beside the tests"))
struct AttachTests {
    private enum Exit {
        static let notFound: CInt = 3
        static let inUse: CInt = 5
        static let notAttached: CInt = 7
        static let alreadyAttached: CInt = 8
    }

    @Test func aDiskIsAttachedOnce() throws {
        let bench = try DeviceBench()
        let server = try bench.attach().pid
        #expect(try bench.run(["disk", "attach", bench.disk]).exitCode == Exit.alreadyAttached)
        // From another run folder it is somebody else's.
        for command in ["attach", "detach"] {
            let other = try bench.run(
                ["disk", command, bench.disk], environment: ["GODWIT_RUN_DIR": bench.folder.file("run2")])
            #expect(other.exitCode == Exit.inUse, "\(other.errorText)")
            #expect(other.errorText.contains("process \(server) (godwit-nbd)"), "\(other.errorText)")
        }
        try bench.godwit("disk", "detach", bench.disk)
        #expect(try bench.run(["disk", "detach", bench.disk]).exitCode == Exit.notAttached)
        #expect(try LinuxFileSystem().list(bench.runFolder).isEmpty)
    }

    /// As somebody does who restores a disk beside the old one.
    @Test func anotherDiskInThePlaceOfAnAttachedOneIsNotTakenForIt() throws {
        let bench = try DeviceBench(size: "64M")
        try bench.attach()
        let old = bench.disk + ".old"
        try LinuxFileSystem().rename(bench.disk, to: old)
        try bench.godwit("disk", "create", bench.disk, "--size", "64M")
        let names = try LinuxFileSystem().list(bench.disk).filter { !$0.hasSuffix(".lock") }
        try bench.godwit("store", "init", bench.folder.file("store"))
        for arguments in [
            ["snapshot", "create", bench.disk], ["backup", bench.disk, "--store", bench.folder.file("store")],
            ["disk", "resize", bench.disk, "--size", "128M"], ["disk", "attach", bench.disk, "--backend", "user"],
            ["snapshot", "create", old], ["migrate", bench.disk, "nowhere.invalid:/disk"],
        ] {
            let result = try bench.run(arguments)
            #expect(result.exitCode != 0, "\(arguments)")
            if arguments[0] != "migrate" {
                #expect(result.exitCode == 5 && result.errorText.contains(old), "\(arguments): \(result.errorText)")
            }
        }
        #expect(try LinuxFileSystem().list(bench.disk).filter { !$0.hasSuffix(".lock") } == names)
        try bench.godwit("status")
        try bench.godwit("disk", "detach", bench.disk)
        for disk in [bench.disk, old] { try bench.godwit("disk", "check", disk) }
    }

    /// `cp -al` makes such a folder.
    @Test func aDiskOfLinksIsNotWrittenTo() throws {
        let bench = try DeviceBench(size: "64M")
        let copy = bench.disk + ".links"
        try expectTool("cp", "-al", bench.disk, copy)
        for disk in [bench.disk, copy] {
            for arguments in [
                ["disk", "attach", disk], ["snapshot", "create", disk], ["disk", "resize", disk, "--size", "128M"],
            ] {
                let refused = try bench.run(arguments)
                #expect(refused.exitCode == Exit.inUse, "\(arguments): \(refused.exitCode)")
                #expect(refused.errorText.contains("hard links"), "\(refused.errorText)")
            }
            try bench.godwit("disk", "export", disk, disk + ".raw")
            try bench.godwit("disk", "check", disk)
        }
        // Below the top it is in the way of a merge only, which leaves all as it is.
        try expectTool("cp", "--remove-destination", "\(copy)/root.hds", "\(copy)/own")
        let lower = bench.folder.file("lower")
        try expectTool("cp", "-r", copy, lower)
        let state = try bench.godwit("snapshot", "create", lower)
        try expectTool("ln", "\(lower)/root.hds", bench.folder.file("name"))
        let before = try bench.godwit("snapshot", "list", lower, "--json")
        #expect(try bench.run(["snapshot", "merge", lower]).exitCode == Exit.inUse, "\(state)")
        #expect(try bench.godwit("snapshot", "list", lower, "--json") == before)
        try bench.godwit("disk", "attach", lower)
        #expect(try bench.run(["snapshot", "merge", lower]).exitCode == Exit.inUse)
        #expect(try bench.godwit("snapshot", "list", lower, "--json") == before)
        try bench.godwit("disk", "detach", lower)
        try expectTool("mv", "\(copy)/own", "\(copy)/root.hds")
        try bench.godwit("disk", "attach", bench.disk)
        try bench.godwit("snapshot", "create", copy)
    }

    /// It would be unmounted, and told to be detached when it is another host's by then.
    @Test func aDiskThatIsBeingMigratedIsNotDetached() throws {
        let bench = try DeviceBench(size: "64M")
        try bench.attach()
        let entry = try #require(try LinuxFileSystem().list(bench.runFolder).first { $0.count == 16 })
        let control = try UnixSocket.connect(to: "\(bench.runFolder)/\(entry)/control.sock")
        // As a migration does, godwit-control(5).
        try control.writeAll(Array("{\"startTracking\":{\"granuleBytes\":4096}}\n".utf8))
        #expect(try String(decoding: control.readSome(upTo: 4096), as: UTF8.self).contains("tracker"))
        let refused = try bench.run(["disk", "detach", bench.disk])
        #expect(refused.exitCode == 6 && refused.errorText.contains("migration"), "\(refused.errorText)")
        try control.writeAll(Array("{\"stopTracking\":{\"tracker\":1}}\n".utf8))
        _ = try control.readSome(upTo: 4096)
        try bench.godwit("disk", "detach", bench.disk)
    }

    @Test func whatIsNoDiskIsToldSo() throws {
        let bench = try DeviceBench()
        let missing = try bench.run(["disk", "attach", bench.folder.file("none")])
        #expect(missing.exitCode == Exit.notFound, "\(missing.errorText)")
        let file = bench.folder.file("empty.hds")
        _ = try LinuxFileSystem().open(file, OpenMode(writable: true, creation: .exclusive))
        let empty = try bench.run(["disk", "attach", file])
        #expect(empty.exitCode != 0)
        #expect(empty.errorText.contains("empty.hds"), "\(empty.errorText)")
    }

    @Test(.enabled(if: hasTool("qemu-io"))) func flushedDataSurvivesAKilledServer() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        let attached = try bench.attach()
        try expectTool(
            "qemu-io", "-f", "raw", "-c", "write -P 7 0 8M", "-c", "flush", "-c", "write -P 8 32M 1M", attached.uri)
        try bench.kill(attached)
        try bench.godwit("disk", "detach", bench.disk)
        let again = try bench.attach()
        #expect(again.repairedOnOpen)
        #expect(again.pid != attached.pid)
        let said = try expectTool("qemu-io", "-f", "raw", "-c", "read -P 7 0 8M", again.uri)
        #expect(!said.contains("failed"), "\(said)")
        try bench.godwit("disk", "detach", bench.disk)
        try bench.godwit("disk", "check", bench.disk)
    }

    @Test(.enabled(if: hasTool("fio"))) func aServerKilledUnderLoadLeavesASoundDisk() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        // What one round wrote and flushed is verified in all later lives of the server.
        for round in 0..<3 {
            let attached = try bench.attach()
            let result = try fioOverNBD(
                attached.uri,
                ["--rw=write", "--bs=64k", "--size=8M", "--offset=\(round * 8)M", "--end_fsync=1", "--do_verify=0"])
            #expect(result.exitCode == 0, "\(result.errorText)")
            let load = try ChildProcess(
                "fio",
                [
                    "--name=load", "--ioengine=nbd", "--uri=\(attached.uri)", "--rw=randwrite", "--bs=4k",
                    "--iodepth=16",
                    "--offset=32M", "--size=32M", "--time_based", "--runtime=60", "--verify_state_save=0",
                ], output: .null, errors: .null)
            // Until the load has begun: each look is an answer of the server.
            while try bench.writtenBytes() < UInt64(12 << 20), try load.exitCode() == nil {}
            try bench.kill(attached)
            _ = try load.wait(deadlineMilliseconds: 90_000)
            let again = try bench.attach()
            #expect(again.repairedOnOpen)
            for earlier in 0...round {
                let verified = try fioOverNBD(
                    again.uri, ["--rw=read", "--bs=64k", "--size=8M", "--offset=\(earlier * 8)M"])
                #expect(verified.exitCode == 0, "round \(round), \(earlier): \(verified.errorText)")
            }
            try bench.godwit("disk", "detach", bench.disk)
            try bench.godwit("disk", "check", bench.disk)
        }
    }

    @Test func detachingDoesNotWaitForIdleClients() throws {
        let bench = try DeviceBench()
        let attached = try bench.attach()
        let socket = try #require(attached.uri.drop { $0 != "=" }.dropFirst().removingPercentEncoding)
        let idle = try UnixSocket.connect(to: socket)
        try bench.godwit("disk", "detach", bench.disk)
        #expect(try ProcessHandle(attached.pid) == nil)
        #expect(try !bench.attach().repairedOnOpen)
        UnixSocket.end(idle.number)
    }

    @Test func aTerminatedServerClosesItsDisk() throws {
        let bench = try DeviceBench()
        let attached = try bench.attach()
        let server = try #require(try ProcessHandle(attached.pid))
        try server.send(Signal.terminate)
        #expect(try server.waitForEnd(deadlineMilliseconds: 30_000))
        #expect(try !bench.attach().repairedOnOpen)
    }
}

extension DeviceBench {
    private struct Counters: Decodable {
        struct One: Decodable {
            struct Server: Decodable { var writeBytes: UInt64 }
            var server: Server?
        }
        var disks: [One]
    }

    fileprivate func writtenBytes() throws -> UInt64 {
        try decode(Counters.self, "status", disk).disks.first?.server?.writeBytes ?? 0
    }
}
