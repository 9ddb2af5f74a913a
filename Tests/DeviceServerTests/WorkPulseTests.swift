import AgentAPI
@testable import DeviceServer
import DiskImage
import LinuxSystem
import TestSupport
import Testing

/// A long request gives signs of life as long as it is worked on, and none when its thread is stuck.
@Suite(.timeLimit(.minutes(5))) struct WorkPulseTests {
    /// Has a session serve one connection, with a disk that grows like `onGrow`.
    private func grow(
        silenceMilliseconds: UInt64, _ onGrow: @escaping @Sendable () throws(DiskError) -> Void
    ) throws -> ControlError? {
        let folder = try TemporaryFolder()
        let owner = try DiskOwner.start(StubDisk(onGrow: onGrow), controlSocket: nil) {}
        let listener = DescriptorBox(try UnixSocket.listen(at: folder.file("s")))
        let server = try OwnThread(name: "server") {
            guard let connection = try? UnixSocket.accept(from: listener.number) else { return }
            ControlSession(identifier: 1, owner: owner, pulseInterval: 10_000_000)
                .run(LineChannel(adopting: connection))
        }
        var failure: ControlError?
        do {
            let client = try ControlClient.connect(folder.file("s"), silenceMilliseconds: silenceMilliseconds)
            do throws(ControlError) { try client.perform(.grow(bytes: 1)) } catch { failure = error }
        }
        server.join()
        return failure
    }

    @Test func workThatGoesOnIsWaitedFor() throws {
        let failure = try grow(silenceMilliseconds: 1_000) { () throws(DiskError) in
            // Longer than the silence that the client bears, in many short steps.
            for _ in 0..<150 {
                var none: [PollEntry] = []
                _ = try? pollDescriptors(&none, deadlineMilliseconds: 20)
            }
        }
        #expect(failure == nil, "\(String(describing: failure))")
    }

    @Test func workThatHangsIsGivenUp() throws {
        let failure = try grow(silenceMilliseconds: 500) { () throws(DiskError) in
            // As in a call that the storage does not answer.
            var none: [PollEntry] = []
            _ = try? pollDescriptors(&none, deadlineMilliseconds: 3_000)
        }
        #expect(failure?.code == ControlError.timeout, "\(String(describing: failure))")
    }
}

private final class DescriptorBox: Sendable {
    private let descriptor: OwnedDescriptor
    init(_ descriptor: consuming OwnedDescriptor) { self.descriptor = descriptor }
    var number: CInt { descriptor.number }
}
