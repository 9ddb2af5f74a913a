/// A connection to a disk's owner. Requests are answered one at a time, in order; calls from several threads take turns.
/// What belongs to the connection (trackers, prepared snapshots, pauses) ends when it is dropped.
public final class ControlClient: Sendable {
    /// - Throws: `.unreachable` when nobody listens.
    public static func connect(_ path: String) throws(ControlError) -> ControlClient {
        throw ControlError(code: ControlError.unreachable, message: "not built yet")
    }

    /// Sends the request and waits for its reply. A `.failed` reply is thrown.
    /// - Parameter progress: told about long requests; answers whether to go on. After `false` the connection is closed,
    ///   which stops the request, and no further call succeeds.
    public func call(
        _ request: ControlRequest, progress: (_ done: UInt64, _ total: UInt64) -> Bool = { _, _ in true }
    ) throws(ControlError) -> ControlReply {
        throw ControlError(code: ControlError.unreachable, message: "not built yet")
    }
}
