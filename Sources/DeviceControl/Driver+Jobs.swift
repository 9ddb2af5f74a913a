internal import CDeviceABI
public import SystemPackage

/// What a device works on beside its requests; one job at a time.
public enum DeviceJob: Hashable, Sendable {
    /// The data of that level goes into the one below it, which takes its place.
    case merge(level: Int)
    /// To so many bytes, whole clusters.
    case grow(bytes: UInt64)
    /// Clusters move from the end of the top's file into free places, and it is cut.
    case compact
}

public struct JobStatus: Hashable, Sendable {
    public enum State: Hashable, Sendable { case none, running, paused, done, failed, cancelled }
    public var state: State
    /// Of a failed one.
    public var errno: Errno?
    public var doneBytes: UInt64
    public var totalBytes: UInt64
    public var isActive: Bool { state == .running || state == .paused }

    public init(state: State, errno: Errno?, doneBytes: UInt64, totalBytes: UInt64) {
        self.state = state
        self.errno = errno
        self.doneBytes = doneBytes
        self.totalBytes = totalBytes
    }
}

extension Driver {
    /// - Parameter bytesPerSecond: 0: as fast as it goes.
    /// - Throws: `.busy` when there is another one.
    public func start(_ job: DeviceJob, on device: DeviceIndex, bytesPerSecond: UInt64 = 0) throws(DriverError) {
        var arg = ploop_job()
        switch job {
        case .merge(let level):
            arg.kind = UInt32(PLOOP_JOB_MERGE)
            arg.arg = UInt64(clamping: level)
        case .grow(let bytes):
            arg.kind = UInt32(PLOOP_JOB_GROW)
            arg.arg = bytes
        case .compact:
            arg.kind = UInt32(PLOOP_JOB_COMPACT)
            arg.arg = bytesPerSecond
        }
        arg.rate = bytesPerSecond
        _ = try perform(arg, PLOOP_JOB_OP_START, on: device, "begin a job on")
    }

    public func job(of device: DeviceIndex) throws(DriverError) -> JobStatus {
        try perform(ploop_job(), PLOOP_JOB_OP_QUERY, on: device, "tell of the job on")
    }

    public func pauseJob(of device: DeviceIndex) throws(DriverError) {
        _ = try perform(ploop_job(), PLOOP_JOB_OP_PAUSE, on: device, "pause the job on")
    }

    public func resumeJob(of device: DeviceIndex) throws(DriverError) {
        _ = try perform(ploop_job(), PLOOP_JOB_OP_RESUME, on: device, "resume the job on")
    }

    /// A merge or compaction leaves whole images, and can be started again. - Throws: `.unsupported` for a grow,
    /// `.notFound` when nothing runs.
    public func cancelJob(of device: DeviceIndex) throws(DriverError) {
        _ = try perform(ploop_job(), PLOOP_JOB_OP_CANCEL, on: device, "cancel the job on")
    }

    /// Waits until no job runs. - Returns: how the last one ended.
    public func awaitJob(of device: DeviceIndex) throws(DriverError) -> JobStatus {
        try perform(ploop_job(), PLOOP_JOB_OP_WAIT, on: device, "wait for the job on")
    }

    private func perform(
        _ job: ploop_job, _ operation: Int32, on device: DeviceIndex, _ what: String
    ) throws(DriverError) -> JobStatus {
        var arg = job
        arg.index = device.number
        arg.op = UInt32(operation)
        try checked(unsafe device_abi_job(descriptor, &arg), what, device.path)
        let state: JobStatus.State =
            switch Int32(arg.state) {
            case PLOOP_JOB_RUNNING: .running
            case PLOOP_JOB_PAUSED: .paused
            case PLOOP_JOB_DONE: .done
            case PLOOP_JOB_FAILED: .failed
            case PLOOP_JOB_CANCELLED: .cancelled
            default: .none
            }
        return JobStatus(
            state: state, errno: arg.error == 0 ? nil : Errno(rawValue: CInt(clamping: arg.error)),
            doneBytes: arg.done, totalBytes: arg.total)
    }
}

extension DriverError {
    /// Of a job that ended with `status`; `nil` when it was done.
    public init?(_ status: JobStatus, _ job: String, _ device: DeviceIndex) {
        switch status.state {
        case .done: return nil
        case .cancelled: self.init(errno: .canceled, job, device.path)
        default: self.init(errno: status.errno ?? .ioError, job, device.path)
        }
    }
}
