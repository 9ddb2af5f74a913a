/// Why an agent's operation failed: for programs (`code`) and for people (`message`: what, where, what to do).
public struct AgentError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: String, Hashable, Sendable, Codable {
        /// What was asked makes no sense.
        case invalid
        case notFound
        /// Another process owns the disk.
        case inUse
        /// The disk is not attached, or not mounted.
        case notAttached
        /// Attached or mounted already.
        case alreadyAttached
        /// Something else is going on with the disk.
        case busy
        /// A freeze or a pause ended by itself before the work was done.
        case expired
        /// This host can't.
        case unsupported
        case outOfSpace
        case exists
        /// On a file system that is mounted read-only, or open for reading only.
        case readOnly
        /// The host's permissions forbid it.
        case permission
        /// Something else lies there.
        case notADisk
        /// An image contradicts itself.
        case corrupt
        case io
        /// A server or a tool did not answer in time.
        case timeout
        /// A hook or a tool ended with an error.
        case commandFailed
        /// The other process broke the protocol.
        case protocolViolation
    }
    public var code: Code
    public var message: String
    /// A frozen state may be left in a disk, or still come: it could not be dropped, or whether it was taken is not
    /// known.
    public var mayLeaveState = false
    /// A tool was left to itself, as the disk's server gives no sign, or waits for its host.
    var isStall = false

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    init(stalled code: Code, _ message: String) {
        self.init(code, message)
        isStall = true
    }

    public var description: String { message }
}
