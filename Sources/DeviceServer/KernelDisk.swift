internal import AgentAPI
internal import DeviceControl
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import Synchronization

/// A disk that the driver in the kernel serves. The data is the driver's; this process holds the disk's lock, keeps the
/// descriptor in step, and answers the control socket. When it dies the device goes on, and the next one takes it over.
///
/// The driver does one thing at a time beside requests, so a merge yields to a snapshot: it is cancelled, which leaves
/// whole images, and goes on after it.
final class KernelDisk: ControlledDisk {
    let driver: Driver
    let device: DeviceIndex
    let held: HeldDisk
    let isReadOnly: Bool
    private let isRepaired: Bool
    let state = Monitor(State())
    /// While writes are held back.
    let frozen = Mutex<FrozenDevices?>(nil)
    let abort: DeviceAbort

    struct State: Sendable {
        /// A job of the driver is a ``Activity/step``.
        var activities = Activities()
        var isClosing: Bool { activities.isUnderWay(.close) }
        /// A new top is being made or waits: no job may begin.
        var isPreparing: Bool { [.prepare, .prepared, .commit].contains { activities.isUnderWay($0) } }
        /// The disk is another host's: its writes were made to fail.
        var isReleased = false
        /// Trackers that there were.
        var lastTracker: UInt64 = 0
    }

    init(driver: consuming Driver, device: DeviceIndex, held: HeldDisk, isReadOnly: Bool, isRepaired: Bool) {
        self.driver = driver
        self.device = device
        self.held = held
        self.isReadOnly = isReadOnly
        self.isRepaired = isRepaired
        abort = DeviceAbort(path: held.path) { isOn throws(DiskError) in
            // On record as long as it lasts: whoever takes the device over must tell it from an error of the host.
            if isOn { held.noteStopped(true) }
            do throws(DriverError) { try Driver().setAborted(isOn, device) } catch {
                if isOn { held.noteStopped(false) }
                throw DiskError(error, path: held.path)
            }
            if !isOn { held.noteStopped(false) }
        }
        held.confirmBy { files in (try? AttachedStack.of(device))?.files.isSame(as: files) == true }
    }

    /// Marks devices that are Godwit's.
    static let cookie = "godwit"

    // MARK: state

    func status() throws(DiskError) -> DeviceStatus {
        let status = try asking { () throws(DriverError) in try driver.status(of: device) }
        var answer = DeviceStatus(
            folder: held.path, pid: ownProcess(), sizeBytes: status.deviceBytes, clusterBytes: status.clusterBytes,
            deltas: status.levels)
        answer.readRequests = status.reads
        answer.readBytes = status.readBytes
        answer.writeRequests = status.writes
        answer.writeBytes = status.writtenBytes
        answer.flushes = status.flushes
        answer.hostFlushes = status.hostFlushes
        answer.allocatedClusters = status.allocations
        answer.repairedOnOpen = isRepaired
        answer.isReadOnly = isReadOnly
        answer.device = device.path
        answer.isOutOfSpace = status.isOutOfSpace
        answer.isAborted = status.isAborted
        return answer
    }

    func snapshots() throws(DiskError) -> [SnapshotInfo] { try held.snapshots() }

    // MARK: the end

    private static let jobEndNanoseconds: UInt64 = 60_000_000_000

    /// Stops what is under way, and the device.
    /// The driver takes its device from nobody who has it open, forced or not.
    func prepareToClose(isForced: Bool) throws(DiskError) {
        let isFirst = state.change { $0.activities.beginClosing() }
        // The device may be another disk's by now.
        guard isFirst else { return }
        do throws(DiskError) {
            try awaitQuiet()
            held.deviceWillGo()
            try asking { () throws(DriverError) in try driver.detach(device, force: true) }
        } catch {
            // A device whose writes fail can't close its images, and tells so when it has let go of them.
            if error.code != .busy, state.withLock({ $0.isReleased }), try stackFiles().isEmpty { return }
            end(.close)
            guard error.code == .busy else { throw error }
            throw DiskError(
                .busy, "\(device.path) is in use: end what uses it (see 'fuser -vm \(device.path)') and retry",
                path: held.path)
        }
    }

    private func awaitQuiet() throws(DiskError) {
        cancelJob()
        let isQuiet: Bool? = state.wait(until: SystemTime().monotonic() + Self.jobEndNanoseconds) { state in
            state.activities.mayClose ? true : nil
        }
        if isQuiet == nil { throw DiskError.busy(.merge, path: held.path) }
    }

    func close() throws(DiskError) { try held.close() }

    // MARK: jobs

    /// Ends the job of the driver early, if there is one that can be.
    func cancelJob() {
        guard state.withLock({ $0.activities.isUnderWay(.step) }) else { return }
        // One that has just ended needs none.
        try? driver.cancelJob(of: device)
    }

    /// Begins something, with what it waits for ended.
    /// - Throws: `.busy`, with what excludes it.
    func begin(_ activity: Activity) throws(DiskError) {
        let refusal: Activity?? = state.wait(until: SystemTime().monotonic() + Self.jobEndNanoseconds) {
            state -> Activity?? in
            switch state.activities.begin(activity) {
            case .begun, .stopping: .some(nil)
            case .waits: nil
            case .refused(let running): running
            }
        }
        guard let refusal else { throw DiskError.busy(.merge, path: held.path) }
        if let refusal { throw DiskError.busy(refusal, path: held.path) }
    }

    func end(_ activity: Activity) { state.change { $0.activities.end(activity) } }

    func during<R>(_ activity: Activity, _ body: () throws(DiskError) -> R) throws(DiskError) -> R {
        try begin(activity)
        defer { end(activity) }
        return try body()
    }

    /// Has the driver do a job, and waits for its end.
    /// - Parameter progress: called now and then with clusters done and in all; `false` cancels.
    func run(
        _ job: DeviceJob, bytesPerSecond: UInt64 = 0, _ progress: (UInt64, UInt64) -> Bool
    ) throws(DiskError) -> JobStatus {
        let events = try asking { () throws(DriverError) in try DriverEvents(of: device) }
        let clusterBytes = try asking { () throws(DriverError) in try driver.status(of: device) }.clusterBytes
        switch state.change({ $0.activities.begin(.step) }) {
        case .begun, .stopping: break
        case .waits: throw DiskError.busy(.prepare, path: held.path)
        case .refused(let running): throw DiskError.busy(running, path: held.path)
        }
        defer { end(.step) }
        try asking { () throws(DriverError) in
            try driver.start(job, on: device, bytesPerSecond: bytesPerSecond)
        }
        // Who wanted it to end before it ran is heard here.
        if state.withLock({ $0.activities.isAskedToStop(.step) }) { cancelJob() }
        while true {
            let status = try asking { () throws(DriverError) in try driver.job(of: device) }
            guard status.isActive else { return status }
            if !progress(status.doneBytes / clusterBytes, status.totalBytes / clusterBytes) { cancelJob() }
            // Its end comes as an event; the time is only for the progress.
            _ = try asking { () throws(DriverError) in
                try events.next(waitMilliseconds: Self.progressMilliseconds)
            }
        }
    }

    private static let progressMilliseconds = 100

    /// Makes the driver's failure one of the disk.
    @discardableResult
    func asking<R: ~Copyable>(_ body: () throws(DriverError) -> R) throws(DiskError) -> R {
        do throws(DriverError) { return try body() } catch { throw DiskError(error, path: held.path) }
    }
}

extension DiskError {
    init(_ error: DriverError, path: String) {
        let code: Code =
            switch error.code {
            case .busy, .cancelled, .expired: .busy
            case .outOfSpace: .outOfSpace
            case .damaged: .corrupt
            case .notPermitted: .permission
            case .notLoaded, .unsupported: .unsupported
            case .notFound, .noDevice: .notFound
            case .exists: .exists
            case .invalid, .tooLarge: .invalid
            case .readOnly: .readOnly
            case .io: .io
            }
        self.init(code, "\(path): \(error.message)", path: path)
    }
}
