import LinuxSystem
@testable import NBDServer
import TestSupport
import Testing

/// Clients that others have written.
@Suite struct ToolTests {
    @Test(.enabled(if: hasTool("nbdinfo"))) func `nbdinfo sees what the plugin announces`() throws {
        let served = try ServedExport()
        let said = try expectTool("nbdinfo", served.uri)
        for line in [
            "export-size: \(ServedExport.byteCount)", "is_rotational: false", "is_read_only: false", "can_df: true",
            "can_cache: false", "can_fast_zero: false", "can_flush: true", "can_fua: true", "can_multi_conn: true",
            "can_trim: true", "can_zero: true", "block_size_minimum: 512", "block_size_preferred: 4096",
            "block_size_maximum: 33554432", "base:allocation",
        ] {
            #expect(said.contains(line), "\(said)")
        }
        #expect(try expectTool("nbdinfo", "--list", served.uri).contains("export=\"\""))
        #expect(try expectTool("nbdinfo", "--map", served.uri).contains("hole,zero"))
        let readOnly = try ServedExport(readOnly: true)
        let saidThere = try expectTool("nbdinfo", readOnly.uri)
        for line in ["is_read_only: true", "can_fua: false", "can_trim: false", "can_zero: false", "can_flush: true"] {
            #expect(saidThere.contains(line), "\(saidThere)")
        }
    }

    @Test(.enabled(if: hasTool("qemu-io"))) func `qemu writes, zeroes, discards and reads`() throws {
        let served = try ServedExport()
        let said = try expectTool(
            "qemu-io", "-f", "raw", "-c", "write -P 7 0 8M", "-c", "write -z 1M 1M", "-c", "write -z -u 2M 1M", "-c",
            "discard 4M 1M", "-c", "flush", "-c", "read -P 7 0 1M", "-c", "read -P 0 1M 2M", "-c", "read -P 7 3M 1M",
            "-c", "write -P 3 -f 32M 4k", "-c", "read -P 3 32M 4k", served.uri)
        #expect(!said.contains("failed") && !said.contains("verification"), "\(said)")
        let map = try expectTool("qemu-img", "map", "-f", "raw", "--output", "json", served.uri)
        #expect(map.contains("\"data\": true") && map.contains("\"zero\": true"), "\(map)")
    }

    @Test(.enabled(if: hasTool("nbdcopy"))) func `nbdcopy copies over several connections`() throws {
        let served = try ServedExport()
        var random = SeededRandom("nbdcopy")
        let source = served.folder.file("source")
        let target = served.folder.file("target")
        try expectTool("sh", "-c", "cat > \"$1\"", "sh", source, input: random.bytes(Int(ServedExport.byteCount)))
        try expectTool("nbdcopy", "--flush", source, served.uri)
        try expectTool("nbdcopy", served.uri, target)
        try expectTool("cmp", source, target)
    }

    @Test(.enabled(if: hasTool("fio"))) func `fio verifies what it wrote`() throws {
        let served = try ServedExport()
        let result = try runTool(
            "fio", "--name=job", "--ioengine=nbd", "--uri=\(served.uri)", "--verify=crc32c", "--verify_state_save=0",
            "--rw=randrw", "--bs=512-64k", "--size=64M", "--io_size=16M", "--iodepth=64", "--numjobs=1")
        #expect(result.exitCode == 0, "\(result.errorText)")
    }
}
