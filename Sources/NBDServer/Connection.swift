internal import DeviceServer
internal import DiskImage
internal import LinuxSystem
internal import Synchronization

/// A client from the end of its handshake on ("Transmission"). The threads of the ``Crew`` take turns to receive a
/// request and do it; replies come in the order in which requests are done.
final class Connection: Sendable, HeldWriteObserver {
    /// What all connections share.
    struct Server: Sendable {
        let device: DeviceServer
        let memory: PayloadMemory
        let log: FaultLog
    }

    let server: Server
    let session: Session
    private let identifier: UInt64
    private let socket: ClientSocket
    /// Until the last thread has gone.
    private let presence: Presence
    /// Its lock is held by whoever receives, also while there is nothing to receive.
    private let inbox: Monitor<Inbox>
    /// Its lock is held by whoever replies. Whether that has become useless.
    private let outbox = Monitor(false)
    /// Threads that receive, or wait for their turn to.
    private let receivers = Atomic<Int>(0)
    private let crew = Crew()
    private let onEnd: @Sendable () -> Void

    /// - Parameter onEnd: called by the last thread.
    init(
        _ identifier: UInt64, _ socket: ClientSocket, _ outcome: Handshake.Outcome, _ server: Server,
        onEnd: @escaping @Sendable () -> Void
    ) {
        self.identifier = identifier
        self.socket = socket
        self.server = server
        self.onEnd = onEnd
        session = outcome.session
        presence = outcome.presence
        inbox = Monitor(outcome.inbox)
    }

    // MARK: threads

    /// A thread's life in the crew.
    func serve() {
        HeldWrites.$observer.withValue(self) {
            let memory = RequestMemory(server.memory, connection: identifier)
            while let received = receive(into: memory) {
                perform(received, memory)
                memory.release()
                if crew.hasSurplus, !crew.rest() { break }
            }
        }
        if crew.leave() { onEnd() }
    }

    private func recruit() {
        crew.recruit { () throws(SystemError) in
            _ = try OwnThread(name: "nbd-\(identifier)", stackBytes: OwnThread.standardStackBytes / 2) { [self] in
                serve()
            }
        }
    }

    /// A write is held: reads must not wait for it, so that somebody else receives them.
    func whileHeld<R, E: Error>(_ wait: () throws(E) -> R) throws(E) -> R {
        guard crew.beginHold() else { return try wait() }
        defer { crew.endHold() }
        if receivers.load(ordering: .sequentiallyConsistent) == 0 { recruit() }
        return try wait()
    }

    var isGone: Bool { socket.isHungUp }

    // MARK: receiving

    struct Received: Sendable {
        let request: Request
        let refusal: NBDErrorNumber?
    }

    /// The next request, with its payload in `memory`. - Returns: `nil` at the end.
    private func receive(into memory: RequestMemory) -> Received? {
        receivers.add(1, ordering: .sequentiallyConsistent)
        let received: Received? = inbox.withLock { inbox in
            guard !inbox.isEnded else { return nil }
            do throws(ClientError) {
                return try receive(&inbox, into: memory)
            } catch {
                inbox.isEnded = true
                if error.code != .ended { server.log.say(error.message) }
                return nil
            }
        }
        let behind = receivers.subtract(1, ordering: .sequentiallyConsistent).newValue
        if received == nil {
            crew.end()
            server.device.hasFallenSilent()
        } else if behind == 0, crew.isShort {
            recruit()
        }
        return received
    }

    private func receive(_ inbox: inout Inbox, into memory: RequestMemory) throws(ClientError) -> Received {
        guard let request = unsafe Request(try inbox.next(NBDNumbers.requestBytes, from: socket)) else {
            throw .violation("the client sent no request where one is due")
        }
        if request.type == CommandType.disconnect { throw .ended }
        let refusal = request.refusal(in: session)
        if request.type == CommandType.write {
            if refusal == nil {
                guard memory.reserve(Int(request.count), for: .writing) else { throw .ended }
                try unsafe inbox.move(into: memory.payload(Int(request.count)), from: socket)
            } else {
                try inbox.skip(UInt64(request.count), from: socket)
            }
        }
        return Received(request: request, refusal: refusal)
    }

    // MARK: replying

    /// Sends all of it, after and before those of other threads.
    func send(_ bytes: UnsafeRawBufferPointer) {
        outbox.withLock { isBroken in
            guard !isBroken else { return }
            do throws(ClientError) { try unsafe socket.send(bytes) } catch {
                isBroken = true
                // Nobody hears what else is done.
                socket.end()
            }
        }
    }
}
