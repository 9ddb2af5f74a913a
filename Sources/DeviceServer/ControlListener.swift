internal import AgentAPI
internal import BlockIO
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// Accepts control connections, one thread for each.
final class ControlListener: Sendable {
    /// Connections at a time; further ones are told `busy`.
    static let connectionsMax = 32
    /// A client that takes no reply for so long is cut off, so that nothing waits for it for ever.
    private static let sendSeconds = 60

    private let path: String
    private let socket: OwnedDescriptor
    private let owner: DiskOwner
    private let state = Mutex(State())
    private struct State {
        var connections: [UInt64: Connection] = [:]
        var lastIdentifier: UInt64 = 0
        var isStopping = false
        var acceptor: OwnThread?
    }
    private struct Connection {
        let channel: LineChannel
        let thread: OwnThread
    }

    private init(path: String, socket: consuming OwnedDescriptor, owner: DiskOwner) {
        self.path = path
        self.socket = socket
        self.owner = owner
    }

    /// Listens at `path`; a dead socket there is replaced, since who owns the disk owns its socket.
    static func start(at path: String, owner: DiskOwner) throws(SystemError) -> ControlListener {
        try? LinuxFileSystem().remove(path)
        let listener = ControlListener(path: path, socket: try UnixSocket.listen(at: path), owner: owner)
        let acceptor = try OwnThread(name: "control") { listener.acceptAll() }
        listener.state.withLock { $0.acceptor = acceptor }
        return listener
    }

    /// Ends the socket and all connections, and waits for their threads.
    func stop() {
        let (acceptor, connections) = state.withLock { state in
            state.isStopping = true
            defer { state.connections = [:] }
            return (state.acceptor, Array(state.connections.values))
        }
        UnixSocket.end(socket.number)
        acceptor?.join()
        for connection in connections { connection.channel.end() }
        for connection in connections { connection.thread.join() }
        try? LinuxFileSystem().remove(path)
    }

    private func acceptAll() {
        UnixSocket.acceptAll(from: socket.number, until: { state.withLock { $0.isStopping } }) { serve($0) }
    }

    private func serve(_ socket: consuming OwnedDescriptor) {
        guard Self.isAllowed(socket.number) else { return }
        let channel = LineChannel(adopting: socket)
        channel.limitSending(seconds: Self.sendSeconds)
        let refusal: ControlReply? = state.withLock { state in
            guard !state.isStopping else { return .failed(code: ControlError.unreachable, message: "the server ends") }
            guard state.connections.count < Self.connectionsMax else {
                return .failed(
                    code: ControlError.busy,
                    message: "\(Self.connectionsMax) control connections are open already; close one and retry")
            }
            state.lastIdentifier += 1
            let identifier = state.lastIdentifier
            do {
                let thread = try OwnThread(name: "control-\(identifier)") { [self] in
                    ControlSession(identifier: identifier, owner: owner).run(channel)
                    // Dropped here unless `stop()` has taken it to join it.
                    self.state.withLock { $0.connections[identifier] = nil }
                }
                state.connections[identifier] = Connection(channel: channel, thread: thread)
                return nil
            } catch {
                return .failed(code: ControlError.busy, message: "\(error)")
            }
        }
        if let refusal { try? channel.send(refusal) }
    }

    /// The socket is for root and for who runs the server.
    private static func isAllowed(_ connection: CInt) -> Bool {
        guard let peer = try? UnixSocket.peerUser(of: connection) else { return false }
        return peer == 0 || peer == effectiveUser()
    }
}
