internal import AgentAPI
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import Synchronization

/// One control connection: answers its requests, and undoes at its end what would outlive it. Used by one thread.
final class ControlSession {
    private static let trackersMax = 8
    /// So that a reply stays below ``LineChannel/lineBytesMax``.
    static let dirtyRunsMax = 16_384
    private static let progressInterval: UInt64 = 100_000_000

    private let identifier: UInt64
    private let owner: DiskOwner
    private let time: any TimeSource
    private let pulseInterval: UInt64
    private var trackers: [UInt32: any ChangeTracker] = [:] {
        didSet {
            let more = trackers.count - oldValue.count
            owner.trackers.withLock { $0 += more }
        }
    }
    private var lastTracker: UInt32 = 0
    private var prepared: (any PreparedSwitch)?
    /// The disk is closed: after the reply the process ends.
    private var isShutDown = false

    init(
        identifier: UInt64, owner: DiskOwner, time: any TimeSource = SystemTime(),
        pulseInterval: UInt64 = WorkPulse.interval
    ) {
        self.identifier = identifier
        self.owner = owner
        self.time = time
        self.pulseInterval = pulseInterval
    }

    /// Serves the connection to its end.
    func run(_ channel: LineChannel) {
        do throws(ControlError) {
            var pulse: WorkPulse?
            while !isShutDown, let request = try channel.receive(ControlRequest.self) {
                if request.isLong, pulse == nil { pulse = WorkPulse(over: channel, interval: pulseInterval) }
                guard request.isLong, let pulse else {
                    try channel.send(answer(request))
                    continue
                }
                var lastSent = time.monotonic()
                try channel.send(
                    pulse.during {
                        answer(request) { done, total in
                            // A caller that has gone away has no use for the rest.
                            guard !channel.isHungUp else { return false }
                            guard time.elapsed(since: lastSent) >= Self.progressInterval else { return true }
                            lastSent = time.monotonic()
                            return pulse.tell(done: done, total: total)
                        }
                    })
            }
        } catch {
            try? channel.send(ControlReply.failed(code: error.code, message: error.message))
        }
        end()
        if isShutDown { owner.finishShutdown() }
    }

    /// Undoes what belongs to the connection. Later calls do nothing.
    func end() {
        // A closed disk has no trackers, and keeps no prepared delta.
        _ = owner.gate.pass {
            for tracker in trackers.values { tracker.stop() }
            prepared?.abandon()
        }
        trackers = [:]
        prepared = nil
        _ = owner.pause.end(holder: identifier)
    }

    /// - Parameter progress: for long requests; `false` stops them.
    func answer(
        _ request: ControlRequest, progress: (_ done: UInt64, _ total: UInt64) -> Bool = { _, _ in true }
    ) -> ControlReply {
        do throws(ControlError) {
            return try reply(to: request, progress: progress)
        } catch {
            return .failed(code: error.code, message: error.message)
        }
    }

    private func reply(
        to request: ControlRequest, progress: (UInt64, UInt64) -> Bool
    ) throws(ControlError) -> ControlReply {
        switch request {
        case .status: return .status(try owner.status())
        case .prepareSnapshot:
            guard prepared == nil else { throw Self.invalid("this connection has prepared a snapshot already") }
            prepared = try withDisk { disk throws(DiskError) in try disk.prepareSnapshot() }
        case .commitSnapshot: return try commitSnapshot()
        case .abandonSnapshot:
            guard let prepared else { throw Self.invalid("no snapshot is prepared on this connection") }
            self.prepared = nil
            try withDisk { _ in prepared.abandon() }
        case .deleteSnapshot(let guid): try deleteSnapshot(guid, progress)
        case .listSnapshots:
            return .snapshots(
                try withDisk { disk throws(DiskError) in try disk.snapshots() }.map { SnapshotStatus($0) })
        case .grow(let bytes): try withDisk { disk throws(DiskError) in try disk.grow(to: bytes) }
        case .compact(let bytesPerSecond): try compact(bytesPerSecond, progress)
        case .startTracking(let granuleBytes): return try startTracking(granuleBytes)
        case .takeDirty(let number, let offset, let count, let limit):
            return try takeDirty(number, offset, count, limit)
        case .countDirty(let number): return .dirtyBytes(try dirtyBytes(number))
        case .stopTracking(let number):
            let tracker = try tracker(number)
            trackers[number] = nil
            try withDisk { _ in tracker.stop() }
        case .pause(let milliseconds):
            try whileOpen { () throws(ControlError) in
                try owner.pause.begin(holder: identifier, milliseconds: milliseconds)
            }
        case .resume:
            guard owner.pause.end(holder: identifier) else { throw WritePause.expired }
        case .release:
            try whileOpen { () throws(ControlError) in try owner.pause.release(holder: identifier) }
        case .confirmRelease:
            try whileOpen { () throws(ControlError) in try owner.pause.confirmRelease(holder: identifier) }
        case .shutdown: try shutDown(isForced: false)
        case .shutdownForced: try shutDown(isForced: true)
        }
        return .done
    }

    private func shutDown(isForced: Bool) throws(ControlError) {
        do throws(DiskError) { try owner.closeDisk(isForced: isForced) } catch { throw ControlError(error) }
        isShutDown = true
    }

    /// Runs `body` unless the disk is closed or belongs to another host.
    private func withDisk<R>(_ body: (any ControlledDisk) throws(DiskError) -> R) throws(ControlError) -> R {
        guard !owner.pause.isReleased else { throw WritePause.released }
        return try whileOpen { () throws(ControlError) in
            do throws(DiskError) { return try body(owner.disk) } catch { throw ControlError(error) }
        }
    }

    private func whileOpen<R>(_ body: () throws(ControlError) -> R) throws(ControlError) -> R {
        guard let result = try owner.gate.pass(body) else { throw WritePause.closed }
        return result
    }

    private func commitSnapshot() throws(ControlError) -> ControlReply {
        guard let prepared else { throw Self.invalid("no snapshot is prepared on this connection") }
        let committed = try withDisk { _ throws(DiskError) in try prepared.commit() }
        self.prepared = nil
        return .snapshot(guid: committed.guid, switchNanoseconds: committed.switchNanoseconds)
    }

    private func deleteSnapshot(_ guid: String, _ progress: (UInt64, UInt64) -> Bool) throws(ControlError) {
        let isFinished = try withDisk { disk throws(DiskError) in
            try disk.deleteSnapshot(guid) { done, total in !owner.gate.isClosed && progress(done, total) }
        }
        guard isFinished else {
            throw ControlError(
                code: ControlError.stopped, message: "the merge of \(guid) was stopped; delete it again to go on")
        }
    }

    private func compact(_ bytesPerSecond: UInt64, _ progress: (UInt64, UInt64) -> Bool) throws(ControlError) {
        let isFinished = try withDisk { disk throws(DiskError) in
            try disk.compact(bytesPerSecond: bytesPerSecond) { done, total in
                !owner.gate.isClosed && progress(done, total)
            }
        }
        guard isFinished else {
            throw ControlError(
                code: ControlError.stopped, message: "the compaction was stopped; begin it again to go on")
        }
    }

    private func startTracking(_ granuleBytes: UInt64) throws(ControlError) -> ControlReply {
        guard trackers.count < Self.trackersMax else {
            throw ControlError(
                code: ControlError.busy, message: "a connection can have \(Self.trackersMax) dirty maps; stop one first"
            )
        }
        let tracker = try withDisk { disk throws(DiskError) in try disk.startTracking(granuleBytes: granuleBytes) }
        lastTracker += 1
        trackers[lastTracker] = tracker
        return .tracker(lastTracker)
    }

    private func takeDirty(
        _ number: UInt32, _ offset: UInt64, _ count: UInt64, _ limit: Int
    ) throws(ControlError) -> ControlReply {
        guard let range = ByteRange(checking: offset, count: count) else {
            throw Self.invalid("the range ends beyond 2^64")
        }
        guard limit > 0 else { throw Self.invalid("a limit of \(limit) runs leaves nothing to answer") }
        let tracker = try tracker(number)
        let taken = try withDisk { _ throws(DiskError) in
            try tracker.take(in: range, limit: min(limit, Self.dirtyRunsMax))
        }
        return .dirty(
            runs: taken.runs.map { Extent(offset: $0.offset, count: $0.count) }, coveredTo: taken.coveredTo)
    }

    private func dirtyBytes(_ number: UInt32) throws(ControlError) -> UInt64 {
        let tracker = try tracker(number)
        return try withDisk { _ throws(DiskError) in try tracker.dirtyBytes() }
    }

    private func tracker(_ number: UInt32) throws(ControlError) -> any ChangeTracker {
        guard let tracker = trackers[number] else { throw Self.invalid("no dirty map \(number) on this connection") }
        return tracker
    }

    private static func invalid(_ message: String) -> ControlError {
        ControlError(code: ControlError.invalid, message: message)
    }
}

extension ControlRequest {
    /// Takes as long as the disk makes it: signs of life are given.
    fileprivate var isLong: Bool {
        switch self {
        case .prepareSnapshot, .commitSnapshot, .deleteSnapshot, .grow, .compact, .shutdown, .shutdownForced: true
        default: false
        }
    }
}

extension SnapshotStatus {
    init(_ info: SnapshotInfo) {
        self.init(
            guid: info.guid, parent: info.parent, file: info.file, isTop: info.isTop, isTemporary: info.isTemporary,
            allocatedBytes: info.allocatedBytes)
    }
}
