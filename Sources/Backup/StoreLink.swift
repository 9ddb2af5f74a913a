internal import BackupStore
internal import LinuxSystem
internal import Transport

/// Requests to a store's peer, several at once from several threads, and their answers as they come.
final class StoreLink: Sendable {
    private let peer: any MessagePeer
    private let address: String
    private let state: Monitor<State>
    private let receiver: OwnThread

    /// What all parts of one answer may take: a list of the packs of 100 TiB.
    private static let answerMax = 256 << 20

    private struct State {
        var nextID: UInt32 = 1
        var answers: [UInt32: Answer] = [:]
        /// Why there will be no more answers.
        var failure: TransportError?
    }
    private struct Answer {
        var parts: [[UInt8]] = []
        var byteCount = 0
        var isWhole = false
        var failure: StoreError?
    }

    init(peer: any MessagePeer, address: String) throws(TransportError) {
        self.peer = peer
        self.address = address
        let state = Monitor(State())
        self.state = state
        do throws(SystemError) {
            receiver = try OwnThread(name: "store-answers") {
                let error = Self.receive(from: peer, address: address, state)
                state.change { $0.failure = error }
            }
        } catch {
            throw TransportError(.system, error.description)
        }
    }

    func close() {
        peer.close()
        receiver.join()
    }

    private static func receive(from peer: any MessagePeer, address: String, _ state: Monitor<State>) -> TransportError
    {
        do throws(TransportError) {
            while let message = try peer.receive() {
                try state.change { state throws(TransportError) in try take(message, address: address, &state) }
            }
            return TransportError(.closed, "the peer has ended the conversation")
        } catch {
            // Ends the conversation for the peer, too; harmless when it has ended.
            if error.code == .protocolViolation { peer.fail(code: "protocolViolation", message: error.message) }
            return error
        }
    }

    private static let partBytes = 64

    private static func take(_ message: Message, address: String, _ state: inout State) throws(TransportError) {
        guard var answer = state.answers[message.id], !answer.isWhole else {
            // The failure of an upload that was abandoned before it arrived.
            if message.kind == ServiceFailure.kind { return }
            throw TransportError(.protocolViolation, "the peer answered what nobody asked")
        }
        switch message.kind {
        case StoreMessage.reply, StoreMessage.part:
            // Each takes memory, whatever is in it.
            answer.byteCount += message.payload.count + partBytes
            guard answer.byteCount <= answerMax else {
                throw TransportError(.protocolViolation, "the peer's answer is over \(answerMax) bytes")
            }
            // Taken out while it is changed, or its parts would be copied.
            state.answers[message.id] = nil
            answer.parts.append(message.payload)
            answer.isWhole = message.kind == StoreMessage.reply
        case ServiceFailure.kind:
            answer.failure = try ServiceFailure(parsing: message).error.asStoreError(address)
            answer.isWhole = true
        default:
            throw TransportError(.protocolViolation, "the peer answered with message kind \(message.kind)")
        }
        state.answers[message.id] = answer
    }

    // MARK: Requests

    /// The answer to a request, which has one part.
    func call(_ kind: UInt16, _ payload: [UInt8]) throws(StoreError) -> [UInt8] {
        let parts = try callForParts(kind, payload)
        guard let first = parts.first, parts.count == 1 else {
            throw StoreError(.remote, "\(address): the peer's answer has \(parts.count) parts instead of one")
        }
        return first
    }

    func callForParts(_ kind: UInt16, _ payload: [UInt8]) throws(StoreError) -> [[UInt8]] {
        let id = try begin()
        try send(kind, id: id, payload)
        return try finish(id)
    }

    /// Takes an id, for which an answer may come from now on.
    func begin() throws(StoreError) -> UInt32 {
        try live { state in
            repeat { state.nextID &+= 1 } while state.nextID == 0 || state.answers[state.nextID] != nil
            state.answers[state.nextID] = Answer()
            return state.nextID
        }
    }

    func send(_ kind: UInt16, id: UInt32, _ payload: [UInt8]) throws(StoreError) {
        do throws(TransportError) {
            try peer.send(Message(kind: kind, id: id, payload: payload))
        } catch {
            forget(id)
            throw error.asStoreError(address)
        }
    }

    /// Waits for the answer.
    func finish(_ id: UInt32) throws(StoreError) -> [[UInt8]] {
        let answer = state.wait { state -> Result<Answer, StoreError>? in
            if let answer = state.answers[id], answer.isWhole {
                state.answers[id] = nil
                return .success(answer)
            }
            guard let failure = state.failure else { return nil }
            state.answers[id] = nil
            return .failure(failure.asStoreError(self.address))
        }
        guard let answer = try answer?.get() else {
            preconditionFailure("a wait without a deadline ends with an answer")
        }
        if let failure = answer.failure { throw failure }
        return answer.parts
    }

    /// What already came for `id` although it is not finished: nothing, or the failure.
    func check(_ id: UInt32) throws(StoreError) {
        let failure = try live { $0.answers[id]?.failure }
        if let failure { throw failure }
    }

    /// No answer is awaited any more.
    func forget(_ id: UInt32) { state.withLock { $0.answers[id] = nil } }

    /// Runs a parser of answers.
    func parse<R>(_ body: () throws(TransportError) -> R) throws(StoreError) -> R {
        do throws(TransportError) { return try body() } catch { throw error.asStoreError(address) }
    }

    private func live<R>(_ body: (inout State) -> R) throws(StoreError) -> R {
        let result = state.withLock { state -> Result<R, StoreError> in
            if let failure = state.failure { return .failure(failure.asStoreError(address)) }
            return .success(body(&state))
        }
        return try result.get()
    }
}

/// An object on its way to the peer. Its data are messages without answers; only the commit waits.
final class RemoteUpload: ObjectUpload {
    private let link: StoreLink
    private let id: UInt32
    private struct State {
        var buffer: [UInt8] = []
        var isOpen = true
    }
    private let state = Monitor(State())

    init(_ kind: ObjectKind, link: StoreLink) throws(StoreError) {
        self.link = link
        id = try link.begin()
        var writer = PayloadWriter()
        writer.put(kind.rawValue)
        try link.send(StoreMessage.beginUpload, id: id, writer.bytes)
    }

    deinit { abandon() }

    func append(_ bytes: UnsafeRawBufferPointer) throws(StoreError) {
        var next = 0
        repeat {
            let part = state.withLock { state -> [UInt8] in
                let count = min(StoreMessage.appendMax - state.buffer.count, bytes.count - next)
                unsafe state.buffer.append(contentsOf: bytes[next..<next + count])
                next += count
                guard state.buffer.count >= StoreMessage.appendMax else { return [] }
                defer {
                    state.buffer = []
                    state.buffer.reserveCapacity(StoreMessage.appendMax)
                }
                return state.buffer
            }
            if !part.isEmpty { try send(part) }
        } while next < bytes.count
    }

    private func send(_ part: [UInt8]) throws(StoreError) {
        do throws(StoreError) {
            try link.check(id)
            try link.send(StoreMessage.append, id: id, part)
        } catch {
            abandon()
            throw error
        }
    }

    func note(_ frame: PackFrame) throws(StoreError) {
        let rest = state.withLock { state -> [UInt8] in
            defer { state.buffer = [] }
            return state.buffer
        }
        if !rest.isEmpty { try send(rest) }
        try link.send(StoreMessage.frame, id: id, frame.payload)
    }

    func commit(name: String) throws(StoreError) {
        let rest = state.withLock { state -> [UInt8]? in
            guard state.isOpen else { return nil }
            defer { state.buffer = [] }
            return state.buffer
        }
        guard let rest else { throw StoreError(.invalid, "the upload has ended") }
        if !rest.isEmpty { try send(rest) }
        state.withLock { $0.isOpen = false }
        var writer = PayloadWriter()
        writer.put(text: name)
        try link.send(StoreMessage.commit, id: id, writer.bytes)
        _ = try link.finish(id)
    }

    func abandon() {
        let wasOpen = state.withLock { state in
            defer { state.isOpen = false }
            return state.isOpen
        }
        guard wasOpen else { return }
        // When the connection is lost the peer drops the upload by itself.
        try? link.send(StoreMessage.abandon, id: id, [])
        link.forget(id)
    }
}
