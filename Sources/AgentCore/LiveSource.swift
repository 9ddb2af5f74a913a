public import AgentAPI
public import Geometry
public import Migration
internal import Synchronization

/// An attached disk as the source of a migration: data over NBD or from the driver's device, the dirty map and the
/// switch over the control socket.
public final class LiveSource: MigrationSource {
    public let byteCount: UInt64
    private let control: ControlClient
    /// `nil` once the disk has gone: its owner waits for who uses it to hang up.
    private let data: Mutex<(any LiveData)?>
    private let tracker = Mutex<UInt32?>(nil)
    private let onRetire: @Sendable () throws(AgentError) -> Void
    private static let runsMax = 4096

    /// - Parameters:
    ///   - control: a connection of its own: trackers and pauses end with it.
    ///   - onRetire: ends the disk's server.
    public init(
        _ disk: AttachedDisk, control: ControlClient, onRetire: @escaping @Sendable () throws(AgentError) -> Void
    ) throws(MigrationError) {
        self.control = control
        self.onRetire = onRetire
        let data: any LiveData
        if let socket = disk.nbdSocket {
            data = try ExportData(socket)
        } else {
            data = try DeviceData(disk, control)
        }
        byteCount = data.byteCount
        self.data = Mutex(data)
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

    public func startTracking(granuleBytes: UInt64) throws(MigrationError) {
        guard case .tracker(let number) = try ask(.startTracking(granuleBytes: granuleBytes)) else {
            throw Self.wrongReply
        }
        tracker.withLock { $0 = number }
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
            let number = tracker.withLock({ number in
                defer { number = nil }; return number
            })
        else { return }
        _ = try? control.call(.stopTracking(tracker: number))
    }

    public func pause(deadlineMilliseconds: UInt64) throws(MigrationError) {
        _ = try ask(.pause(deadlineMilliseconds: deadlineMilliseconds))
    }

    public func resume() { _ = try? control.call(.resume) }

    public func release() throws(MigrationError) { _ = try ask(.release) }

    public func retire() throws(MigrationError) {
        data.withLock { $0 = nil }
        do throws(AgentError) { try onRetire() } catch { throw MigrationError(.source, error.message) }
    }

    private func number() throws(MigrationError) -> UInt32 {
        guard let number = tracker.withLock({ $0 }) else {
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
            throw MigrationError(code, error.message)
        }
    }

    private func onData<R>(_ body: (any LiveData) throws(MigrationError) -> R) throws(MigrationError) -> R {
        guard let data = data.withLock({ $0 }) else {
            throw MigrationError(.source, "the disk has gone to another host")
        }
        return try body(data)
    }

    private static let wrongReply = MigrationError(.source, "the disk's server gave the wrong reply")
}
