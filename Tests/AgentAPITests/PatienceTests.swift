import AgentAPI
import LinuxSystem
import TestSupport
import Testing

/// Whoever asks another process has a deadline.
@Suite(.timeLimit(.minutes(5))) struct PatienceTests {
    @Test func anOwnerThatGivesNoSignIsGivenUp() throws {
        let folder = try TemporaryFolder()
        let socket = try UnixSocket.listen(at: folder.file("s"))
        let client = try ControlClient.connect(folder.file("s"), silenceMilliseconds: 30)
        let error = #expect(throws: ControlError.self) { try client.status() }
        #expect(error?.code == ControlError.timeout, "\(String(describing: error))")
        // A late answer must not be taken for that of the next request.
        let next = #expect(throws: ControlError.self) { try client.perform(.resume) }
        #expect(next?.code == ControlError.unreachable, "\(String(describing: next))")
        withExtendedLifetime(socket) {}
    }

    @Test func signsOfLifeAreNoProgress() throws {
        let folder = try TemporaryFolder()
        let socket = try UnixSocket.listen(at: folder.file("s"))
        let listener = Holder(socket)
        let server = try OwnThread(name: "server") {
            guard let connection = try? UnixSocket.accept(from: listener.number) else { return }
            let channel = LineChannel(adopting: connection)
            _ = try? channel.receive(ControlRequest.self)
            try? channel.send(ControlReply.progress(done: 0, total: 0))
            try? channel.send(ControlReply.progress(done: 1, total: 2))
            try? channel.send(ControlReply.done)
        }
        let client = try ControlClient.connect(folder.file("s"), silenceMilliseconds: 10_000)
        var told: [UInt64] = []
        try client.perform(.compact(bytesPerSecond: 0)) { done, _ in
            told.append(done)
            return true
        }
        #expect(told == [1])
        server.join()
    }
}

private final class Holder: Sendable {
    private let descriptor: OwnedDescriptor
    init(_ descriptor: consuming OwnedDescriptor) { self.descriptor = descriptor }
    var number: CInt { descriptor.number }
}
