@testable import Migration
import Testing

private let MiB: UInt64 = 1 << 20

/// A round of so many bytes that took a second, with so many dirty at its end.
private func round(_ bytes: UInt64, seconds: Double = 1, dirty: UInt64, fixed: UInt64 = 0) -> PrecopyPlanner.Event {
    let nanoseconds = UInt64(seconds * 1e9)
    return .roundEnded(
        RoundResult(
            bytes: bytes, nanoseconds: nanoseconds, intervalNanoseconds: nanoseconds, dirtyBytes: dirty,
            fixedNanoseconds: fixed))
}

private func planner(_ change: (inout PrecopyLimits) -> Void = { _ in }) -> PrecopyPlanner {
    var limits = PrecopyLimits()
    change(&limits)
    return PrecopyPlanner(limits: limits)
}

@Suite struct PrecopyPlannerTests {
    @Test("rounds go on until the predicted downtime is within the limit, then the switch runs in order")
    func converges() {
        var planner = planner()
        #expect(planner.handle(.started) == [.copyRound(1)])
        #expect(planner.handle(round(1000 * MiB, seconds: 10, dirty: 400 * MiB)) == [.copyRound(2)])
        #expect(planner.handle(round(400 * MiB, seconds: 4, dirty: 160 * MiB)) == [.copyRound(3)])
        #expect(planner.handle(round(160 * MiB, seconds: 1.6, dirty: 64 * MiB)) == [.copyRound(4)])
        #expect(planner.handle(round(64 * MiB, seconds: 0.64, dirty: 26 * MiB)) == [.stopGuest])
        #expect(planner.predictedDowntime == 260_000_000)
        let order: [(PrecopyPlanner.Event, PrecopyPlanner.Action)] = [
            (.stopped, .sendFinal), (.finalSent, .verify), (.verified, .release), (.released, .record),
            (.recorded, .commit), (.committed, .finish),
        ]
        for (event, action) in order { #expect(planner.handle(event) == [action]) }
        #expect(planner.state == .done)
    }

    @Test("fixed costs count")
    func fixedCosts() {
        var planner = planner()
        _ = planner.handle(.started)
        #expect(planner.handle(round(100 * MiB, dirty: 0, fixed: 300_000_001)) == [.copyRound(2)])
        #expect(planner.handle(round(0, dirty: 0, fixed: 300_000_000)) == [.stopGuest])
    }

    @Test("an idle disk switches after its first round")
    func idle() {
        var planner = planner()
        _ = planner.handle(.started)
        #expect(planner.handle(round(0, seconds: 0, dirty: 0)) == [.stopGuest])
    }

    @Test("a round that found all there says nothing of the link, and no switch relies on it")
    func resumed() {
        var planner = planner { $0.downtimeNanoseconds = 300_000_000 }
        _ = planner.handle(.started)
        // 40 MiB compared in 0.18 s, 32 bytes sent; the guest has written 8 MiB.
        let compared = RoundResult(
            bytes: 40 * MiB, nanoseconds: 178_000_000, intervalNanoseconds: 200_000_000, dirtyBytes: 8 * MiB,
            fixedNanoseconds: 0, changedBytes: 0, sentBytes: 32, linkNanoseconds: 20_000_000)
        #expect(planner.handle(.roundEnded(compared)) == [.copyRound(2)])
        #expect(planner.predictedDowntime == .max)
        // The link carries 8 MiB/s: as much again would take a second.
        let sent = RoundResult(
            bytes: 8 * MiB, nanoseconds: 1_000_000_000, intervalNanoseconds: 1_000_000_000, dirtyBytes: 8 * MiB,
            fixedNanoseconds: 0, changedBytes: 8 * MiB, sentBytes: 8 * MiB, linkNanoseconds: 1_000_000_000)
        #expect(planner.handle(.roundEnded(sent)) == [.copyRound(3)])
        #expect((900_000_000...1_100_000_000).contains(planner.predictedDowntime))
    }

    @Test("what is dirty counts as sent, however much of a round was zeros or there already")
    func zeros() {
        var planner = planner { $0.downtimeNanoseconds = 300_000_000 }
        _ = planner.handle(.started)
        // 4 GiB looked at in two seconds, of which 16 MiB were sent, at 8 MiB/s.
        let round = RoundResult(
            bytes: 4096 * MiB, nanoseconds: 2_000_000_000, intervalNanoseconds: 2_000_000_000, dirtyBytes: 16 * MiB,
            fixedNanoseconds: 0, changedBytes: 16 * MiB, sentBytes: 16 * MiB, linkNanoseconds: 2_000_000_000)
        #expect(planner.handle(.roundEnded(round)) == [.copyRound(2)])
        #expect((1_900_000_000...2_100_000_000).contains(planner.predictedDowntime))
    }

    @Test("a switch has three times the limit, a second at least, and no end where it is forced")
    func switchTime() {
        var limits = PrecopyLimits()
        limits.downtimeNanoseconds = 2_000_000_000
        #expect(limits.switchNanosecondsMax == 6_000_000_000)
        limits.downtimeNanoseconds = 10
        #expect(limits.switchNanosecondsMax == 1_000_000_000)
        limits.downtimeNanoseconds = .max
        #expect(limits.switchNanosecondsMax == .max)
        limits.forcesSwitch = true
        #expect(limits.switchNanosecondsMax == nil)
    }

    @Test("a guest that writes faster than the link is left alone, with the reason")
    func hopeless() {
        var planner = planner { $0.stalledRoundsMax = 3 }
        _ = planner.handle(.started)
        for number in 1...2 { #expect(planner.handle(round(100 * MiB, dirty: 120 * MiB)) == [.copyRound(number + 1)]) }
        #expect(planner.handle(round(100 * MiB, dirty: 120 * MiB)) == [.rollBack(.hopeless)])
        #expect(planner.state == .rolledBack)
    }

    @Test("rounds that stop shrinking above the limit are hopeless too")
    func plateau() {
        var planner = planner { $0.stalledRoundsMax = 3 }
        _ = planner.handle(.started)
        #expect(planner.handle(round(1000 * MiB, seconds: 10, dirty: 80 * MiB)) == [.copyRound(2)])
        #expect(planner.handle(round(80 * MiB, dirty: 60 * MiB)) == [.copyRound(3)])
        #expect(planner.handle(round(80 * MiB, dirty: 61 * MiB)) == [.copyRound(4)])
        #expect(planner.handle(round(80 * MiB, dirty: 60 * MiB)) == [.rollBack(.hopeless)])
    }

    @Test("the number of rounds is bounded, and a forced switch takes the place of giving up")
    func bounded() {
        var plain = planner { $0.roundsMax = 4 }
        var forced = planner {
            $0.roundsMax = 4
            $0.forcesSwitch = true
        }
        _ = plain.handle(.started)
        _ = forced.handle(.started)
        var dirty = 4000 * MiB
        for _ in 1...3 {
            dirty /= 2
            _ = plain.handle(round(dirty * 2, dirty: dirty))
            _ = forced.handle(round(dirty * 2, dirty: dirty))
        }
        #expect(plain.handle(round(600 * MiB, dirty: 500 * MiB)) == [.rollBack(.tooManyRounds)])
        #expect(forced.handle(round(600 * MiB, dirty: 500 * MiB)) == [.stopGuest])
        #expect(forced.isForced)
    }

    @Test("a failure rolls back before the record, and has to be recovered after it")
    func failures() {
        let events: [PrecopyPlanner.Event] = [
            .started, round(1, dirty: 0), .stopped, .finalSent, .verified, .released, .recorded, .committed,
        ]
        for count in 0..<events.count {
            var planner = planner()
            for event in events.prefix(count) { _ = planner.handle(event) }
            #expect(
                planner.handle(.failed) == (count < 6 ? [.rollBack(.failure)] : [.recover]), "after \(count) events")
            for event in events + [.failed] { #expect(planner.handle(event) == []) }
        }
    }

    @Test("no order of events makes it record without verify and release before, or act after the end")
    func anyOrder() {
        let events: [PrecopyPlanner.Event] = [
            .started, round(10 * MiB, dirty: 0), round(10 * MiB, dirty: 900 * MiB), .stopped, .finalSent, .verified,
            .released,
            .recorded, .committed, .failed,
        ]
        var state: UInt64 = 42
        for _ in 0..<2000 {
            var planner = planner()
            var actions: [PrecopyPlanner.Action] = []
            for _ in 0..<30 {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                actions += planner.handle(events[Int(state >> 33) % events.count])
            }
            if let recorded = actions.firstIndex(of: .record) {
                #expect(actions[..<recorded].suffix(3) == [.sendFinal, .verify, .release])
                #expect(!actions.contains { if case .rollBack = $0 { true } else { false } })
            }
            for final in [PrecopyPlanner.Action.finish, .recover, .rollBack(.failure)] {
                if let index = actions.firstIndex(of: final) { #expect(index == actions.count - 1) }
            }
        }
    }
}
