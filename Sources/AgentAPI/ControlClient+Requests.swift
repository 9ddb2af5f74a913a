/// The requests with the replies that belong to them.
extension ControlClient {
    public func status() throws(ControlError) -> DeviceStatus {
        guard case .status(let status) = try call(.status) else { throw Self.unexpected(.status) }
        return status
    }

    /// For requests that are answered by `.done`.
    public func perform(
        _ request: ControlRequest, progress: (_ done: UInt64, _ total: UInt64) -> Bool = { _, _ in true }
    ) throws(ControlError) {
        guard case .done = try call(request, progress: progress) else { throw Self.unexpected(request) }
    }

    public func commitSnapshot() throws(ControlError) -> (guid: String, switchNanoseconds: UInt64) {
        guard case .snapshot(let guid, let switchNanoseconds) = try call(.commitSnapshot) else {
            throw Self.unexpected(.commitSnapshot)
        }
        return (guid, switchNanoseconds)
    }

    public func listSnapshots() throws(ControlError) -> [SnapshotStatus] {
        guard case .snapshots(let snapshots) = try call(.listSnapshots) else { throw Self.unexpected(.listSnapshots) }
        return snapshots
    }

    /// - Returns: the tracker's number, for this connection.
    public func startTracking(granuleBytes: UInt64) throws(ControlError) -> UInt32 {
        let request = ControlRequest.startTracking(granuleBytes: granuleBytes)
        guard case .tracker(let tracker) = try call(request) else { throw Self.unexpected(request) }
        return tracker
    }

    public func takeDirty(
        tracker: UInt32, offset: UInt64, count: UInt64, limit: Int
    ) throws(ControlError) -> (runs: [Extent], coveredTo: UInt64) {
        let request = ControlRequest.takeDirty(tracker: tracker, offset: offset, count: count, limit: limit)
        guard case .dirty(let runs, let coveredTo) = try call(request) else { throw Self.unexpected(request) }
        return (runs, coveredTo)
    }

    public func countDirty(tracker: UInt32) throws(ControlError) -> UInt64 {
        let request = ControlRequest.countDirty(tracker: tracker)
        guard case .dirtyBytes(let bytes) = try call(request) else { throw Self.unexpected(request) }
        return bytes
    }

    private static func unexpected(_ request: ControlRequest) -> ControlError {
        ControlError(
            code: ControlError.protocolViolation, message: "the disk's server answered \(request) with a wrong reply")
    }
}
