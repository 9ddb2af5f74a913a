import BlockIO
import LinuxSystem
import TestSupport
import Testing

/// A disk inside of nbdkit, for its filters.
@Suite(.enabled(if: Product.isBuilt && Product.hasPlugin && hasTool("nbdkit"), "needs nbdkit and the plugin"))
struct PluginTests {
    @Test(.enabled(if: hasTool("qemu-io"))) func nbdkitServesADiskThroughItsFilters() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        let said = try expectTool(
            "nbdkit", "-U", "-", "--filter=blocksize", Product.plugin, "disk=\(bench.disk)", "minblock=512", "--run",
            "qemu-io -f raw -c 'write -P 7 0 8M' -c 'write -P 5 100 9' -c flush -c 'read -P 5 100 9'"
                + " -c 'read -P 7 1M 1M' \"$uri\" && nbdinfo \"$uri\"")
        #expect(!said.contains("failed"), "\(said)")
        #expect(said.contains("can_multi_conn: true") && said.contains("export-size: 67108864"), "\(said)")
        try bench.godwit("disk", "check", bench.disk)
    }

    /// It can't tell a client that has hung up from one that waits.
    @Test(.enabled(if: canMountLoop && hasTool("qemu-io"))) func onAFullHostItSaysSoAtOnce() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k", fileSystemSize: "16M")
        _ = try runTool("dd", "if=/dev/zero", "of=\(bench.fileSystem)/filler", "bs=64k")
        let said = try runTool(
            "nbdkit", "-U", "-", Product.plugin, "disk=\(bench.disk)", "--run",
            "qemu-io -f raw -c 'write -P 7 0 8M' \"$uri\"")
        #expect((said.outputText + said.errorText).contains("No space left on device"), "\(said)")
    }

    @Test func aDiskThatIsAttachedIsRefused() throws {
        let bench = try DeviceBench(size: "64M", cluster: "64k")
        let server = try bench.attach().pid
        let result = try runTool("nbdkit", "-f", "-U", bench.folder.file("nbd"), Product.plugin, "disk=\(bench.disk)")
        #expect(result.exitCode != 0)
        #expect(result.errorText.contains("process \(server) (godwit-nbd) uses the disk"), "\(result.errorText)")
    }
}
