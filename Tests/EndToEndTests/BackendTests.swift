import BlockIO
import FoundationEssentials
import LinuxSystem
import TestSupport
import Testing

/// Who moves the data of an attached disk.
enum Backend: String, CaseIterable, CustomTestStringConvertible {
    case user
    case kernel
    var testDescription: String { rawValue }
    /// The driver is loaded, and may be used.
    static let hasDriver = isRoot && (try? LinuxFileSystem().exists("/dev/ploop-control")) == true
}

/// What holds whoever serves a disk: one suite for the engine and for the driver.
@Suite(
    .enabled(if: Product.isBuilt, "the program is not beside the tests"),
    .enabled(if: hasTool("qemu-io"), "needs qemu-io"))
struct BackendTests {
    @Suite struct OnTheEngine {
        private let tests = BackendConformance(backend: .user)
        @Test func oneOwner() throws { try tests.oneOwner() }
        @Test func dataStays() throws { try tests.dataStays() }
        @Test func snapshotsAndMerges() throws { try tests.snapshotsAndMerges() }
        @Test func backups() throws { try tests.backups() }
        @Test func growing() throws { try tests.growing() }
        @Test func mergingAfterGrowing() throws { try tests.mergingAfterGrowing() }
        @Test func compacting() throws { try tests.compacting() }
        @Test func aKilledOwner() throws { try tests.aKilledOwner() }
        @Test func readOnly() throws { try tests.readOnly() }
    }

    @Suite(
        .enabled(
            if: Backend.hasDriver, "the ploop driver is not loaded: kernel/tests runs this suite in a virtual machine"),
        .serialized)
    struct OnTheDriver {
        private let tests = BackendConformance(backend: .kernel)
        @Test func oneOwner() throws { try tests.oneOwner() }
        @Test func dataStays() throws { try tests.dataStays() }
        @Test func snapshotsAndMerges() throws { try tests.snapshotsAndMerges() }
        @Test func backups() throws { try tests.backups() }
        @Test func growing() throws { try tests.growing() }
        @Test func mergingAfterGrowing() throws { try tests.mergingAfterGrowing() }
        @Test func compacting() throws { try tests.compacting() }
        @Test func aKilledOwner() throws { try tests.aKilledOwner() }
        @Test func readOnly() throws { try tests.readOnly() }
    }
}

/// The rules, on one of the backends.
struct BackendConformance {
    let backend: Backend

    private func attach(_ bench: DeviceBench, _ options: String...) throws -> DeviceBench.Attached {
        let result = try bench.run(["disk", "attach", bench.disk, "--json", "--backend", backend.rawValue] + options)
        guard result.exitCode == 0 else { throw ToolFailure(command: ["godwit disk attach"] + options, result: result) }
        let attached = try JSONDecoder().decode(DeviceBench.Attached.self, from: Data(result.output))
        #expect(attached.backend == backend.rawValue)
        return attached
    }

    /// Runs qemu-io's commands; a pattern that is not found is a failure.
    private func io(_ target: String, _ commands: String...) throws {
        let cache = backend == .kernel ? ["-t", "none"] : []
        let said = try ChildProcess.run(
            "qemu-io", ["-f", "raw"] + cache + commands.flatMap { ["-c", $0] } + [target], deadlineMilliseconds: 120_000
        )
        #expect(said.exitCode == 0, "\(said.errorText)")
        #expect(!said.outputText.contains("failed"), "\(commands): \(said.outputText)")
    }

    private func closeAndCheck(_ bench: DeviceBench) throws {
        try bench.godwit("disk", "detach", bench.disk)
        try bench.godwit("disk", "check", bench.disk)
    }

    func oneOwner() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        _ = try attach(bench)
        #expect(try bench.run(["disk", "attach", bench.disk]).exitCode == 8)
        let other = ["GODWIT_RUN_DIR": bench.folder.file("run2")]
        for command in [["disk", "attach"], ["disk", "check", "--repair"], ["snapshot", "create"]] {
            let result = try bench.run(command + [bench.disk], environment: other)
            #expect(result.exitCode == 5, "\(command): \(result.errorText)")
        }
        try closeAndCheck(bench)
        #expect(try bench.run(["disk", "detach", bench.disk]).exitCode == 7)
        #expect(try LinuxFileSystem().list(bench.runFolder).isEmpty)
    }

    func dataStays() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        var attached = try attach(bench)
        try io(attached.target, "write -P 1 0 4M", "write -P 2 4095k 6k", "write -P 3 63M 1M", "flush")
        try io(attached.target, "read -P 1 0 4095k", "read -P 2 4095k 6k", "read -P 0 8M 8M", "read -P 3 63M 1M")
        try closeAndCheck(bench)
        let raw = bench.folder.file("raw")
        try bench.godwit("disk", "export", bench.disk, raw)
        try io(raw, "read -P 1 0 4095k", "read -P 2 4095k 6k", "read -P 3 63M 1M")
        attached = try attach(bench)
        #expect(!attached.repairedOnOpen)
        try io(attached.target, "read -P 3 63M 1M")
        try closeAndCheck(bench)
    }

    private struct States: Decodable {
        struct One: Decodable {
            var guid: String
            var isTop: Bool
        }
        var snapshots: [One]
    }

    func snapshotsAndMerges() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        let attached = try attach(bench)
        // Each state overwrites a part of the last one.
        for round in 1...4 {
            try io(attached.target, "write -P \(round) \(round)M 8M", "flush")
            if round < 4 { try bench.godwit("snapshot", "create", bench.disk) }
        }
        let expected = ["read -P 1 1M 1M", "read -P 2 2M 1M", "read -P 3 3M 1M", "read -P 4 4M 8M", "read -P 0 12M 8M"]
        for command in expected { try io(attached.target, command) }
        var states = try bench.decode(States.self, "snapshot", "list", bench.disk).snapshots
        #expect(states.count == 4)
        #expect(states.last?.isTop == true)
        // From the middle, then the oldest, then into the last one.
        for guid in [states[1].guid, states[0].guid, states[2].guid] {
            try bench.godwit("snapshot", "delete", bench.disk, guid)
            for command in expected { try io(attached.target, command) }
        }
        states = try bench.decode(States.self, "snapshot", "list", bench.disk).snapshots
        #expect(states.count == 1)
        try io(attached.target, "write -P 9 20M 1M", "read -P 9 20M 1M")
        try closeAndCheck(bench)
        #expect(try LinuxFileSystem().list(bench.disk).filter { $0.hasPrefix("root.hds") } == ["root.hds"])
        for command in expected { try io(try attach(bench).target, command); try closeAndCheck(bench) }
    }

    private struct Points: Decodable {
        struct One: Decodable {
            var id: String
            var mode: String
        }
        var points: [One]
    }

    func backups() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        let store = bench.folder.file("store")
        try bench.godwit("store", "init", store)
        let attached = try attach(bench)
        try io(attached.target, "write -P 1 0 16M", "flush")
        try bench.godwit("backup", bench.disk, "--store", store)
        try io(attached.target, "write -P 2 4M 2M", "discard 8M 2M", "write -P 3 40M 64k", "flush")
        try bench.godwit("backup", bench.disk, "--store", store)
        let points = try bench.decode(Points.self, "points", "--store", store).points
        #expect(points.map(\.mode).sorted() == ["full", "incremental"])
        try closeAndCheck(bench)
        let newest = try #require(points.first { $0.mode == "incremental" })
        for (name, point) in [("new", newest.id), ("old", points.first { $0.mode == "full" }?.id ?? "")] {
            try bench.godwit("restore", point, "--store", store, "--to", bench.folder.file(name))
            try bench.godwit("disk", "export", bench.folder.file(name), bench.folder.file(name + ".raw"))
        }
        try bench.godwit("disk", "export", bench.disk, bench.folder.file("now.raw"))
        try expectTool("cmp", bench.folder.file("now.raw"), bench.folder.file("new.raw"))
        try io(bench.folder.file("old.raw"), "read -P 1 0 16M", "read -P 0 16M 48M")
    }

    private struct Resized: Decodable { var sizeBytes: UInt64 }

    func growing() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        let attached = try attach(bench)
        try io(attached.target, "write -P 1 0 64M", "flush")
        // Beyond what the block table's first cluster describes: data moves out of its way.
        let grown = try bench.decode(Resized.self, "disk", "resize", bench.disk, "--size", "2G")
        #expect(grown.sizeBytes == 2 << 30)
        try io(attached.target, "read -P 1 0 64M", "write -P 2 2047M 1M", "read -P 2 2047M 1M", "read -P 0 64M 64M")
        try closeAndCheck(bench)
        try io(try attach(bench).target, "read -P 1 0 64M", "read -P 2 2047M 1M")
        try closeAndCheck(bench)
    }

    /// A state from before is smaller than what is merged into it: its data moves out of the longer table's way, too.
    func mergingAfterGrowing() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        let attached = try attach(bench)
        try io(attached.target, "write -P 1 0 64M", "flush")
        try bench.godwit("snapshot", "create", bench.disk)
        try bench.godwit("disk", "resize", bench.disk, "--size", "2G")
        try io(attached.target, "write -P 2 1M 1M", "write -P 3 2047M 1M", "flush")
        try bench.godwit("snapshot", "create", bench.disk)
        try io(attached.target, "write -P 4 2M 64k", "flush")
        let expected = [
            "read -P 1 0 1M", "read -P 2 1M 1M", "read -P 4 2M 64k", "read -P 1 2112k 63424k", "read -P 0 64M 64M",
            "read -P 3 2047M 1M",
        ]
        for left in [2, 1] {
            let states = try bench.decode(States.self, "snapshot", "list", bench.disk).snapshots
            try bench.godwit("snapshot", "delete", bench.disk, try #require(states.first).guid)
            #expect(try bench.decode(States.self, "snapshot", "list", bench.disk).snapshots.count == left)
            for command in expected { try io(attached.target, command) }
        }
        try closeAndCheck(bench)
        for command in expected { try io(try attach(bench).target, command); try closeAndCheck(bench) }
    }

    func compacting() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        let attached = try attach(bench)
        try io(attached.target, "write -P 1 0 32M", "flush", "discard 0 24M", "flush")
        try bench.godwit("disk", "compact", bench.disk)
        try io(attached.target, "read -P 1 24M 8M")
        #expect(try LinuxFileSystem().open(bench.disk + "/root.hds", .read).size() < 16 << 20)
        try closeAndCheck(bench)
        try io(try attach(bench).target, "read -P 1 24M 8M")
        try closeAndCheck(bench)
    }

    /// What was flushed is there. The driver goes on without its owner; the engine's disk is repaired.
    func aKilledOwner() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        let attached = try attach(bench)
        try io(attached.target, "write -P 1 0 8M", "flush")
        try bench.godwit("snapshot", "create", bench.disk)
        try io(attached.target, "write -P 2 4M 8M", "flush")
        try bench.kill(attached)
        let again: DeviceBench.Attached
        if backend == .kernel {
            try io(attached.target, "write -P 3 32M 1M", "flush")
            let other = ["GODWIT_RUN_DIR": bench.folder.file("run2")]
            #expect(try bench.run(["disk", "check", "--repair", bench.disk], environment: other).exitCode == 5)
            again = try bench.status()
            #expect(again.device == attached.device)
            try io(again.target, "read -P 3 32M 1M")
        } else {
            try bench.godwit("disk", "detach", bench.disk)
            again = try attach(bench)
            #expect(again.repairedOnOpen)
        }
        #expect(again.pid != attached.pid)
        try io(again.target, "read -P 1 0 4M", "read -P 2 4M 8M")
        let states = try bench.decode(States.self, "snapshot", "list", bench.disk).snapshots
        try bench.godwit("snapshot", "delete", bench.disk, try #require(states.first).guid)
        try io(again.target, "read -P 1 0 4M", "read -P 2 4M 8M")
        try closeAndCheck(bench)
    }

    func readOnly() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        try io(try attach(bench).target, "write -P 1 0 1M", "flush")
        try closeAndCheck(bench)
        let attached = try attach(bench, "--read-only")
        let cache = backend == .kernel ? ["-t", "none"] : []
        let read = try ChildProcess.run(
            "qemu-io", ["-r", "-f", "raw"] + cache + ["-c", "read -P 1 0 1M", attached.target])
        #expect(read.exitCode == 0 && !read.outputText.contains("failed"), "\(read.outputText)\(read.errorText)")
        let write = try ChildProcess.run("qemu-io", ["-f", "raw"] + cache + ["-c", "write 0 1M", attached.target])
        #expect(write.exitCode != 0 || write.outputText.contains("failed") || write.errorText.contains("failed"))
        try closeAndCheck(bench)
    }
}
