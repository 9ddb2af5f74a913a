internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// A connection to a disk's owner. Requests are answered one at a time, in order; calls from several threads take
/// turns. What belongs to the connection (trackers, prepared snapshots, pauses) ends when it is dropped.
public final class ControlClient: Sendable {
    private let channel: LineChannel
    /// Held for a request and its replies.
    private let turn = Mutex(())

    private init(channel: LineChannel) { self.channel = channel }

    /// - Throws: `.unreachable` when nobody listens.
    public static func connect(_ path: String) throws(ControlError) -> ControlClient {
        ignoreBrokenPipes()
        do {
            return ControlClient(channel: LineChannel(adopting: try UnixSocket.connect(to: path)))
        } catch {
            throw ControlError(code: ControlError.unreachable, message: "no server answers: \(error)")
        }
    }

    /// Ends the connection; a call in another thread fails.
    public func disconnect() { channel.end() }

    /// Sends the request and waits for its reply. A `.failed` reply is thrown.
    /// - Parameter progress: told about long requests; answers whether to go on. After `false` the connection is
    ///   closed,
    ///   which stops the request, and no further call succeeds.
    public func call(
        _ request: ControlRequest, progress: (_ done: UInt64, _ total: UInt64) -> Bool = { _, _ in true }
    ) throws(ControlError) -> ControlReply {
        let result: Result<ControlReply, ControlError> = turn.withLock { _ in
            do throws(ControlError) {
                return .success(try converse(request, progress))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    private func converse(
        _ request: ControlRequest, _ progress: (UInt64, UInt64) -> Bool
    ) throws(ControlError) -> ControlReply {
        try channel.send(request)
        while true {
            guard let reply = try channel.receive(ControlReply.self) else {
                throw ControlError(
                    code: ControlError.unreachable, message: "the disk's server ended while it worked on a request")
            }
            switch reply {
            case .progress(let done, let total):
                if progress(done, total) { continue }
                channel.end()
                throw ControlError(code: ControlError.stopped, message: "stopped on request")
            case .failed(let code, let message): throw ControlError(code: code, message: message)
            default: return reply
            }
        }
    }
}
