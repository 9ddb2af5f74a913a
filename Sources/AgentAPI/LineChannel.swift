internal import FoundationEssentials
public import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// JSON values, one a line, over a connected stream socket. One thread may send while another receives.
public final class LineChannel: Sendable {
    /// Longest line that is taken; the longest reply, a list of dirty runs, is below it.
    public static let lineBytesMax = 2 << 20

    private let socket: OwnedDescriptor
    /// Received, not yet taken; `scanned` bytes of it are known to hold no end of line.
    private let pending = Mutex(Pending())
    private struct Pending {
        var bytes: [UInt8] = []
        var scanned = 0
    }

    public init(adopting socket: consuming OwnedDescriptor) { self.socket = socket }

    /// Lent, for polling.
    public var descriptor: CInt { socket.number }

    public func send(_ value: some Encodable) throws(ControlError) {
        let bytes: [UInt8]
        do {
            bytes = [UInt8](try JSONEncoder().encode(value))
        } catch {
            throw ControlError(code: ControlError.protocolViolation, message: "cannot encode a message: \(error)")
        }
        do {
            try socket.writeAll(bytes + [UInt8(ascii: "\n")])
        } catch {
            throw ControlError(code: ControlError.unreachable, message: "the connection was lost: \(error)")
        }
    }

    /// Sends a value that nobody misses: it is left out where the other side has not taken what was sent before.
    public func offer(_ value: some Encodable) throws(ControlError) {
        var entries = [PollEntry(descriptor, .writable)]
        let count = (try? pollDescriptors(&entries, deadlineMilliseconds: 0)) ?? 0
        guard count > 0 else { return }
        try send(value)
    }

    /// Ends a wait of ``send(_:)``, with an error, after that time in which the other side has taken nothing.
    public func limitSending(seconds: Int) { UnixSocket.limitSending(descriptor, seconds: seconds) }

    /// The next value; waits for it. - Returns: `nil` when the other side has ended, between two lines.
    /// - Parameters:
    ///   - deadline: on the monotonic clock, in nanoseconds; then it throws `.timeout`.
    ///   - stop: a descriptor; once it is readable this throws `.stopped`. Negative: none.
    public func receive<T: Decodable>(
        _ type: T.Type, until deadline: UInt64? = nil, stop: CInt = -1
    ) throws(ControlError) -> T? {
        guard let line = try nextLine(deadline, stop) else { return nil }
        do {
            return try JSONDecoder().decode(type, from: Data(line))
        } catch {
            throw ControlError(
                code: ControlError.protocolViolation, message: "not a known message: \(Self.reason(error))")
        }
    }

    /// Whether the other side has closed its end.
    public var isHungUp: Bool {
        var entries = [PollEntry(descriptor, [])]
        guard let count = try? pollDescriptors(&entries, deadlineMilliseconds: 0) else { return true }
        return count > 0 && !entries[0].ready.isDisjoint(with: [.hungUp, .failed])
    }

    /// Ends the connection; a thread that waits in it wakes up.
    public func end() { UnixSocket.end(descriptor) }

    private func nextLine(_ deadline: UInt64?, _ stop: CInt) throws(ControlError) -> [UInt8]? {
        while true {
            let line: [UInt8]? = pending.withLock { pending in
                guard let end = pending.bytes[pending.scanned...].firstIndex(of: UInt8(ascii: "\n")) else {
                    pending.scanned = pending.bytes.count
                    return nil
                }
                let line = [UInt8](pending.bytes[..<end])
                pending.bytes.removeSubrange(...end)
                pending.scanned = 0
                return line
            }
            if let line { return line }
            if deadline != nil || stop >= 0 { try awaitMore(deadline, stop) }
            guard try receiveMore() else { return nil }
        }
    }

    private func awaitMore(_ deadline: UInt64?, _ stop: CInt) throws(ControlError) {
        var entries = [PollEntry(descriptor, .readable), PollEntry(stop, .readable)]
        let now = SystemTime().monotonic()
        // Rounded up, so as not to give up a moment early.
        let milliseconds = deadline.map { Int(clamping: ($0 - min($0, now) + 999_999) / 1_000_000) }
        let count: Int
        do throws(SystemError) {
            count = try pollDescriptors(&entries, deadlineMilliseconds: milliseconds)
        } catch {
            throw ControlError(code: ControlError.unreachable, message: "the connection was lost: \(error)")
        }
        guard entries[0].ready.isEmpty else { return }
        guard count == 0 else { throw ControlError(code: ControlError.stopped, message: "stopped on request") }
        throw ControlError(code: ControlError.timeout, message: "there was no answer in time")
    }

    /// - Returns: `false` at the end, between two lines.
    private func receiveMore() throws(ControlError) -> Bool {
        let held = pending.withLock { $0.bytes.count }
        guard held < Self.lineBytesMax else {
            throw ControlError(
                code: ControlError.protocolViolation, message: "a line is longer than \(Self.lineBytesMax) bytes")
        }
        let part: [UInt8]
        do {
            part = try socket.readSome(upTo: min(64 << 10, Self.lineBytesMax - held))
        } catch {
            throw ControlError(code: ControlError.unreachable, message: "the connection was lost: \(error)")
        }
        guard part.isEmpty else {
            pending.withLock { $0.bytes += part }
            return true
        }
        guard held == 0 else {
            throw ControlError(code: ControlError.protocolViolation, message: "the connection ended within a message")
        }
        return false
    }

    private static func reason(_ error: any Error) -> String {
        guard let error = error as? DecodingError else { return "\(error)" }
        return switch error {
        case .dataCorrupted(let context), .keyNotFound(_, let context), .typeMismatch(_, let context),
            .valueNotFound(_, let context):
            context.debugDescription
        @unknown default: "\(error)"
        }
    }
}
