import Codecs
import Synchronization
import Testing
import Transport

@testable import Migration

/// A target whose host has no more space: it says so once, confirms nothing more, and answers an abort.
private final class FullTarget: MessagePeer {
    private struct State {
        var toReceive: [Message] = []
        var streamed = 0
        var kinds: [UInt16] = []
    }
    private let state = Mutex(State())

    var streamed: Int { state.withLock { $0.streamed } }
    var lastKind: UInt16? { state.withLock { $0.kinds.last } }

    init(saysSoAfter bytes: Int) { failAfter = bytes }
    private let failAfter: Int

    func send(_ message: Message) throws(TransportError) {
        state.withLock { state in
            state.kinds.append(message.kind)
            switch message.kind {
            case MigrationMessage.stream:
                let wasFull = state.streamed >= failAfter
                state.streamed += message.payload.count
                if !wasFull, state.streamed >= failAfter {
                    state.toReceive.append(ServiceFailure(code: "target", text: "no space").message(id: 0))
                }
            case MigrationMessage.request:
                state.toReceive.append(
                    Message(
                        kind: MigrationMessage.reply, id: message.id,
                        payload: encodeJSON(MigrationReply.done)))
            default: Issue.record("message kind \(message.kind)")
            }
        }
    }

    /// Where a real peer would wait for ever this one is gone.
    func receive() throws(TransportError) -> Message? {
        let message = state.withLock { $0.toReceive.isEmpty ? nil : $0.toReceive.removeFirst() }
        guard let message else { throw TransportError(.timedOut, "nobody will say anything") }
        return message
    }
    func fail(code: String, message: String) {}
    func close() {}
}

@Suite struct LinkTests {
    @Test("a target that takes no more is told to let go, and nobody waits for what it will not confirm")
    func fullTarget() throws {
        let peer = FullTarget(saysSoAfter: 1 << 20)
        let link = MigrationLink(peer: peer, name: "far")
        let error = #expect(throws: MigrationError.self) {
            for _ in 0..<64 { try link.append([UInt8](repeating: 7, count: 1 << 20 - 1)) }
        }
        #expect(error?.code == .target && error?.message.contains("no space") == true)
        let streamed = peer.streamed
        #expect(streamed <= Int(MigrationMessage.windowBytes))
        // The first failure is what is told, whatever is tried after it.
        for _ in 0..<2 {
            let again = #expect(throws: MigrationError.self) { try link.drain() }
            #expect(again == error)
        }
        #expect(throws: MigrationError.self) { try link.append([UInt8](repeating: 7, count: 1 << 20)) }
        #expect(throws: MigrationError.self) { try link.perform(.sync) }
        try link.perform(.abort)
        #expect(peer.streamed == streamed && peer.lastKind == MigrationMessage.request)
    }

    @Test("what the target says of the stream in the middle of a request is told as that")
    func failureInARequest() throws {
        let peer = FullTarget(saysSoAfter: 1)
        let link = MigrationLink(peer: peer, name: "far")
        try link.append([1, 2, 3])
        let error = #expect(throws: MigrationError.self) { try link.perform(.sync) }
        #expect(error?.code == .target && error?.message.contains("no space") == true)
        try link.perform(.abort)
    }

    @Test("what was not sent is not sent before an abort") func abort() throws {
        let peer = FullTarget(saysSoAfter: 1)
        let link = MigrationLink(peer: peer, name: "far")
        try link.append([1, 2, 3])
        try link.perform(.abort)
        #expect(peer.streamed == 0)
    }
}
