internal import BlockIO
internal import DeviceServer
internal import LinuxSystem
internal import SystemPackage

/// Accepts NBD clients of one disk at a Unix socket.
final class ExportListener: Sendable {
    struct Limits: Sendable {
        /// At a time; who comes beyond it is hung up on.
        var connections = 64
        /// From the connection to the choice of the export.
        var handshakeNanoseconds: UInt64 = 30_000_000_000
        var memory = PayloadMemory.Bounds()
    }
    /// For replies on their way, when the server ends.
    private static let farewellNanoseconds: UInt64 = 1_000_000_000

    private let path: String
    private let file: FileIdentity?
    private let socket: OwnedDescriptor
    private let server: Connection.Server
    private let limits: Limits
    private let state = Monitor(State())
    private struct State {
        var clients: [UInt64: ClientSocket] = [:]
        var lastIdentifier: UInt64 = 0
        var isStopping = false
        var acceptor: OwnThread?
    }

    private init(_ path: String, _ socket: consuming OwnedDescriptor, _ device: DeviceServer, _ limits: Limits) {
        self.path = path
        self.socket = socket
        self.limits = limits
        server = Connection.Server(device: device, memory: PayloadMemory(bounds: limits.memory), log: FaultLog())
        file = (try? LinuxFileSystem().identity(of: path)).flatMap { $0 }
    }

    /// Listens at `path`. A dead socket there is replaced: who owns the disk owns its socket.
    /// - Throws: EADDRINUSE when somebody serves there.
    static func start(
        at path: String, device: DeviceServer, limits: Limits = Limits()
    ) throws(SystemError) -> ExportListener {
        if (try? UnixSocket.connect(to: path)) != nil {
            throw SystemError(errno: .addressInUse, operation: "listen at", subject: path)
        }
        try? LinuxFileSystem().remove(path)
        // As many may be about to be accepted as may be connected.
        let listener = ExportListener(
            path, try UnixSocket.listen(at: path, backlog: limits.connections), device, limits)
        let acceptor = try OwnThread(name: "nbd-accept") { listener.acceptAll() }
        listener.state.withLock { $0.acceptor = acceptor }
        return listener
    }

    /// Takes the socket away, unless it is another server's by now.
    func removeSocket() {
        guard let file, (try? LinuxFileSystem().identity(of: path)) == file else { return }
        try? LinuxFileSystem().remove(path)
    }

    /// Ends the socket and all connections, after the replies of what is done. The disk has been closed: nobody is
    /// held.
    func stop() {
        removeSocket()
        let acceptor = state.withLock { state in
            state.isStopping = true
            return state.acceptor
        }
        UnixSocket.end(socket.number)
        acceptor?.join()
        server.memory.end()
        for client in state.withLock({ $0.clients.values }) { client.endReceiving() }
        let deadline = SystemTime().monotonic() + Self.farewellNanoseconds
        let isEmpty: Void? = state.wait(until: deadline) { $0.clients.isEmpty ? () : nil }
        guard isEmpty == nil else { return }
        // Who does not take its replies.
        for client in state.withLock({ $0.clients.values }) { client.end() }
        _ = state.wait(until: deadline + Self.farewellNanoseconds) { $0.clients.isEmpty ? () : nil }
    }

    private func acceptAll() {
        UnixSocket.acceptAll(from: socket.number, until: { state.withLock { $0.isStopping } }) {
            serve(ClientSocket($0))
        }
    }

    private func serve(_ client: ClientSocket) {
        let identifier: UInt64? = state.withLock { state in
            guard !state.isStopping, state.clients.count < limits.connections else { return nil }
            state.lastIdentifier += 1
            state.clients[state.lastIdentifier] = client
            return state.lastIdentifier
        }
        guard let identifier else {
            server.log.say("\(path): \(limits.connections) NBD clients are connected already; another one was refused")
            return
        }
        do throws(SystemError) {
            _ = try OwnThread(name: "nbd-\(identifier)") { [self] in run(identifier, client) }
        } catch {
            server.log.say("an NBD client was refused: \(error)")
            forget(identifier)
        }
    }

    private func forget(_ identifier: UInt64) { state.change { $0.clients[identifier] = nil } }

    /// Waits for what clients that have hung up have asked for: a client that comes back must not have its new writes
    /// undone by older ones.
    private func awaitDeparted(before identifier: UInt64, until deadline: UInt64) throws(ClientError) {
        let departed = state.withLock { state in
            state.clients.filter { $0.key < identifier && $0.value.isHungUp }.map(\.key)
        }
        guard !departed.isEmpty else { return }
        let areGone: Void? = state.wait(until: deadline) { state in
            departed.allSatisfy { state.clients[$0] == nil } ? () : nil
        }
        guard areGone != nil else {
            throw ClientError(
                code: .timeout,
                message: "\(path): a client was refused: requests of one that has hung up are still being done")
        }
    }

    /// The first thread of a connection.
    private func run(_ identifier: UInt64, _ client: ClientSocket) {
        do throws(ClientError) {
            try awaitDeparted(before: identifier, until: SystemTime().monotonic() + limits.handshakeNanoseconds)
            let deadline = SystemTime().monotonic() + limits.handshakeNanoseconds
            var handshake = Handshake(client, server.device, until: deadline)
            let outcome = try handshake.run()
            Connection(identifier, client, outcome, server) { [self] in forget(identifier) }.serve()
        } catch {
            if error.code != .ended { server.log.say(error.message) }
            client.end()
            forget(identifier)
        }
    }
}
