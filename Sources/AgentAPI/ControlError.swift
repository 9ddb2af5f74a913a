/// Why a request to a disk's owner failed.
public struct ControlError: Error, Hashable, Sendable, CustomStringConvertible {
    /// As in ``ControlReply/failed(code:message:)``, or one of the client's own below.
    public var code: String
    public var message: String

    public init(code: String, message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }

    /// Nobody listens at the socket.
    public static let unreachable = "unreachable"
    /// The other side sent what is not a reply, or ended in the middle.
    public static let protocolViolation = "protocolViolation"
    /// The other side gave no sign for too long.
    public static let timeout = "timeout"
    /// The caller's progress function asked to stop, or somebody asked this process to.
    public static let stopped = "stopped"
    /// A pause or a prepared snapshot ended by itself.
    public static let expired = "expired"
    /// Another connection holds what was asked for.
    public static let busy = "busy"
    public static let invalid = "invalid"
    /// The disk belongs to another host.
    public static let released = "released"
}
