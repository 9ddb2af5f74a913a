public import BlockIO
internal import ChunkTree
internal import Codecs
internal import DeltaStream
internal import DiskImage
internal import Geometry
public import LinuxSystem
public import Transport

/// What the target's host does once the disk is there.
public protocol TargetGuest: Sendable {
    /// Why what the source wants run here will not be; `nil` when it will.
    func objection(to command: String) -> String?
    /// Attaches the disk in `folder` and starts its guest. After it failed it may be called again; once it has
    /// succeeded it is not.
    /// - Parameters:
    ///   - command: what the source wants run here; the implementation decides whether that is allowed.
    ///   - attempt: 1 for the first time.
    func start(folder: String, command: String?, attempt: Int) throws(MigrationError)
    /// Somebody here has looked, and says how the guest is started: also where an earlier start was interrupted.
    var isToldHow: Bool { get }
}

extension TargetGuest {
    public var isToldHow: Bool { false }
}

/// A disk that was taken over here.
public struct ArrivedDisk: Hashable, Sendable {
    /// Why its guest was not started.
    public var startFailure: String?
}

/// The target's side of a migration: the service `migrate`, godwit-stream(5).
public struct MigrationReceiver: Sendable {
    private let fs: any FileSystem
    private let disks: any TargetDisks
    private let guest: any TargetGuest
    private let time: any TimeSource
    private let boot: String
    private let note: @Sendable (_ folder: String, _ isOver: Bool) -> Void

    /// - Parameters:
    ///   - boot: tells one start of this host from another.
    ///   - note: told of each disk that begins to come here, and once nothing is left to do for it.
    public init(
        fs: any FileSystem, disks: any TargetDisks, guest: any TargetGuest, time: any TimeSource = SystemTime(),
        boot: String = bootIdentifier(), note: @escaping @Sendable (String, Bool) -> Void = { _, _ in }
    ) {
        self.note = note
        self.fs = fs
        self.disks = disks
        self.guest = guest
        self.time = time
        self.boot = boot
    }

    /// Finishes what a crash of this host has left of a disk that was to arrive in `folder`.
    /// - Returns: `nil` when no disk was taken over there, or nothing is left to do for it.
    public func resume(folder: String) throws(MigrationError) -> ArrivedDisk? {
        try Takeover(place: place(folder), guest: guest, time: time).resume()
    }

    private func place(_ folder: String) -> TargetPlace {
        TargetPlace(folder: folder, fs: fs, disks: disks, boot: boot)
    }

    /// Receives a disk to be put at `folder`, until the peer says goodbye. The service's request has been read.
    /// - Throws: when the connection fails. What has arrived stays.
    public func serve(_ peer: any MessagePeer, folder: String) throws(TransportError) {
        let session = ReceiverSession(place: place(folder), guest: guest, time: time, peer: peer, note: note)
        defer { session.leave() }
        try peer.send(Message(kind: ServiceRequest.openedKind, id: 0, payload: []))
        while let message = try peer.receive() {
            let answer: ReceiverSession.Answer?
            do throws(MigrationError) { answer = try session.handle(message) } catch {
                answer = .failure(message.kind == MigrationMessage.request ? message.id : 0, error)
            }
            if let answer { try peer.send(answer) }
        }
    }
}

extension MessagePeer {
    fileprivate func send(_ reply: ReceiverSession.Answer) throws(TransportError) {
        switch reply {
        case .reply(let id, let reply):
            try send(Message(kind: MigrationMessage.reply, id: id, payload: encodeJSON(reply)))
        case .applied(let count):
            try send(Message(kind: MigrationMessage.applied, id: 0, payload: encodeApplied(count)))
        case .failure(let id, let error):
            try send(ServiceFailure(code: error.code.rawValue, text: error.message).message(id: id))
        }
    }
}

/// One connection of a source. For one thread.
final class ReceiverSession {
    enum Answer {
        case reply(UInt32, MigrationReply)
        case applied(UInt64)
        case failure(UInt32, MigrationError)
    }
    private let place: TargetPlace
    private let guest: any TargetGuest
    private let time: any TimeSource
    private let peer: any MessagePeer
    private let note: (_ folder: String, _ isOver: Bool) -> Void
    private var copy: IncomingCopy?
    /// Of ``copy``.
    private var attempt = ""
    /// From the beginning on, until the connection ends.
    private var lock: (any HeldLock)?
    /// Set by the first piece of a stream that can't be applied: what follows would be noise.
    private var isBroken = false

    init(
        place: TargetPlace, guest: any TargetGuest, time: any TimeSource, peer: any MessagePeer,
        note: @escaping (_ folder: String, _ isOver: Bool) -> Void
    ) {
        self.note = note
        self.place = place
        self.guest = guest
        self.time = time
        self.peer = peer
    }

    /// The connection is over: what has arrived is closed properly, to be gone on with later.
    func leave() {
        // What could not be written may still be read from memory, as if it had been: no rerun goes on with that.
        do throws(MigrationError) { try copy?.close() } catch { place.distrust() }
        copy = nil
        lock = nil
    }

    func handle(_ message: Message) throws(MigrationError) -> Answer? {
        switch message.kind {
        case MigrationMessage.request:
            guard let request = decodeJSON(MigrationRequest.self, message.payload) else {
                throw MigrationError(
                    .protocolViolation,
                    "a request that this host does not understand, whose messages have version "
                        + "\(MigrationMessage.version): bring both hosts to one version of godwit")
            }
            return .reply(message.id, try answer(request))
        case MigrationMessage.stream:
            guard !isBroken else { return nil }
            do throws(MigrationError) {
                guard let copy else { throw MigrationError(.protocolViolation, "a stream before its beginning") }
                return .applied(try copy.apply(message.payload))
            } catch {
                isBroken = true
                throw error
            }
        default: throw MigrationError(.protocolViolation, "message kind \(message.kind) in a migration")
        }
    }

    private func answer(_ request: MigrationRequest) throws(MigrationError) -> MigrationReply {
        switch request {
        case .ping: return .done
        case .check(let offer):
            let found = try problems(offer)
            return .checked(problems: found.problems, partialBytes: found.partialBytes)
        case .begin(let offer, let attempt):
            guard copy == nil else { throw MigrationError(.protocolViolation, "a second beginning") }
            copy = try begin(offer, attempt)
            self.attempt = attempt
            isBroken = false
            return .begun
        case .sync:
            guard let copy else { throw MigrationError(.protocolViolation, "a sync before the beginning") }
            return .synced(nanoseconds: try copy.sync(time))
        case .prepare:
            guard let copy, !isBroken else {
                throw MigrationError(.protocolViolation, "a prepare without a whole stream")
            }
            // Whatever becomes of it, nothing may follow.
            isBroken = true
            let root = try copy.prepare()
            try place.store(.prepared, copy.offer, attempt: attempt, root: root.description)
            self.copy = nil
            return .prepared(root: root.description)
        case .abort:
            try copy?.close()
            copy = nil
            return .done
        case .commit(let commit):
            guard copy == nil else { throw MigrationError(.protocolViolation, "a commit before the prepare") }
            let (nanoseconds, failure) = try Takeover(place: place, guest: guest, time: time)
                .run(commit, holding: lock)
            if failure == nil { note(place.wholePath, true) }
            return .active(nanoseconds: nanoseconds, startFailure: failure)
        }
    }

    private func problems(
        _ offer: MigrationOffer
    ) throws(MigrationError) -> (problems: [String], partialBytes: UInt64) {
        var found = try at(.target) { () throws(SystemError) in try place.problems(offer) }
        if let command = offer.startCommand, let objection = guest.objection(to: command) {
            found.problems.append(objection)
        }
        return found
    }

    private func begin(_ offer: MigrationOffer, _ attempt: String) throws(MigrationError) -> IncomingCopy {
        guard MigrationIdentity.isOne(attempt) else {
            throw MigrationError(.protocolViolation, "a beginning without an attempt's name")
        }
        let found = try problems(offer)
        guard found.problems.isEmpty else {
            throw MigrationError(.refused, found.problems.joined(separator: "; "))
        }
        let lock = if let lock { lock } else { try place.lockPartial() }
        self.lock = lock
        note(place.wholePath, false)
        let (disk, isResumed) = try place.enter(offer, attempt: attempt)
        guard disk.byteCount == offer.sizeBytes else {
            throw MigrationError(.target, "a disk of \(offer.sizeBytes) bytes became one of \(disk.byteCount)")
        }
        let shape = TreeShape(byteCount: offer.sizeBytes, chunkBytes: offer.chunkBytes)
        let copy = IncomingCopy(offer: offer, disk: disk, tree: HashTreeFile(try place.treeFile(), shape: shape))
        if isResumed {
            let peer = self.peer
            try copy.rehash { run throws(MigrationError) in
                try overLink { () throws(TransportError) in
                    try peer.send(Message(kind: MigrationMessage.leaves, id: 0, payload: run.encoded()))
                }
            }
        }
        return copy
    }
}
