import LinuxSystem
import SimulationSupport
import TestSupport
import Testing

@Suite struct SchedulerTests {
    /// In processes of their own, where sets have one order.
    @Test("a seed repeats a run to the letter", arguments: [5, 10])
    func repeats(seed: Int) throws {
        let program = try #require(builtProgram("simulate"))
        let runs = try (0..<2).map { _ in
            try ChildProcess.run(
                program, ["--seed", "\(seed)", "--log"],
                environment: ["SWIFT_DETERMINISTIC_HASHING": "1", "SWIFT_BACKTRACE": "enable=no"],
                deadlineMilliseconds: 120_000)
        }
        let isSame = runs[0].output == runs[1].output
        #expect(isSame)
        #expect(runs[0].output.count > 1000)
    }

    @Test("other seeds take the turns in another order")
    func interleavings() {
        let orders = Set(
            (0..<20).map { seed in
                let order = Order()
                let scheduler = Scheduler(seed: UInt64(seed))
                scheduler.pointsPerSwitch = 2
                scheduler.run {
                    let threads = (0..<3).map { number in
                        scheduler.spawn("\(number)") {
                            for _ in 0..<5 {
                                scheduler.point()
                                order.all.withLock { $0.append(number) }
                            }
                        }
                    }
                    for thread in threads { scheduler.join(thread) }
                }
                return order.all.withLock { $0 }
            })
        #expect(orders.count > 10)
    }

    @Test("who waits for a lock lets its holder go on, and a wait ends when its time has come")
    func locksAndWaits() {
        let order = Order()
        let scheduler = Scheduler(seed: 1)
        scheduler.pointsPerSwitch = 1
        scheduler.run {
            let monitor = Monitor(0)
            let holder = scheduler.spawn("holder") {
                monitor.withLock { _ in
                    scheduler.point()
                    order.all.withLock { $0.append(1) }
                }
            }
            let other = scheduler.spawn("other") { monitor.change { $0 = 7 } }
            let start = SystemTime().monotonic()
            #expect(monitor.wait { $0 == 7 ? 7 : nil } == 7)
            // An hour, at once.
            let late: Int? = monitor.wait(until: start + 3_600_000_000_000) { $0 == 8 ? 8 : nil }
            #expect(late == nil)
            #expect(SystemTime().monotonic() >= start + 3_600_000_000_000)
            scheduler.join(holder)
            scheduler.join(other)
        }
        #expect(scheduler.failure == nil)
        #expect(order.all.withLock { $0 } == [1])
    }

    @Test("threads that wait for each other for ever are told")
    func deadlock() {
        let scheduler = Scheduler(seed: 1)
        scheduler.run {
            let never = Monitor(0)
            let _: Int? = never.wait { _ in nil }
        }
        #expect(scheduler.failure?.contains("all threads wait for each other") == true)
    }

    @Test("a map of runs agrees with an array")
    func runs() {
        var random = SeededRandom("a map of runs")
        var map = RunMap(0)
        var array = [Int](repeating: 0, count: 100)
        for step in 0..<2000 {
            let start = random.below(100)
            let range = start..<start + random.below(101 - start)
            let value = random.below(4)
            if random.oneIn(2) {
                map.set(range, value)
                for index in range { array[index] = value }
            } else {
                map.update(range) { ($0 + value) % 5 }
                for index in range { array[index] = (array[index] + value) % 5 }
            }
            guard (0..<100).allSatisfy({ map[$0] == array[$0] }) else {
                Issue.record("seed \(random.seed), step \(step)")
                return
            }
            let looked = map.runs(in: range)
            #expect(looked.map(\.range.count).reduce(0, +) == range.count)
        }
        #expect(map.runCount <= 101)
    }
}

private final class Order: Sendable {
    let all = Monitor<[Int]>([])
}
