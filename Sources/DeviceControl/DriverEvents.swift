internal import CDeviceABI
internal import LinuxSystem
public import SystemPackage

/// What happened to a device.
public struct DriverEvent: Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        /// Writes fail from now on.
        case aborted(Errno)
        case started
        case stopped
        /// Writes wait: the host is full, or the limit of the delta is reached.
        case outOfSpace(isLimit: Bool)
        /// They went on.
        case hasSpace
        case jobEnded
        /// It goes on in a new top of that level.
        case switched(level: UInt64)
        /// A deadline thawed its file systems.
        case thawed
        /// So many events were dropped.
        case lost(UInt64)
        case unknown(UInt32)
    }
    public var device: DeviceIndex
    public var kind: Kind
    /// Nanoseconds of the monotonic clock.
    public var time: UInt64
}

/// Events of one device, or of all, from the making of this on.
public struct DriverEvents: ~Copyable, Sendable {
    private let driver: Driver
    private static let readMax = 64

    /// - Parameter device: `nil`: all.
    public init(of device: DeviceIndex?) throws(DriverError) {
        let driver = try Driver()
        var arg = ploop_watch()
        arg.index = device?.number ?? PLOOP_INDEX_ANY
        try checked(unsafe device_abi_watch(driver.descriptor, &arg), "watch", device?.path ?? "all devices")
        self.driver = driver
    }

    /// Readable when there is one; lent.
    public var descriptor: CInt { driver.descriptor }

    /// What has happened since the last call; waits for the first.
    /// - Returns: nothing when the time is over.
    public func next(waitMilliseconds: Int?) throws(DriverError) -> [DriverEvent] {
        var entries = [PollEntry(descriptor, .readable)]
        do throws(SystemError) {
            guard try pollDescriptors(&entries, deadlineMilliseconds: waitMilliseconds) > 0 else { return [] }
        } catch {
            throw DriverError(errno: error.errno, "wait for", "events")
        }
        var result: Int32 = 0
        let found = unsafe [ploop_event](unsafeUninitializedCapacity: Self.readMax) { memory, initialized in
            result = unsafe device_abi_read_events(descriptor, memory.baseAddress, UInt32(Self.readMax))
            initialized = max(0, Int(result))
        }
        try checked(result, "read", "events")
        return found.map { DriverEvent(device: DeviceIndex($0.index), kind: Self.kind($0), time: $0.time_ns) }
    }

    private static func kind(_ event: ploop_event) -> DriverEvent.Kind {
        switch Int32(event.type) {
        case PLOOP_EV_ABORTED: .aborted(Errno(rawValue: CInt(clamping: event.arg)))
        case PLOOP_EV_STOPPED: .stopped
        case PLOOP_EV_ENOSPC: .outOfSpace(isLimit: event.arg == 1)
        case PLOOP_EV_STARTED: .started
        case PLOOP_EV_SPACE: .hasSpace
        case PLOOP_EV_JOB: .jobEnded
        case PLOOP_EV_SNAPSHOT: .switched(level: event.arg)
        case PLOOP_EV_THAWED: .thawed
        case PLOOP_EV_LOST: .lost(event.arg)
        default: .unknown(event.type)
        }
    }
}
