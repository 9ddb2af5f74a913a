@testable import AgentCore
import BlockIO
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

/// A mounted ext4 of its own; unmounted, and thawed before, when it goes.
private final class ScratchMount: Sendable {
    let folder: TemporaryFolder
    var path: String { folder.file("mnt") }

    init() throws {
        folder = try TemporaryFolder()
        let image = folder.file("fs")
        try expectTool("truncate", "-s", "16M", image)
        try expectTool("mkfs.ext4", "-q", image)
        try LinuxFileSystem().createFolder(folder.file("mnt"))
        try expectTool("mount", "-o", "loop", image, folder.file("mnt"))
    }

    /// Whether a write would wait. Leaves it as it was.
    func isFrozen() throws -> Bool {
        do throws(SystemError) {
            try FreezeHandle(freezing: FreezeTarget(path: path)).thaw()
            return false
        } catch {
            guard error.errno == .resourceBusy else { throw error }
            return true
        }
    }

    deinit {
        _ = try? FreezeHandle.thaw(FreezeTarget(path: path))
        _ = try? ChildProcess.run("umount", [path])
    }
}

private let program: String = {
    let own = (try? LinuxFileSystem().resolve("/proc/self/exe")) ?? ""
    return LinuxFileSystem.folder(of: own) + "/godwit"
}()
private let canFreeze = canMountLoop && hasTool("mkfs.ext4") && (try? LinuxFileSystem().exists(program)) == true

@Suite(
    .enabled(if: canFreeze, "needs root, a loop device, ext4, and the program beside the tests"), .serialized,
    .timeLimit(.minutes(5)))
struct FreezeGuardTests {
    private func freeze(_ mounts: [String], _ milliseconds: UInt64 = 60_000) throws -> Freeze {
        try Freeze(mounts.map { FreezeTarget(path: $0) }, deadlineMilliseconds: milliseconds, executable: program)
    }

    @Test func onlyTheFileSystemThatIsMeantIsFrozen() throws {
        let mount = try ScratchMount()
        let device = try #require(try MountTable.current().mounts.last { $0.mountPoint == mount.path }).device
        let own = try Freeze(
            [FreezeTarget(path: mount.path, device: device)], deadlineMilliseconds: 60_000, executable: program)
        #expect(try mount.isFrozen())
        _ = try own.thaw()
        let error = #expect(throws: AgentError.self) {
            _ = try Freeze(
                [FreezeTarget(path: mount.path, device: "7:99999")], deadlineMilliseconds: 60_000, executable: program)
        }
        #expect(error?.message.contains("another file system") == true)
        #expect(try !mount.isFrozen())
    }

    @Test func aFreezeLastsUntilTheThaw() throws {
        let one = try ScratchMount()
        let two = try ScratchMount()
        let freeze = try freeze([one.path, two.path])
        #expect(try one.isFrozen() && two.isFrozen())
        let thawed = try freeze.thaw()
        #expect(!thawed.isExpired)
        #expect(thawed.nanoseconds > 0)
        #expect(try !one.isFrozen() && !two.isFrozen())
    }

    @Test func allOrNone() throws {
        let one = try ScratchMount()
        // proc can't be frozen.
        let error = #expect(throws: AgentError.self) { try freeze([one.path, "/proc"]) }
        #expect(error?.message.contains("/proc") == true, "\(String(describing: error))")
        #expect(try !one.isFrozen())
    }

    @Test func aFreezeEndsAtItsDeadlineAndSaysSo() throws {
        let mount = try ScratchMount()
        let freeze = try freeze([mount.path], 50)
        // Waits in the kernel for the thaw that nobody asked for.
        try expectTool("touch", mount.path + "/file")
        #expect(try freeze.thaw().isExpired)
        #expect(try !mount.isFrozen())
    }

    @Test func theParentThawsWhenTheGuardIsKilled() throws {
        let mount = try ScratchMount()
        let freeze = try freeze([mount.path])
        let guardian = try #require(try ProcessHandle(freeze.guardIdentifier))
        try guardian.send(Signal.kill)
        // Not `waitForEnd`, which would take the child's end away from the freeze.
        let error = #expect(throws: AgentError.self) { try freeze.thaw() }
        #expect(error?.code == .expired)
        #expect(try !mount.isFrozen())
    }

    @Test func droppingAFreezeThaws() throws {
        let mount = try ScratchMount()
        var freeze: Freeze? = try freeze([mount.path])
        #expect(try mount.isFrozen())
        withExtendedLifetime(freeze) {}
        freeze = nil
        #expect(try !mount.isFrozen())
    }

    @Test func theGuardThawsWhenItsParentIsKilled() throws {
        let mount = try ScratchMount()
        // The shell is the parent: it holds the only other end of the guard's input, and tells what the guard said.
        let fifo = mount.folder.file("fifo")
        try expectTool("mkfifo", fifo)
        let output = try Pipe()
        let parent = try ChildProcess(
            "sh",
            [
                "-c", "\"$0\" internal-freeze-guard --deadline 300s -- \"$1\" < \"$2\" & exec 9> \"$2\"; wait", program,
                mount.path, fifo,
            ], output: .descriptor(output.writing.number), newGroup: false)
        let said = output.keepReading()
        #expect(try said.readSome(upTo: 100) == Array("frozen\n".utf8))
        #expect(try mount.isFrozen())
        try parent.send(Signal.kill)
        _ = try parent.wait()
        let last = try said.readSome(upTo: 100)
        #expect(String(decoding: last, as: UTF8.self).hasPrefix("thawed 0 "))
        #expect(try !mount.isFrozen())
    }

    @Test func whatTheGuardAndItsParentLeaveIsThawed() throws {
        let mount = try ScratchMount()
        let input = try Pipe()
        let output = try Pipe()
        // This test is the parent, and as good as dead: it does nothing.
        let guardian = try ChildProcess(
            program, ["internal-freeze-guard", "--deadline", "300s", "--", mount.path],
            input: .descriptor(input.reading.number), output: .descriptor(output.writing.number), newGroup: true)
        let said = output.keepReading()
        #expect(try said.readSome(upTo: 100) == Array("frozen\n".utf8))
        #expect(try mount.isFrozen())
        signalProcessGroup(guardian.identifier, Signal.kill)
        _ = try guardian.wait()
        // Waits in the kernel for the thaw.
        try expectTool("touch", mount.path + "/file", deadlineMilliseconds: 10_000)
        #expect(try !mount.isFrozen())
        withExtendedLifetime(input) {}
    }

    /// To write what there is takes as long as it takes: the third process must not thaw what is frozen after it.
    @Test func theTimeOfTheThirdProcessBeginsWithTheFreeze() throws {
        let mount = try ScratchMount()
        let input = try Pipe()
        let watcher = try ChildProcess(
            program, ["internal-freeze-guard", "--watch", "--deadline", "1ms", "--", mount.path],
            input: .descriptor(input.reading.number))
        let word = input.keepWriting()
        let other = try FreezeHandle(freezing: FreezeTarget(path: mount.path))
        #expect(try watcher.wait(deadlineMilliseconds: 6_000) == nil)
        #expect(try mount.isFrozen())
        try word.writeAll([2])
        // Waits in the kernel for the thaw.
        try expectTool("touch", mount.path + "/file", deadlineMilliseconds: 30_000)
        #expect(try !mount.isFrozen())
        withExtendedLifetime(other) {}
        // A guard that hung in its freeze until now has been killed meanwhile: what it froze last is thawed, too.
        let late = try FreezeHandle(freezing: FreezeTarget(path: mount.path))
        #expect(try watcher.wait(deadlineMilliseconds: 0) == nil)
        closeDescriptor(word)
        #expect(try watcher.wait(deadlineMilliseconds: 30_000) == 1)
        #expect(try !mount.isFrozen())
        withExtendedLifetime(late) {}
    }

    private func closeDescriptor(_ descriptor: consuming OwnedDescriptor) {}

    @Test func aFreezeOfSomebodyElseStays() throws {
        let mount = try ScratchMount()
        let other = try FreezeHandle(freezing: FreezeTarget(path: mount.path))
        let error = #expect(throws: AgentError.self) { try freeze([mount.path]) }
        #expect(error?.code == .busy, "\(String(describing: error))")
        #expect(try mount.isFrozen())
        try other.thaw()
        #expect(try !mount.isFrozen())
    }

    @Test(arguments: [Signal.terminate, Signal.interrupt, Signal.hangUp])
    func aSignalThaws(_ signal: CInt) throws {
        let mount = try ScratchMount()
        let freeze = try freeze([mount.path])
        let guardian = try #require(try ProcessHandle(freeze.guardIdentifier))
        try guardian.send(signal)
        _ = try freeze.thaw()
        #expect(try !mount.isFrozen())
    }
}
