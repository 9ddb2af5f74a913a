import DiskImage
import LinuxSystem
import TestSupport
import Testing

@testable import DeviceServer

/// What the host lacks for now is waited for, told, and never for longer than somebody is there.
@Suite(.timeLimit(.minutes(5))) struct HostWaitTests {
    private final class Client: HeldWriteObserver {
        let hasGone = Monitor(false)
        var isGone: Bool { hasGone.withLock { $0 } }
        func whileHeld<R, E: Error>(_ wait: () throws(E) -> R) throws(E) -> R { try wait() }
    }

    private static func lacking(_ errno: SystemError.Kind) -> DiskError {
        var error = DiskError(errno == .outOfSpace ? .outOfSpace : .io, "what the host lacks", path: "/disk")
        error.mayPass = true
        return error
    }

    private func until(_ body: () -> Bool) throws {
        var none: [PollEntry] = []
        while !body() { try pollDescriptors(&none, deadlineMilliseconds: 5) }
    }

    /// Has a thread wait until `isThere`. - Returns: it, and how it ended.
    private func waiter(
        _ wait: HostWait, _ client: Client?, _ error: DiskError, _ isThere: Monitor<Bool>
    ) throws -> (OwnThread, Monitor<String?>) {
        let end = Monitor<String?>(nil)
        let thread = try OwnThread(name: "waiter") {
            HeldWrites.$observer.withValue(client) {
                var said = "done"
                do throws(DiskError) {
                    try wait.run { () throws(DiskError) in
                        if !isThere.withLock({ $0 }) { throw error }
                    }
                } catch { said = error.message }
                end.change { $0 = said }
            }
        }
        return (thread, end)
    }

    @Test(arguments: [SystemError.Kind.outOfSpace, .io])
    func itIsToldAndGoesOn(kind: SystemError.Kind) throws {
        let wait = HostWait(path: "/disk")
        let isThere = Monitor(false)
        let (thread, end) = try waiter(wait, Client(), Self.lacking(kind), isThere)
        try until { wait.reason != nil }
        #expect(wait.reason?.message == "what the host lacks")
        isThere.change { $0 = true }
        thread.join()
        #expect(end.withLock { $0 } == "done" && wait.reason == nil)
    }

    @Test func whoHasGoneIsNotWaitedFor() throws {
        let wait = HostWait(path: "/disk")
        let client = Client()
        let (thread, end) = try waiter(wait, client, Self.lacking(.outOfSpace), Monitor(false))
        try until { wait.reason != nil }
        client.hasGone.change { $0 = true }
        wait.lookAgain()
        thread.join()
        #expect(end.withLock { $0 }?.contains("hung up") == true && wait.reason == nil)
    }

    @Test func theEndEndsIt() throws {
        let wait = HostWait(path: "/disk")
        let (thread, end) = try waiter(wait, Client(), Self.lacking(.io), Monitor(false))
        try until { wait.reason != nil }
        wait.end()
        thread.join()
        #expect(end.withLock { $0 } == "what the host lacks")
    }

    @Test func whatStaysIsNotWaitedForNorWhereNobodyNoticesAHangUp() throws {
        let wait = HostWait(path: "/disk")
        var final = Self.lacking(.io)
        final.mayPass = false
        for (client, error) in [(Client(), final), (nil, Self.lacking(.outOfSpace))] as [(Client?, DiskError)] {
            let (thread, end) = try waiter(wait, client, error, Monitor(false))
            thread.join()
            #expect(end.withLock { $0 } == "what the host lacks")
        }
    }
}
