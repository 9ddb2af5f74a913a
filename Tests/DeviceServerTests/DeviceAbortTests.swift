import DiskImage
import LinuxSystem
import Testing

@testable import DeviceServer

/// A driver's device that refuses for a while to have its abort lifted.
private final class Device: Sendable {
    struct State {
        var isAborted = false
        var refusals: Int
        var code: DiskError.Code
        var asked = 0
    }
    let state: Monitor<State>

    init(refusals: Int, code: DiskError.Code = .busy) { state = Monitor(State(refusals: refusals, code: code)) }

    func abort() -> DeviceAbort {
        DeviceAbort(path: "/disk") { [state] isOn throws(DiskError) in
            let failure: DiskError? = state.change { state in
                if isOn {
                    state.isAborted = true
                    return nil
                }
                state.asked += 1
                guard state.asked > state.refusals else { return DiskError(state.code, "a job runs", path: "/disk") }
                state.isAborted = false
                return nil
            }
            if let failure { throw failure }
        }
    }
}

@Suite(.timeLimit(.minutes(5))) struct DeviceAbortTests {
    @Test(
        "an abort is lifted, also when a job of the driver is in the way for longer than anybody waits",
        arguments: [0, 3, 30])
    func lifted(refusals: Int) throws {
        let device = Device(refusals: refusals)
        let abort = device.abort()
        try abort.begin()
        #expect(device.state.withLock { $0.isAborted })
        abort.lift()
        _ = device.state.wait(until: .max) { $0.isAborted ? nil : () }
        #expect(device.state.withLock { $0.asked } == refusals + 1)
    }

    @Test("what is lifted late is not the abort of a later release") func later() throws {
        let device = Device(refusals: 25)
        let abort = device.abort()
        try abort.begin()
        // Goes on in the background.
        abort.lift()
        try abort.begin()
        _ = device.state.wait(until: .max) { $0.asked >= 20 ? () : nil }
        device.state.change { $0.refusals = 0 }
        pauseThread(nanoseconds: 200_000_000)
        #expect(device.state.withLock { $0.isAborted })
        abort.lift()
        #expect(device.state.withLock { !$0.isAborted })
    }

    @Test("where nobody knows what is on the medium it stays, and nobody tries for long") func final() throws {
        let device = Device(refusals: 1000, code: .corrupt)
        let abort = device.abort()
        try abort.begin()
        abort.lift()
        #expect(device.state.withLock { $0.isAborted && $0.asked == 1 })
    }
}
