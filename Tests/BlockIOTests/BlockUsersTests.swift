import LinuxSystem
import TestSupport
import Testing

@testable import BlockIO

@Suite(.enabled(if: isRoot && hasTool("perl"), "needs root and perl")) struct BlockUsersTests {
    /// It sees the mount at another place than we do, and uses nothing of it.
    @Test("a process with another root in our mount namespace is no user of what is mounted there")
    func otherRoot() throws {
        let folder = try TemporaryFolder()
        try expectTool("mount", "-t", "tmpfs", "none", folder.path)
        defer { _ = try? ChildProcess.run("umount", ["-l", folder.path]) }
        let mount = try #require(try MountTable.current().mount(at: folder.path))
        let input = try Pipe()
        let output = try Pipe()
        let process = try ChildProcess(
            "perl", ["-e", "chroot $ARGV[0] or die; chdir '/'; $| = 1; print 'x'; <STDIN>", folder.path],
            input: .descriptor(input.reading.number), output: .descriptor(output.writing.number))
        let word = input.keepWriting()
        let said = output.keepReading()
        #expect(try said.readSome(upTo: 1) == Array("x".utf8))
        // It does see it.
        var views: Set<String> = [mountView(of: "self") ?? ""]
        let seen = try #require(foreignMounts(of: process.identifier, &views))
        #expect(seen.mounts.contains { $0.device == mount.device })
        #expect(try blockUsers(of: [mount.device]).isEmpty)
        try word.writeAll(Array("\n".utf8))
        #expect(try process.wait() == 0)
    }
}
