import BlockIO
import FoundationEssentials
import LinuxSystem
import TestSupport
import Testing

/// The export against other people's NBD clients.
@Suite(.enabled(if: Product.isBuilt, "the program is not beside the tests"))
struct ExportTests {
    struct Info: Decodable {
        struct Export: Decodable {
            enum CodingKeys: String, CodingKey {
                case size = "export-size", readOnly = "is_read_only", flush = "can_flush", fua = "can_fua"
                case trim = "can_trim", zero = "can_zero", multi = "can_multi_conn"
                case minimum = "block_size_minimum", preferred = "block_size_preferred", maximum = "block_size_maximum"
                case contexts
            }
            var size: UInt64
            var readOnly, flush, fua, trim, zero, multi: Bool
            var minimum, preferred, maximum: UInt64
            var contexts: [String]
        }
        var exports: [Export]
    }

    private struct Snapshots: Decodable {
        struct One: Decodable {
            var guid: String
            var isTop: Bool
        }
        var snapshots: [One]
    }

    private func info(_ uri: String) throws -> Info.Export {
        let text = try expectTool("nbdinfo", "--json", uri)
        let info = try JSONDecoder().decode(Info.self, from: Data(text.utf8))
        return try #require(info.exports.first)
    }

    @Test(.enabled(if: hasTool("nbdinfo"))) func theExportTellsWhatItCan() throws {
        let bench = try DeviceBench(size: "256M")
        let export = try info(try bench.attach().uri)
        #expect(export.size == 256 << 20)
        #expect(!export.readOnly && export.flush && export.fua && export.trim && export.zero && export.multi)
        #expect((export.minimum, export.preferred, export.maximum) == (512, 4096, 32 << 20))
        #expect(export.contexts.contains("base:allocation"))
        try bench.godwit("disk", "detach", bench.disk)
        #expect(try info(try bench.attach("--read-only").uri).readOnly)
    }

    @Test(.enabled(if: hasTool("nbdinfo") && hasTool("qemu-io"))) func blockStatusFollowsTheClusters() throws {
        let bench = try DeviceBench(size: "64M", cluster: "1M")
        let attached = try bench.attach()
        try expectTool("qemu-io", "-f", "raw", "-c", "write -P 1 4M 1M", attached.uri)
        let map = try expectTool("nbdinfo", "--map", attached.uri)
        let rows = map.split(separator: "\n").map { $0.split(separator: " ").prefix(3).joined(separator: " ") }
        #expect(rows == ["0 4194304 3", "4194304 1048576 0", "5242880 61865984 3"])
    }

    @Test(.enabled(if: hasTool("qemu-io"))) func qemuReadsBackWhatItWrote() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        let attached = try bench.attach()
        let commands = [
            "write -P 0x11 0 1M", "write -P 0x22 -f 512k 512", "read -P 0x22 512k 512", "read -P 0x11 0 512k",
            "write -z -u 100k 64k", "read -P 0 100k 64k", "discard 192k 192k", "write -z 900k 100k",
            "read -P 0 900k 100k",
            "write -P 0x33 63M 1M", "read -P 0x33 63M 1M", "flush", "aio_write -P 5 1M 1M", "aio_write -P 6 2M 1M",
            "aio_flush", "read -P 5 1M 1M", "read -P 6 2M 1M",
        ]
        let result = try ChildProcess.run(
            "qemu-io", ["-f", "raw"] + commands.flatMap { ["-c", $0] } + [attached.uri], deadlineMilliseconds: 60_000)
        #expect(result.exitCode == 0)
        let said = result.outputText + result.errorText
        #expect(!said.contains("failed") && !said.contains("rror"), "\(said)")
        try bench.godwit("disk", "detach", bench.disk)
        try bench.godwit("disk", "check", bench.disk)
    }

    @Test(.enabled(if: hasTool("qemu-img") && hasTool("nbdcopy"))) func copiesInAndOutAreTheSame() throws {
        let bench = try DeviceBench(size: "64M")
        let attached = try bench.attach()
        var random = SeededRandom(seed: 11)
        let source = bench.folder.file("source.raw")
        let file = try LinuxFileSystem().open(source, OpenMode(writable: true, creation: .exclusive))
        try file.truncate(to: 64 << 20)
        for place in [0, 5 << 20, 63 << 20] as [UInt64] {
            var bytes: [UInt8] = []
            while bytes.count < 1 << 20 { withUnsafeBytes(of: random.next()) { bytes += $0 } }
            try file.writeBytes(bytes, at: place)
        }
        try expectTool("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, attached.uri)
        try expectTool("qemu-img", "compare", "-f", "raw", "-F", "raw", source, attached.uri)
        let target = bench.folder.file("target.raw")
        try expectTool("nbdcopy", attached.uri, target)
        try expectTool("cmp", source, target)
        // And into the disk by the other tool, over several connections.
        try expectTool("nbdcopy", "--connections=4", source, attached.uri)
        try expectTool("qemu-img", "compare", "-f", "raw", "-F", "raw", source, attached.uri)
    }

    @Test(.enabled(if: hasTool("fio")), arguments: ["4k", "64k", "1M"])
    func fioVerifiesItsChecksums(_ block: String) throws {
        let bench = try DeviceBench(size: "64M")
        let attached = try bench.attach()
        let result = try fioOverNBD(attached.uri, ["--rw=randwrite", "--bs=\(block)", "--iodepth=16", "--size=32M"])
        #expect(result.exitCode == 0, "\(result.errorText)")
        try bench.godwit("disk", "detach", bench.disk)
        try bench.godwit("disk", "check", bench.disk)
    }

    @Test(.enabled(if: hasTool("fio") && hasTool("nbdinfo"))) func growingAndMergingUnderLoad() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        let attached = try bench.attach()
        let load = try ChildProcess(
            "fio",
            [
                "--name=job", "--ioengine=nbd", "--uri=\(attached.uri)", "--verify=crc32c", "--verify_state_save=0",
                "--rw=randwrite", "--bs=4k",
                "--iodepth=8", "--size=48M", "--loops=3", "--randseed=3", "--verify_backlog=512",
            ], output: .null)
        for _ in 0..<3 { try bench.godwit("snapshot", "create", bench.disk) }
        try bench.godwit("disk", "resize", bench.disk, "--size", "128M")
        for one in try bench.decode(Snapshots.self, "snapshot", "list", bench.disk).snapshots where !one.isTop {
            try bench.godwit("snapshot", "delete", bench.disk, one.guid)
        }
        #expect(try load.wait(deadlineMilliseconds: 120_000) == 0)
        #expect(try info(attached.uri).size == 128 << 20)
        #expect(try bench.decode(Snapshots.self, "snapshot", "list", bench.disk).snapshots.count == 1)
        try bench.godwit("disk", "detach", bench.disk)
        try bench.godwit("disk", "check", bench.disk)
    }
}
