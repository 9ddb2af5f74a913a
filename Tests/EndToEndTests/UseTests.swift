import BlockIO
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

/// Nothing is taken from a user who has it open, unless by force.
@Suite(
    .enabled(if: Product.isBuilt, "the program is not beside the tests"), .serialized,
    .timeLimit(.minutes(2)))
struct UseTests {
    private static let busy: CInt = 6
    private static let canMakeDevices = canMountLoop && hasTool("mkfs.ext4") && hasTool("nbdfuse")

    private func expectBusy(_ bench: DeviceBench, _ command: String, naming words: String...) throws {
        let refused = try bench.run(["disk", command, bench.disk])
        #expect(refused.exitCode == Self.busy, "\(command): \(refused.exitCode) \(refused.errorText)")
        for word in words { #expect(refused.errorText.contains(word), "\(refused.errorText)") }
    }

    @Test(.enabled(if: canMakeDevices && hasTool("unshare"), "needs root, loop devices, nbdfuse and ext4"))
    func whatAnotherNamespaceHasMountedStays() throws {
        let bench = try DeviceBench()
        let device = try #require(try bench.attach("--device").device)
        try expectTool("mkfs.ext4", "-q", device)
        let input = try Pipe()
        let output = try Pipe()
        let script = """
            mount --make-rprivate / && mount "$1" "$2" && echo mounted && read -r line
            echo x > "$2/file" && sync -f "$2" && echo written; umount "$2"
            """
        let container = try ChildProcess(
            "unshare", ["-m", "sh", "-c", script, "sh", device, bench.mountPoint],
            input: .descriptor(input.reading.number), output: .descriptor(output.writing.number))
        let word = input.keepWriting()
        let said = output.keepReading()
        #expect(try said.readSome(upTo: 100) == Array("mounted\n".utf8))
        try expectBusy(bench, "umount", naming: bench.mountPoint, "mount namespace of process", "--force")
        try expectBusy(bench, "detach", naming: bench.mountPoint)
        try word.writeAll(Array("\n".utf8))
        #expect(try said.readSome(upTo: 100) == Array("written\n".utf8))
        #expect(try container.wait() == 0)
        try bench.godwit("disk", "umount", bench.disk)
        try bench.godwit("disk", "detach", bench.disk)
    }

    @Test(.enabled(if: canMakeDevices, "needs root, loop devices, nbdfuse and ext4"))
    func aMountThatFollowsOursIsNoUser() throws {
        let bench = try DeviceBench()
        let device = try #require(try bench.attach("--device").device)
        try expectTool("mkfs.ext4", "-q", device)
        try bench.godwit("disk", "umount", bench.disk)
        // Like a service with a mount namespace of its own: it began after the mount, and hears of the unmounting.
        let input = try Pipe()
        let output = try Pipe()
        let script = """
            mount --bind "$1" "$1" && mount --make-shared "$1" && "$2" disk mount "$3" "$1" -q || exit
            unshare -m --propagation slave sh -c 'echo there; read -r line' & read -r line < "$4"
            "$2" disk umount "$3" -q; echo "umount $?"; kill $!; umount "$1"
            """
        let fifo = bench.folder.file("fifo")
        try expectTool("mkfifo", fifo)
        let host = try ChildProcess(
            "unshare",
            [
                "-m", "--propagation", "private", "sh", "-c", script, "sh", bench.mountPoint, Product.program,
                bench.disk, fifo,
            ], environment: bench.environment, input: .descriptor(input.reading.number),
            output: .descriptor(output.writing.number))
        let said = output.keepReading()
        #expect(try said.readSome(upTo: 100) == Array("there\n".utf8))
        try expectTool("sh", "-c", "echo > \"$1\"", "sh", fifo)
        #expect(try said.readSome(upTo: 100) == Array("umount 0\n".utf8))
        #expect(try host.wait(deadlineMilliseconds: 30_000) == 0)
        withExtendedLifetime(input) {}
    }

    @Test(.enabled(if: canMakeDevices, "needs root, loop devices, nbdfuse and ext4"))
    func aDeviceThatIsOpenStays() throws {
        let bench = try DeviceBench()
        let device = try #require(try bench.attach("--device").device)
        do {
            // As an emulator would.
            let file = try LinuxFileSystem().open(device, OpenMode(writable: true))
            try expectBusy(bench, "detach", naming: "process \(ownProcess())", device)
            try expectBusy(bench, "umount", naming: "process \(ownProcess())", device)
            try file.writeBytes([UInt8](repeating: 7, count: 4096), at: 0)
            try file.synchronize()
            try bench.godwit("disk", "detach", bench.disk, "--force")
            // What it does from here on it was told it would lose.
            #expect(throws: SystemError.self) {
                try file.writeBytes([UInt8](repeating: 8, count: 4096), at: 0)
                try file.synchronize()
            }
        }
        #expect(try !bench.attach().repairedOnOpen)
    }

    @Test(.enabled(if: hasTool("qemu-io"))) func anNBDClientStaysConnected() throws {
        let bench = try DeviceBench()
        let attached = try bench.attach()
        let input = try Pipe()
        let output = try Pipe()
        let client = try ChildProcess(
            "qemu-io", ["-f", "raw", attached.uri], input: .descriptor(input.reading.number),
            output: .descriptor(output.writing.number), errors: .descriptor(output.writing.number))
        let word = input.keepWriting()
        let said = output.keepReading()
        let conversation = Conversation(word, said)
        #expect(try conversation.ask("write -P 7 0 64k").contains("wrote 65536"))
        // Idle, and still a user.
        try expectBusy(bench, "detach", naming: "process \(client.identifier) (qemu-io)", "--force")
        #expect(try conversation.ask("write -P 8 64k 64k").contains("wrote 65536"))
        let start = SystemTime().monotonic()
        try bench.godwit("disk", "detach", bench.disk, "--force")
        // The server's own end would wait for the client.
        #expect(SystemTime().monotonic() - start < 4_000_000_000)
        #expect(try !conversation.ask("read 0 64k").contains("read 65536"))
        try client.send(Signal.kill)
        _ = try client.wait()
        let again = try bench.attach()
        #expect(!again.repairedOnOpen)
        let said2 = try expectTool(
            "qemu-io", "-f", "raw", "-c", "read -P 7 0 64k", "-c", "read -P 8 64k 64k", again.uri)
        #expect(!said2.contains("failed"), "\(said2)")
        // It has hung up: it is none any more.
        try bench.godwit("disk", "detach", bench.disk)
    }
}

/// Lines to a program, and what it says up to its next prompt.
private final class Conversation: Sendable {
    private let word: OwnedDescriptor
    private let said: OwnedDescriptor
    init(_ word: consuming OwnedDescriptor, _ said: consuming OwnedDescriptor) {
        self.word = word
        self.said = said
    }

    func ask(_ line: String) throws -> String {
        try word.writeAll(Array((line + "\n").utf8))
        var text = ""
        // What it says of a request ends with how long that took, or with an error.
        while !text.contains("ops;"), !text.contains("failed") {
            let part = try said.readSome(upTo: 4096)
            if part.isEmpty { break }
            text += String(decoding: part, as: UTF8.self)
        }
        return text
    }
}
