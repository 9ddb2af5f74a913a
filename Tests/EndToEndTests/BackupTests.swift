import BlockIO
import LinuxSystem
import TestSupport
import Testing

/// Backups and snapshots through the program, with hooks and after switches.
@Suite(.enabled(if: Product.isBuilt && hasTool("qemu-io"))) struct BackupTests {
    private struct Backup: Decodable {
        var mode: String
        var point: String
    }
    private struct Snapshots: Decodable {
        struct One: Decodable {
            var guid: String
            var isTop: Bool
        }
        var snapshots: [One]
    }

    /// A small disk, a store, and a way to change the disk.
    private struct Setup {
        let bench: DeviceBench
        var store: String { bench.folder.file("store") }

        init() throws {
            bench = try DeviceBench(size: "16M", cluster: "64k")
            try bench.godwit("store", "init", store)
        }

        func write(_ pattern: Int, at offset: String) throws {
            let attached = try bench.attach()
            try expectTool("qemu-io", "-f", "raw", "-c", "write -P \(pattern) \(offset) 64k", attached.uri)
            try bench.godwit("disk", "detach", bench.disk)
        }

        func backup() throws -> Backup { try bench.decode(Backup.self, "backup", bench.disk, "--store", store) }

        func states() throws -> [Snapshots.One] {
            try bench.decode(Snapshots.self, "snapshot", "list", bench.disk).snapshots
        }

        func configure(_ text: String) throws {
            try LinuxFileSystem().replaceContents(of: bench.folder.file("godwit.toml"), with: Array(text.utf8))
        }
    }

    @Test func aBackupAfterASwitchBackReadsAllAndIsRight() throws {
        let setup = try Setup()
        try setup.write(1, at: "0")
        try setup.bench.godwit("snapshot", "create", setup.bench.disk)
        let old = try #require(try setup.states().first { !$0.isTop }).guid
        try setup.write(2, at: "64k")
        #expect(try setup.backup().mode == "full")
        try setup.bench.godwit("snapshot", "switch", setup.bench.disk, old)
        try setup.write(3, at: "1M")
        // What the store has is not below the top any more.
        let switched = try setup.backup()
        #expect(switched.mode == "full")
        let raw = setup.bench.folder.file("restored.raw")
        try setup.bench.godwit("restore", switched.point, "--store", setup.store, "--raw", raw)
        try setup.bench.godwit("disk", "export", setup.bench.disk, setup.bench.folder.file("exported.raw"))
        try expectTool("cmp", raw, setup.bench.folder.file("exported.raw"))
        try setup.write(4, at: "2M")
        #expect(try setup.backup().mode == "incremental")
        #expect(try setup.states().count == 3)
        try setup.bench.godwit("store", "verify", setup.store)
    }

    @Test("a disk whose server was killed is backed up as after a power cut")
    func killedServer() throws {
        struct Report: Decodable { var isConsistent: Bool }
        let setup = try Setup()
        for isKilled in [false, true] {
            let attached = try setup.bench.attach()
            try expectTool("qemu-io", "-f", "raw", "-c", "write -P 7 0 1M", attached.uri)
            if isKilled {
                try setup.bench.kill(attached)
            } else {
                try setup.bench.godwit("disk", "detach", setup.bench.disk)
            }
            let report = try setup.bench.decode(Report.self, "backup", setup.bench.disk, "--store", setup.store)
            #expect(report.isConsistent == !isKilled)
        }
    }

    @Test func aPostThawHookThatFailsLeavesNoState() throws {
        let setup = try Setup()
        try setup.write(1, at: "0")
        #expect(try setup.backup().mode == "full")
        let states = try setup.states().count
        try setup.configure("[hooks]\npost-thaw = \"false\"\n")
        let configuration = ["--config", setup.bench.folder.file("godwit.toml")]
        // What anybody may write to is nobody's word.
        try expectTool("chmod", "o+w", configuration[1])
        #expect(try setup.bench.run(["points", "--store", setup.store] + configuration).exitCode == 78)
        try expectTool("chmod", "o-w", configuration[1])
        for command in [
            ["backup", setup.bench.disk, "--store", setup.store], ["snapshot", "create", setup.bench.disk],
        ] {
            try setup.write(2, at: "64k")
            let result = try setup.bench.run(command + configuration)
            #expect(result.exitCode == 31, "\(result.errorText)")
            #expect(try setup.states().count == states, "\(command)")
        }
        #expect(try setup.backup().mode == "incremental")
    }

    @Test func hooksOfAllDisksRunAndEqualOnesOnce() throws {
        let setup = try Setup()
        let second = setup.bench.folder.file("second")
        let log = setup.bench.folder.file("log")
        try setup.bench.godwit("disk", "create", second, "--size", "16M")
        func disk(_ name: String, _ path: String) -> String {
            """
            [[disk]]
            name = "\(name)"
            path = "\(path)"
            [disk.hooks]
            pre-freeze = "echo both >> \(log)"
            post-thaw = "echo \(name) >> \(log)"

            """
        }
        try setup.configure(disk("one", setup.bench.disk) + disk("two", second))
        try setup.bench.godwit(
            "snapshot", "create", "one", "two", "--config", setup.bench.folder.file("godwit.toml"))
        let said = try LinuxFileSystem().contents(of: log, limit: 1024)
        #expect(String(decoding: said, as: UTF8.self) == "both\ntwo\none\n")
    }

    @Test func aMigrationTellsWhyItCanNotBegin() throws {
        let setup = try Setup()
        let disk = setup.bench.disk
        let cases: [(arguments: [String], status: CInt)] = [
            ([disk, "host"], 64), ([disk, "a b:/x"], 64), ([setup.bench.folder.file("none"), "host:/x"], 3),
        ]
        for (arguments, status) in cases {
            let result = try setup.bench.run(["migrate"] + arguments)
            #expect(result.exitCode == status, "\(arguments): \(result.errorText)")
        }
    }
}
