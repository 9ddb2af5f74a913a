import LinuxSystem
import SystemPackage
import TestSupport
import Testing

@Suite struct DescriptorTests {
    @Test func socketsCarryBytesAndNameThePeer() throws {
        let folder = try TemporaryFolder()
        let listener = try UnixSocket.listen(at: folder.file("s"))
        let client = try UnixSocket.connect(to: folder.file("s"))
        let server = try UnixSocket.accept(from: listener.number)
        try client.writeAll(Array("hello".utf8))
        #expect(try server.readSome(upTo: 100) == Array("hello".utf8))
        let user = try ChildProcess.run("id", ["-u"]).outputText.dropLast()
        #expect(try UnixSocket.peerUser(of: server.number) == UInt32(user))
        #expect(throws: SystemError.self) { _ = try UnixSocket.listen(at: folder.file("s")) }
    }

    @Test func aSocketNobodyListensAtRefuses() throws {
        let folder = try TemporaryFolder()
        #expect(throws: SystemError(errno: .noSuchFileOrDirectory, operation: "connect to", subject: folder.file("s")))
        {
            _ = try UnixSocket.connect(to: folder.file("s"))
        }
        _ = try UnixSocket.listen(at: folder.file("s"))
        #expect(throws: SystemError(errno: .connectionRefused, operation: "connect to", subject: folder.file("s"))) {
            _ = try UnixSocket.connect(to: folder.file("s"))
        }
    }

    @Test func pollTellsWhoIsReady() throws {
        let pipe = try Pipe()
        var entries = [PollEntry(pipe.reading.number, .readable), PollEntry(-1, .readable)]
        #expect(try pollDescriptors(&entries, deadlineMilliseconds: 0) == 0)
        try pipe.writing.writeAll([1])
        #expect(try pollDescriptors(&entries, deadlineMilliseconds: nil) == 1)
        #expect(entries[0].ready == .readable)
        #expect(entries[1].ready == [])
    }

    @Test func droppingTheWriterEndsTheReader() throws {
        let reading = try Pipe().keepReading()
        #expect(try reading.readSome(upTo: 10) == [])
    }

    @Test func theKernelsMountLinesAreUnderstood() throws {
        let table = MountTable(
            parsing: """
                22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
                30 22 7:3 / /mnt/with\\040space ro,noatime master:1 shared:2 - ext4 /dev/loop3 rw,errors=remount-ro
                31 22 7:3 /sub /mnt/b rw - ext4 /dev/loop3 rw
                32 22 0:40 / /mnt/b rw - tmpfs tmpfs rw
                nonsense
                """)
        #expect(table.mounts.count == 4)
        #expect(table.mounts(of: "/dev/loop3").map(\.mountPoint) == ["/mnt/with space", "/mnt/b"])
        #expect(table.mounts[1].isReadOnly)
        #expect(!table.mounts[2].isReadOnly)
        #expect(table.mounts[2].root == "/sub")
        #expect(table.mount(at: "/mnt/b")?.type == "tmpfs")
        #expect(try MountTable.current().mount(at: "/") != nil)
    }

    @Test("a mount is hidden by one on it, or on a folder above it, and by no other")
    func hiddenMounts() {
        let table = MountTable(
            parsing: """
                22 1 8:1 / / rw - ext4 /dev/sda1 rw
                30 22 7:1 / /mnt/a rw - ext4 /dev/loop1 rw
                31 30 7:2 / /mnt/a rw - ext4 /dev/loop2 rw
                32 31 7:3 / /mnt/a/b rw - ext4 /dev/loop3 rw
                33 30 7:4 / /mnt/a/b rw - ext4 /dev/loop4 rw
                34 22 7:5 / /srv/c/d rw - ext4 /dev/loop5 rw
                35 22 7:6 / /srv/c rw - ext4 /dev/loop6 rw
                36 22 7:7 / /srv/cd rw - ext4 /dev/loop7 rw
                37 37 7:8 / /loop rw - ext4 /dev/loop8 rw
                """)
        #expect(table.mounts.filter(table.isHidden).map(\.identifier) == [30, 33, 34])
    }

    @Test(.enabled(if: canMountLoop, "needs root and a loop device"))
    func aFrozenFileSystemTakesNoWritesUntilThawed() throws {
        let folder = try TemporaryFolder()
        let (image, mountPoint) = (folder.file("image"), folder.file("mnt"))
        try expectTool("truncate", "-s", "16M", image)
        try expectTool("mkfs.ext4", "-q", image)
        try expectTool("mkdir", mountPoint)
        try expectTool("mount", "-o", "loop", image, mountPoint)
        defer { _ = try? runTool("umount", mountPoint) }
        do {
            let freeze = try FreezeHandle(freezing: FreezeTarget(path: mountPoint))
            #expect(throws: SystemError(errno: .resourceBusy, operation: "freeze", subject: mountPoint)) {
                try FreezeHandle(freezing: FreezeTarget(path: mountPoint))
            }
            let writer = try ChildProcess("touch", ["\(mountPoint)/file"])
            #expect(try writer.wait(deadlineMilliseconds: 50) == nil)
            try freeze.thaw()
            try freeze.thaw()
            #expect(try writer.wait() == 0)
        }
        #expect(try FreezeHandle.thaw(FreezeTarget(path: mountPoint)) == false)
    }
}
