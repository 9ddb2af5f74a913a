/// Why a connection ends.
struct ClientError: Error, Hashable {
    enum Code: Hashable, Sendable {
        /// The client has gone, or said that it goes: no reason for a word in the log.
        case ended
        case protocolViolation
        case timeout
    }
    var code: Code
    var message: String

    static let ended = ClientError(code: .ended, message: "the connection has ended")
    static func violation(_ message: String) -> ClientError { ClientError(code: .protocolViolation, message: message) }
}
