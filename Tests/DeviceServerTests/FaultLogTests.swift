import BlockIO
@testable import DeviceServer
import LinuxSystem
import TestSupport
import Testing

@Suite(.timeLimit(.minutes(5))) struct FaultLogTests {
    @Test("threads that speak at once, in the first moment of a period, end no process and are all heard")
    func spokenAtOnce() throws {
        let folder = try TemporaryFolder()
        for round in 0..<1_000 {
            let log = FaultLog(descriptor: try openLog(folder.file("log")))
            let threads = try (0..<4).map { _ in try OwnThread(name: "speaker") { log.say("failed") } }
            for thread in threads { thread.join() }
            let bytes = try LinuxFileSystem().contents(of: folder.file("log"), limit: 1 << 20).count
            try #require(bytes == (round + 1) * 4 * "godwit: failed\n".utf8.count)
        }
    }

    @Test("a time that lies ahead is no time ago")
    func elapsed() {
        let time = SystemTime()
        #expect(time.elapsed(since: .max) == 0)
        let start = time.monotonic()
        #expect(time.elapsed(since: 0) >= start)
        #expect(time.elapsed(since: start) < start)
    }
}
