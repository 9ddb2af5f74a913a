import Testing

@testable import ControlCLI

@Suite struct ProgressMeterTests {
    private let second: UInt64 = 1_000_000_000
    private let MiB: UInt64 = 1 << 20

    @Test func ratesAndTimeLeftComeFromTheStartOfTheWork() {
        var meter = ProgressMeter("reading", interval: second)
        #expect(meter.line(done: 0, total: 1024 * MiB, at: 5 * second) == nil)
        #expect(meter.line(done: 50 * MiB, total: 1024 * MiB, at: 5 * second + 1) == nil)
        #expect(
            meter.line(done: 256 * MiB, total: 1024 * MiB, at: 7 * second)
                == "reading: 25 %, 256 MiB of 1 GiB, 128 MiB/s, 6.0 s left")
        #expect(
            meter.line(done: 1024 * MiB, total: 1024 * MiB, at: 9 * second)
                == "reading: 100 %, 1 GiB of 1 GiB, 256 MiB/s")
    }

    @Test func workThatWasResumedCountsFromWhereItWentOn() {
        var meter = ProgressMeter("merging", interval: second)
        _ = meter.line(done: 900 * MiB, total: 1000 * MiB, at: 0)
        #expect(
            meter.line(done: 910 * MiB, total: 1000 * MiB, at: second)
                == "merging: 91 %, 910 MiB of 1000 MiB, 10 MiB/s, 9.0 s left")
    }

    @Test func anUnknownTotalAndHugeNumbersAreFine() {
        var meter = ProgressMeter("sending", interval: 1)
        _ = meter.line(done: 0, total: 0, at: 0)
        #expect(meter.line(done: 10 * MiB, total: 0, at: second) == "sending: 10 MiB, 10 MiB/s")
        #expect(meter.line(done: 1, total: .max, at: 10 * second)?.hasPrefix("sending: 0 %") == true)
        #expect(meter.line(done: .max, total: .max, at: 20 * second)?.hasPrefix("sending: 100 %") == true)
    }
}
