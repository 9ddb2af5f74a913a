import BlockIO
import LinuxSystem
@testable import Migration
import Synchronization
import SystemPackage
import Transport

/// A target host: each connection is served by a thread of its own.
final class TargetHost: Sendable {
    let fs: any FileSystem
    let guest = CountingGuest()
    let folder: String
    let cutter: Mutex<Cutter>
    private let threads = Mutex<[OwnThread]>([])

    let disks: any TargetDisks
    let boot: Mutex<String> = Mutex("first")

    init(fs: any FileSystem, folder: String, cutAfter count: Int? = nil, disks: (any TargetDisks)? = nil) {
        self.fs = fs
        self.disks = disks ?? RawDisks(fs: fs)
        self.folder = folder
        cutter = Mutex(Cutter(after: count))
    }

    var target: MigrationTarget {
        MigrationTarget(name: "there:\(folder)", folder: folder) { () throws(TransportError) in try self.connect() }
    }

    func connect() throws(TransportError) -> any MessagePeer {
        let cutter = self.cutter.withLock { $0 }
        guard !cutter.isCut else { throw TransportError(.unreachable, "the target is out of reach") }
        let (ours, theirs) = MemoryStream.pair()
        let receiver = self.receiver
        do throws(SystemError) {
            let thread = try OwnThread(name: "target") {
                guard let channel = try? MessageChannel(stream: theirs, peerName: "the source") else { return }
                let peer = CutPeer(channel, theirs, cutter)
                do throws(TransportError) {
                    guard let first = try peer.receive() else { return }
                    let request = try ServiceRequest(parsing: first)
                    try receiver.serve(peer, folder: request.path)
                } catch {}
                peer.close()
            }
            threads.withLock { $0.append(thread) }
        } catch {
            throw TransportError(.system, error.description)
        }
        return CutPeer(try MessageChannel(stream: ours, peerName: "the target"), ours, cutter)
    }

    var receiver: MigrationReceiver {
        MigrationReceiver(fs: fs, disks: disks, guest: guest, boot: boot.withLock { $0 })
    }

    /// Waits until every connection has ended.
    func settle() {
        let all = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in all { thread.join() }
    }
}

/// What lies between the source and the target: each message of either side is looked at, and the connection cut where
/// the answer is no.
final class FilterPeer: MessagePeer {
    private let peer: any MessagePeer
    private let lets: @Sendable (_ payload: String, _ isRequest: Bool) -> Bool

    init(_ peer: any MessagePeer, _ lets: @escaping @Sendable (String, Bool) -> Bool) {
        self.peer = peer
        self.lets = lets
    }

    private func check(_ message: Message, _ isRequest: Bool) throws(TransportError) {
        guard message.kind == MigrationMessage.request || message.kind == MigrationMessage.reply else { return }
        guard lets(String(decoding: message.payload, as: UTF8.self), isRequest) else {
            peer.close()
            throw TransportError(.closed, "the link was cut")
        }
    }

    func send(_ message: Message) throws(TransportError) {
        try check(message, true)
        try peer.send(message)
    }
    func receive() throws(TransportError) -> Message? {
        guard let message = try peer.receive() else { return nil }
        try check(message, false)
        return message
    }
    func fail(code: String, message: String) { peer.fail(code: code, message: message) }
    func close() { peer.close() }
}

/// A target that answers what it is told to, whatever is asked; the stream it counts. `nil`: no answer at all.
final class ScriptedPeer: MessagePeer {
    private struct State {
        var answers: [Message] = []
        var isClosed = false
        var applied: UInt64 = 0
    }
    private let state = Monitor(State())
    private let reply: @Sendable (MigrationRequest) -> MigrationReply?

    init(_ reply: @escaping @Sendable (MigrationRequest) -> MigrationReply?) { self.reply = reply }

    func send(_ message: Message) throws(TransportError) {
        if message.kind == ServiceRequest.kind {
            state.change { $0.answers.append(Message(kind: ServiceRequest.openedKind, id: 0, payload: [])) }
        } else if message.kind == MigrationMessage.stream {
            state.change { state in
                state.applied += UInt64(message.payload.count)
                state.answers.append(
                    Message(kind: MigrationMessage.applied, id: 0, payload: encodeApplied(state.applied)))
            }
        } else if let request = decodeJSON(MigrationRequest.self, message.payload), let reply = reply(request) {
            state.change {
                $0.answers.append(Message(kind: MigrationMessage.reply, id: message.id, payload: encodeJSON(reply)))
            }
        }
    }
    func receive() throws(TransportError) -> Message? {
        let answer = state.wait { state -> Message?? in
            if !state.answers.isEmpty { return .some(state.answers.removeFirst()) }
            return state.isClosed ? .some(nil) : nil
        }
        return answer ?? nil
    }
    func fail(code: String, message: String) { close() }
    func close() { state.change { $0.isClosed = true } }
}
