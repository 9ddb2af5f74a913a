import AgentCore
import LinuxSystem
import TestSupport
import Testing

@Suite struct HookRunnerTests {
    private func runner(_ command: String, limitSeconds: UInt64 = 30) -> HookRunner {
        HookRunner(hooks: [.preFreeze: Hook(command: command, limitSeconds: limitSeconds)])
    }

    @Test func aMomentWithoutHookIsNothingToDo() throws {
        try runner("false").run(.postThaw)
    }

    @Test func aHookKnowsItsMomentAndWhatItIsTold() throws {
        let folder = try TemporaryFolder()
        try runner("test \"$GODWIT_HOOK\" = pre-freeze && echo \"$GODWIT_DISKS\" > \"$OUT\"").run(
            .preFreeze, environment: ["GODWIT_DISKS": "/a b", "OUT": folder.file("out")])
        #expect(try kernelText(folder.file("out")) == "/a b\n")
    }

    @Test func aFailureTellsTheExitCodeAndTheLastOutput() throws {
        let error = #expect(throws: AgentError.self) {
            try runner("seq 1 100000; echo the reason >&2; exit 3").run(.preFreeze)
        }
        #expect(error?.code == .commandFailed)
        #expect(error?.message.contains("exit code 3") == true)
        #expect(error?.message.contains("the reason") == true)
    }

    @Test func aHookThatTakesTooLongIsKilledWithAllItStarted() throws {
        let folder = try TemporaryFolder()
        let command = "sleep 1000 & echo $! > \(folder.file("pid")); wait"
        let error = #expect(throws: AgentError.self) { try runner(command, limitSeconds: 1).run(.preFreeze) }
        #expect(error?.code == .timeout)
        let text = try #require(try kernelText(folder.file("pid")))
        let pid = try #require(Int32(text.prefix { $0 != "\n" }))
        if let left = try ProcessHandle(pid) { #expect(try left.waitForEnd(deadlineMilliseconds: 10_000)) }
    }

    @Test("a hook that never stops talking is killed; what one leaves behind may talk on", arguments: [true, false])
    func talker(isEndless: Bool) throws {
        let error = #expect(throws: AgentError.self) {
            try runner(isEndless ? "yes" : "yes & sleep 0.1; echo the reason; exit 3", limitSeconds: isEndless ? 1 : 60)
                .run(.preFreeze)
        }
        #expect(error?.code == (isEndless ? .timeout : .commandFailed))
    }

    @Test func whatAHookLeavesInTheBackgroundIsNotWaitedFor() throws {
        let folder = try TemporaryFolder()
        try runner("sleep 1000 & echo $! > \(folder.file("pid"))").run(.preFreeze)
        let text = try #require(try kernelText(folder.file("pid")))
        let pid = try #require(Int32(text.prefix { $0 != "\n" }))
        let background = try #require(try ProcessHandle(pid))
        try background.send(Signal.kill)
    }
}
