import LinuxSystem
import Synchronization
import SystemPackage
import TestSupport
import Testing

@Suite struct ProcessTests {
    @Test func whatAProgramPrintsAndItsCodeAreKept() throws {
        let result = try ChildProcess.run("sh", ["-c", "echo out; echo err >&2; exit 7"])
        #expect(result.exitCode == 7)
        #expect(result.outputText == "out\n")
        #expect(result.errorText == "err\n")
    }

    @Test func inputLargerThanAPipeGoesThrough() throws {
        var random = SeededRandom("child input")
        let input = random.bytes(1 << 20)
        let result = try ChildProcess.run("cat", [], input: input)
        #expect(result.exitCode == 0)
        #expect(result.output == input)
    }

    @Test func aProgramThatReadsNothingIsNoFailure() throws {
        let result = try ChildProcess.run("true", [], input: [UInt8](repeating: 1, count: 1 << 20))
        #expect(result.exitCode == 0)
    }

    @Test func outputBeyondTheLimitIsDropped() throws {
        let result = try ChildProcess.run("sh", ["-c", "head -c 100000 /dev/zero"], limit: 1000)
        #expect(result.exitCode == 0)
        #expect(result.output.count == 1000)
    }

    @Test func aProgramThatTakesTooLongIsKilled() throws {
        let result = try ChildProcess.run("sh", ["-c", "exec sleep 1000"], deadlineMilliseconds: 50)
        #expect(result.isTimedOut)
        #expect(result.exitCode == 128 + Signal.kill)
    }

    @Test func aProgramThatIsNoLongerWaitedForIsKilled() throws {
        var asked = 0
        let result = try ChildProcess.run("sh", ["-c", "exec sleep 1000"], lookMilliseconds: 20) {
            asked += 1
            return asked < 3
        }
        #expect(asked == 3 && result.isTimedOut && result.exitCode == 128 + Signal.kill)
    }

    @Test func aProgramThatEndedMeanwhileWasNotKilled() throws {
        let result = try ChildProcess.run("sh", ["-c", "sleep 0.2; exit 7"], lookMilliseconds: 1) {
            // It ends while it is looked after.
            var none: [PollEntry] = []
            _ = try? pollDescriptors(&none, deadlineMilliseconds: 1500)
            return false
        }
        #expect(!result.isTimedOut && result.exitCode == 7)
    }

    @Test func anUnknownProgramIsAnError() {
        #expect(throws: SystemError(errno: .noSuchFileOrDirectory, operation: "start", subject: "no-such-program")) {
            try ChildProcess("no-such-program", [])
        }
    }

    @Test func aDaemonLeftBehindDoesNotHoldUpTheResult() throws {
        let result = try ChildProcess.run("sh", ["-c", "sleep 1000 & echo $!"])
        let daemon = try #require(CInt(result.outputText.dropLast()))
        #expect(try runTool("kill", "\(daemon)").exitCode == 0)
    }

    @Test func stopEndsAStubbornProgram() throws {
        let pipe = try Pipe()
        let child = try ChildProcess(
            "sh", ["-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"],
            output: .descriptor(pipe.writing.number), errors: .null, newGroup: true)
        #expect(try pipe.reading.readSome(upTo: 10).count == 6)
        #expect(try child.wait(deadlineMilliseconds: 0) == nil)
        #expect(try child.stop(graceMilliseconds: 20) == 128 + Signal.kill)
        #expect(try child.wait() == 128 + Signal.kill)
        // The sleep it started is not our child: its group goes with it.
        _ = try runTool("kill", "-9", "--", "-\(child.identifier)")
    }

    @Test func environmentAndArgumentsArriveAsTheyAre() throws {
        let result = try ChildProcess.run(
            "/bin/sh", ["-c", "printf '%s|%s' \"$1\" \"$X\"", "sh", "a b"], environment: ["X": "ü c"])
        #expect(result.outputText == "a b|ü c")
    }

    @Test func threadsRunAndAreJoined() throws {
        let total = Atomic(0)
        final class Box: Sendable { let sum = Atomic(0) }
        let box = Box()
        let threads = try (1...8).map { number in
            try OwnThread(name: "test \(number)") { box.sum.add(number, ordering: .relaxed) }
        }
        for thread in threads { thread.join() }
        total.store(box.sum.load(ordering: .relaxed), ordering: .relaxed)
        #expect(total.load(ordering: .relaxed) == 36)
        threads[0].join()
    }
}
