public import BackupStore
public import BlockIO
internal import LinuxSystem
public import Transport

/// The far side of ``RemoteStore``: the services `store` and `create-store`, godwit-peer(5). A folder of this host as a
/// store for a peer; look-ups and checks happen here, next to the data.
public struct StoreService: Sendable {
    private let fs: any FileSystem

    public init(fs: any FileSystem) { self.fs = fs }

    /// Whether `request` is for this service.
    public static func handles(_ request: ServiceRequest) -> Bool {
        request.service == StoreMessage.service || request.service == StoreMessage.creationService
    }

    /// Whether `request` can be one that changes nothing.
    public static func canBeReadOnly(_ request: ServiceRequest) -> Bool { request.service == StoreMessage.service }

    /// Serves until the peer says goodbye. The request has been read, its path been allowed.
    /// - Parameter folder: the store's folder on this host.
    /// - Throws: when the connection fails or the peer makes no sense. What was committed is there, nothing else.
    public func serve(_ peer: any MessagePeer, request: ServiceRequest, folder: String) throws(TransportError) {
        if request.service == StoreMessage.creationService {
            try create(peer, folder: folder)
        } else {
            let store: LocalStore
            do throws(StoreError) {
                var options = LocalStore.Options()
                options.writable = !request.isReadOnly
                options.isServed = true
                store = try LocalStore(opening: folder, options: options, in: fs)
            } catch {
                return try peer.send(error.failure.message(id: 0))
            }
            defer { store.close() }
            try Self.serve(peer, store, isReadOnly: request.isReadOnly)
        }
    }

    /// Serves any backend, for tests.
    public static func serve(
        _ peer: any MessagePeer, _ store: any StoreBackend, isReadOnly: Bool = false
    ) throws(TransportError) {
        let opening: StoreOpening
        do throws(StoreError) {
            opening = StoreOpening(info: store.info, damage: isReadOnly ? "" : try store.damage() ?? "")
        } catch {
            return try peer.send(error.failure.message(id: 0))
        }
        try peer.send(Message(kind: ServiceRequest.openedKind, payload: opening.payload))
        let session = try StoreSession(peer: peer, store: store)
        defer { session.end() }
        while let message = try peer.receive() { try session.handle(message) }
    }

    private func create(_ peer: any MessagePeer, folder: String) throws(TransportError) {
        try peer.send(Message(kind: ServiceRequest.openedKind))
        while let message = try peer.receive() {
            guard message.kind == StoreMessage.create else { throw StoreSession.unknown(message) }
            var reader = PayloadReader(message.payload)
            let uuid = try reader.text("uuid")
            let chunkBytes = try reader.next("chunk size", as: UInt32.self)
            do throws(StoreError) {
                guard uuid.utf8.count <= 64, uuid.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f }) else {
                    throw StoreError(.invalid, "the new store's identity makes no sense")
                }
                try LocalStore.create(at: folder, uuid: uuid, chunkBytes: chunkBytes, in: fs)
            } catch {
                try peer.send(error.failure.message(id: message.id))
                continue
            }
            try peer.send(Message(kind: StoreMessage.reply, id: message.id))
        }
    }
}

extension StoreError {
    var failure: ServiceFailure { ServiceFailure(code: code.rawValue, text: message) }
}

/// One peer's use of a store. Requests are handled in their order by the thread that receives them; only commits, which
/// wait for the disk, have a thread of their own, so that the data of the next object keeps coming in meanwhile.
private final class StoreSession {
    private let peer: any MessagePeer
    private let store: any StoreBackend
    private let committer: Committer
    private var uploads: [UInt32: any ObjectUpload] = [:]
    /// Uploads that failed and whose remaining messages are to be dropped.
    private var failed: Set<UInt32> = []

    init(peer: any MessagePeer, store: any StoreBackend) throws(TransportError) {
        self.peer = peer
        self.store = store
        committer = try Committer(peer: peer, store: store)
    }

    /// What was not asked to be committed leaves nothing behind but the whole frames of packs.
    func end() {
        for upload in uploads.values { upload.abandon() }
        uploads.removeAll()
        committer.end()
    }

    static func unknown(_ message: Message) -> TransportError {
        TransportError(.protocolViolation, "the peer sent message kind \(message.kind), which the store does not know")
    }

    func handle(_ message: Message) throws(TransportError) {
        var reader = PayloadReader(message.payload)
        switch message.kind {
        case StoreMessage.known:
            let ids = try reader.digests()
            try answer(message.id) { () throws(StoreError) in
                var writer = PayloadWriter()
                for isKnown in try store.known(ids) { writer.put(UInt8(isKnown ? 1 : 0)) }
                return writer.bytes
            }
        case StoreMessage.locate:
            let ids = try reader.digests()
            try answer(message.id) { () throws(StoreError) in
                var writer = PayloadWriter()
                for location in try store.locate(ids) { writer.put(location: location) }
                return writer.bytes
            }
        case StoreMessage.read:
            let pieces = try reader.pieces()
            try answer(message.id) { () throws(StoreError) in try read(pieces) }
        case StoreMessage.list:
            try list(try ObjectKind(reading: &reader), id: message.id)
        case StoreMessage.recheck:
            let ids = try reader.digests()
            try answer(message.id) { () throws(StoreError) in
                try store.recheck(ids)
                return []
            }
        case StoreMessage.freeBytes:
            try answer(message.id) { () throws(StoreError) in
                var writer = PayloadWriter()
                writer.put(try store.freeBytes() ?? .max)
                return writer.bytes
            }
        default: try handleUpload(message)
        }
    }

    private func answer(_ id: UInt32, _ body: () throws(StoreError) -> [UInt8]) throws(TransportError) {
        let payload: [UInt8]
        do throws(StoreError) { payload = try body() } catch {
            return try peer.send(error.failure.message(id: id))
        }
        try peer.send(Message(kind: StoreMessage.reply, id: id, payload: payload))
    }

    private func read(_ pieces: [ObjectPiece]) throws(StoreError) -> [UInt8] {
        for piece in pieces where !ObjectName.isValid(piece.name, as: piece.kind) {
            throw StoreError(.invalid, "\"\(piece.name.prefix(80))\" cannot be the name of a \(piece.kind)")
        }
        let count = pieces.reduce(0) { $0 + $1.count }
        var failure: StoreError?
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { memory, initialized in
            do throws(StoreError) {
                let all = unsafe UnsafeMutableRawBufferPointer(start: memory.baseAddress, count: count)
                try unsafe store.read(pieces, into: all)
                initialized = count
            } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }

    private func list(_ kind: ObjectKind, id: UInt32) throws(TransportError) {
        var objects: ArraySlice<StoredObject>
        do throws(StoreError) { objects = try store.list(kind)[...] } catch {
            return try peer.send(error.failure.message(id: id))
        }
        repeat {
            let part = objects.prefix(StoreMessage.listPartMax)
            objects = objects.dropFirst(part.count)
            var writer = PayloadWriter()
            writer.put(UInt32(part.count))
            for object in part {
                writer.put(text: object.name)
                writer.put(object.isUnreadable ? StoreMessage.unreadableSize : object.byteCount)
            }
            let kind = objects.isEmpty ? StoreMessage.reply : StoreMessage.part
            try peer.send(Message(kind: kind, id: id, payload: writer.bytes))
        } while !objects.isEmpty
    }

    // MARK: Uploads: all messages of one have its id

    private func handleUpload(_ message: Message) throws(TransportError) {
        let id = message.id
        var reader = PayloadReader(message.payload)
        switch message.kind {
        case StoreMessage.beginUpload:
            let kind = try ObjectKind(reading: &reader)
            guard uploads[id] == nil, !failed.contains(id), uploads.count + failed.count < StoreMessage.uploadsMax
            else {
                throw TransportError(.protocolViolation, "the peer began upload \(id), one too many")
            }
            try attempt(id) { () throws(StoreError) in uploads[id] = try store.beginUpload(kind) }
        case StoreMessage.append:
            guard let upload = try upload(id) else { return }
            try attempt(id) { () throws(StoreError) in
                var failure: StoreError?
                unsafe message.payload.withUnsafeBytes { memory in
                    do throws(StoreError) { try unsafe upload.append(memory) } catch { failure = error }
                }
                if let failure { throw failure }
            }
        case StoreMessage.frame:
            guard let upload = try upload(id) else { return }
            let frame = try PackFrame(payload: message.payload)
            try attempt(id) { () throws(StoreError) in try upload.note(frame) }
        case StoreMessage.commit:
            let name = try reader.text("name")
            guard let upload = try upload(id) else {
                failed.remove(id)
                return
            }
            uploads[id] = nil
            committer.add(Committer.Job(id: id, name: name, upload: upload))
        case StoreMessage.abandon:
            if let upload = try upload(id) { upload.abandon() }
            uploads[id] = nil
            failed.remove(id)
        default:
            throw Self.unknown(message)
        }
    }

    /// - Returns: `nil` for one that failed before: its peer doesn't know yet.
    private func upload(_ id: UInt32) throws(TransportError) -> (any ObjectUpload)? {
        if let upload = uploads[id] { return upload }
        guard failed.contains(id) else {
            throw TransportError(.protocolViolation, "the peer spoke of upload \(id), which it never began")
        }
        return nil
    }

    /// A failure is told at once, so that the peer stops sending.
    private func attempt(_ id: UInt32, _ body: () throws(StoreError) -> Void) throws(TransportError) {
        do throws(StoreError) { try body() } catch {
            uploads[id]?.abandon()
            uploads[id] = nil
            failed.insert(id)
            try peer.send(error.failure.message(id: id))
        }
    }
}

/// Commits uploads in their order on a thread of its own, and answers.
private final class Committer: Sendable {
    struct Job {
        let id: UInt32
        let name: String
        let upload: any ObjectUpload
    }
    private struct State {
        var jobs: [Job] = []
        var isEnding = false
    }
    /// Then the receiving thread waits, and with it the peer.
    private static let jobsMax = 8
    private let state = Monitor(State())
    private let thread: OwnThread

    init(peer: any MessagePeer, store: any StoreBackend) throws(TransportError) {
        let state = self.state
        do throws(SystemError) {
            thread = try OwnThread(name: "store-commit") {
                // The first stays in the queue until it is done, so that its place is taken.
                while let job = state.wait({ $0.jobs.first.map { .some($0) } ?? ($0.isEnding ? .some(nil) : nil) })
                    ?? nil
                {
                    // What can't be sent shows in the receiving thread.
                    do throws(StoreError) {
                        try job.upload.commit(name: job.name)
                        try? peer.send(Message(kind: StoreMessage.reply, id: job.id))
                        // What only saves look-ups is no reason to let the peer wait, or to fail.
                        try? (store as? LocalStore)?.tidy()
                    } catch {
                        try? peer.send(error.failure.message(id: job.id))
                    }
                    state.change { _ = $0.jobs.removeFirst() }
                }
            }
        } catch {
            throw TransportError(.system, error.description)
        }
    }

    func add(_ job: Job) {
        _ = state.wait { state -> Bool? in
            guard state.jobs.count < Self.jobsMax else { return nil }
            state.jobs.append(job)
            return true
        }
    }

    /// Ends what was asked for.
    func end() {
        state.change { $0.isEnding = true }
        thread.join()
    }
}
