internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// A connection to a disk's owner. Requests are answered one at a time, in order; calls from several threads take
/// turns. What belongs to the connection (trackers, prepared snapshots, pauses) ends when it is dropped.
public final class ControlClient: Sendable {
    private let channel: LineChannel
    private let silenceMilliseconds: UInt64?
    /// Held for a request and its replies.
    private let turn = Mutex(())
    /// How long a request that must not be given up goes on after somebody asked this process to stop.
    private static let lastWordMilliseconds: UInt64 = 5_000

    private init(channel: LineChannel, silenceMilliseconds: UInt64?) {
        self.channel = channel
        self.silenceMilliseconds = silenceMilliseconds
    }

    /// - Parameter silenceMilliseconds: instead of ``ControlRequest/silenceMilliseconds``.
    /// - Throws: `.unreachable` when nobody listens, `.timeout` when who listens takes no connection.
    public static func connect(
        _ path: String, silenceMilliseconds: UInt64? = nil
    ) throws(ControlError) -> ControlClient {
        ignoreBrokenPipes()
        do throws(SystemError) {
            let channel = LineChannel(adopting: try UnixSocket.connect(to: path))
            return ControlClient(channel: channel, silenceMilliseconds: silenceMilliseconds)
        } catch {
            let isBusy = error.errno == .wouldBlock
            throw ControlError(
                code: isBusy ? ControlError.timeout : ControlError.unreachable, message: "no server answers: \(error)")
        }
    }

    /// Ends the connection; a call in another thread fails.
    public func disconnect() { channel.end() }

    /// Sends the request and waits for its reply. A `.failed` reply is thrown. When the owner gives no sign for too
    /// long the connection is closed, as no later reply could be told from the one that is missing.
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
        let silence = (silenceMilliseconds ?? request.silenceMilliseconds) * 1_000_000
        var stop = StopRequest.isMade ? -1 : StopRequest.descriptor
        var isLastWord = false
        var deadline = SystemTime().monotonic() + silence
        while true {
            let received: ControlReply?
            do throws(ControlError) {
                received = try channel.receive(ControlReply.self, until: deadline, stop: stop)
            } catch {
                switch error.code {
                case ControlError.stopped where !request.isGivenUpOnStop:
                    // Its outcome has to be known, if it can be.
                    stop = -1
                    isLastWord = true
                    let last = SystemTime().monotonic() + Self.lastWordMilliseconds * 1_000_000
                    deadline = min(deadline, last)
                    continue
                case ControlError.timeout:
                    channel.end()
                    let seconds = silence / 1_000_000_000
                    throw ControlError(
                        code: error.code,
                        message: "the disk's server gave no sign for \(seconds) s: it or its storage hangs")
                default:
                    channel.end()
                    throw error
                }
            }
            guard let reply = received else {
                throw ControlError(
                    code: ControlError.unreachable, message: "the disk's server ended while it worked on a request")
            }
            switch reply {
            case .progress(let done, let total):
                if !isLastWord { deadline = SystemTime().monotonic() + silence }
                // Without a total it is a mere sign of life.
                if total == 0 || progress(done, total) { continue }
                channel.end()
                throw ControlError(code: ControlError.stopped, message: "stopped on request")
            case .failed(let code, let message): throw ControlError(code: code, message: message)
            default: return reply
            }
        }
    }
}

extension ControlRequest {
    /// How long the owner may give no sign: neither a reply nor progress.
    public var silenceMilliseconds: UInt64 {
        switch self {
        case .status, .listSnapshots, .abandonSnapshot, .startTracking, .takeDirty, .countDirty, .stopTracking, .resume:
            15_000
        case .prepareSnapshot, .commitSnapshot, .deleteSnapshot, .grow, .compact, .pause, .release, .confirmRelease,
            .shutdown, .shutdownForced:
            60_000
        }
    }

    /// Whether nothing is uncertain when nobody waits for the reply any more.
    var isGivenUpOnStop: Bool {
        switch self {
        case .commitSnapshot, .abandonSnapshot, .stopTracking, .pause, .resume, .release, .confirmRelease, .shutdown,
            .shutdownForced:
            false
        case .status, .listSnapshots, .prepareSnapshot, .deleteSnapshot, .grow, .compact, .startTracking, .takeDirty,
            .countDirty:
            true
        }
    }
}
