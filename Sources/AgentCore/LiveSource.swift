public import AgentAPI
public import Geometry
public import Migration
internal import Synchronization

/// An attached disk as the source of a migration: data over NBD or from the driver's device, the dirty map and the
/// switch over the control socket.
public final class LiveSource: MigrationSource {
    private struct State {
        var data: any LiveData
        var tracker: UInt32
        var byteCount: UInt64
    }
    private let disk: AttachedDisk
    private let control: ControlClient
    /// `nil` until the tracking starts, and once the disk has gone: its owner waits for who uses it to hang up.
    private let state = Mutex<State?>(nil)
    private let shouldStop: @Sendable () -> Bool
    private let onRetire: @Sendable () throws(AgentError) -> Void
    private static let runsMax = 4096

    /// - Parameters:
    ///   - control: a connection of its own: trackers and pauses end with it.
    ///   - shouldStop: asked by what waits for the disk's server.
    ///   - onRetire: ends the disk's server.
    public init(
        _ disk: AttachedDisk, control: ControlClient, shouldStop: @escaping @Sendable () -> Bool = { false },
        onRetire: @escaping @Sendable () throws(AgentError) -> Void
    ) {
        self.disk = disk
        self.control = control
        self.shouldStop = shouldStop
        self.onRetire = onRetire
    }

    public var byteCount: UInt64 { state.withLock { $0?.byteCount ?? 0 } }

    /// While there is a tracker the disk does not grow, so its size is asked for once there is one.
    public func startTracking(granuleBytes: UInt64) throws(MigrationError) {
        guard case .tracker(let number) = try ask(.startTracking(granuleBytes: granuleBytes)) else {
            throw Self.wrongReply
        }
        do throws(MigrationError) {
            let size = try deviceSize()
            let data: any LiveData =
                if let socket = disk.nbdSocket {
                    try ExportData(socket, shouldStop: shouldStop)
                } else {
                    try DeviceData(disk, control)
                }
            guard data.byteCount == size else { throw Self.grown(from: data.byteCount, to: size) }
            state.withLock { $0 = State(data: data, tracker: number, byteCount: size) }
        } catch {
            _ = try? control.call(.stopTracking(tracker: number))
            throw error
        }
    }

    private func deviceSize() throws(MigrationError) -> UInt64 {
        guard case .status(let status) = try ask(.status) else { throw Self.wrongReply }
        return status.sizeBytes
    }

    private static func grown(from old: UInt64, to new: UInt64) -> MigrationError {
        MigrationError(
            .refused,
            "the disk was resized from \(old) to \(new) bytes while its migration ran; migrate it again")
    }

    public func read(_ ranges: [ByteRange], into memory: UnsafeMutableRawBufferPointer) throws(MigrationError) {
        // The pointer does not leave the call.
        nonisolated(unsafe) let memory = unsafe memory
        try onData { data throws(MigrationError) in try unsafe data.read(ranges, into: memory) }
    }

    public func dataRuns(in range: ByteRange) throws(MigrationError) -> (runs: [ByteRange], coveredTo: UInt64) {
        try onData { data throws(MigrationError) in try data.dataRuns(in: range) }
    }

    public func flush() throws(MigrationError) {
        try onData { data throws(MigrationError) in try data.flush() }
    }

    public func takeDirty(from offset: UInt64) throws(MigrationError) -> (runs: [ByteRange], coveredTo: UInt64) {
        let request = ControlRequest.takeDirty(
            tracker: try number(), offset: offset, count: byteCount - offset, limit: Self.runsMax)
        guard case .dirty(let runs, let coveredTo) = try ask(request) else { throw Self.wrongReply }
        return (runs.map { ByteRange(offset: $0.offset, count: $0.count) }, coveredTo)
    }

    public func dirtyBytes() throws(MigrationError) -> UInt64 {
        guard case .dirtyBytes(let count) = try ask(.countDirty(tracker: try number())) else { throw Self.wrongReply }
        return count
    }

    public func stopTracking() {
        guard
            let was = state.withLock({ state in
                defer { state = nil }; return state
            })
        else { return }
        _ = try? control.call(.stopTracking(tracker: was.tracker))
    }

    public func pause(deadlineMilliseconds: UInt64) throws(MigrationError) -> Bool {
        _ = try ask(.pause(deadlineMilliseconds: deadlineMilliseconds))
        let size = try deviceSize()
        guard size == byteCount else { throw Self.grown(from: byteCount, to: size) }
        return true
    }

    public func resume() { _ = try? control.call(.resume) }

    public func release() throws(MigrationError) { _ = try ask(.release) }

    public func confirmRelease() { _ = try? control.call(.confirmRelease) }

    public func retire() throws(MigrationError) {
        state.withLock { $0 = nil }
        do throws(AgentError) { try onRetire() } catch { throw MigrationError(.source, error.message) }
    }

    private func number() throws(MigrationError) -> UInt32 {
        guard let number = state.withLock({ $0?.tracker }) else {
            throw MigrationError(.source, "the disk's changes are not being recorded")
        }
        return number
    }

    private func ask(_ request: ControlRequest) throws(MigrationError) -> ControlReply {
        do throws(ControlError) { return try control.call(request) } catch {
            let code: MigrationError.Code =
                switch error.code {
                case ControlError.expired: .expired
                case ControlError.busy: .refused
                default: .source
                }
            throw MigrationError(code, error.message, cause: error.code == ControlError.timeout ? .silence : nil)
        }
    }

    private func onData<R>(_ body: (any LiveData) throws(MigrationError) -> R) throws(MigrationError) -> R {
        guard let data = state.withLock({ $0?.data }) else {
            throw MigrationError(.source, "the disk has gone to another host")
        }
        return try body(data)
    }

    private static let wrongReply = MigrationError(.source, "the disk's server gave the wrong reply")
}
