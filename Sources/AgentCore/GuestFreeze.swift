internal import DeviceControl
internal import LinuxSystem
internal import Synchronization

/// What is to be frozen for a snapshot.
struct FreezeList {
    /// For disks that have to share one instant: the writes of whoever has them open are held, too.
    let holdsWrites: Bool
    /// Whether there is a file system to be frozen.
    private(set) var hasMounts = false
    /// By the driver, which lets go by itself.
    private(set) var devices: [DeviceIndex] = []
    /// By a guard process: what does not lie directly on a device of the driver.
    private(set) var targets: [FreezeTarget] = []
    /// Of the disks that file systems to be frozen lie on.
    private(set) var servers: [ServerSign] = []

    init(holdsWrites: Bool) { self.holdsWrites = holdsWrites }

    var isEmpty: Bool { devices.isEmpty && targets.isEmpty }

    /// - Returns: whether anything of the disk is mounted here.
    mutating func add(_ disk: AttachedDisk) throws(AgentError) -> Bool {
        guard let device = disk.device else { return false }
        let all = try DeviceTree.toFreeze(on: device.path, isOfDriver: false)
        let ours = try DeviceTree.toFreeze(on: device.path, isOfDriver: disk.driverDevice != nil)
        if !all.isEmpty {
            hasMounts = true
            servers.append(ServerSign(controlSocket: disk.controlSocket))
        }
        if let index = disk.driverDevice, holdsWrites || all.count > ours.count { devices.append(index) }
        for target in ours where !targets.contains(target) { targets.append(target) }
        return !all.isEmpty
    }
}

extension AttachedDisk {
    /// The driver's device, if it serves the disk.
    var driverDevice: DeviceIndex? {
        guard backend == .kernel, let path = device?.path, let number = UInt32(path.drop { !$0.isNumber }) else {
            return nil
        }
        return DeviceIndex(number)
    }
}

/// File systems that are frozen for a bounded time, by whoever can. Dropping it thaws.
final class GuestFreeze: Sendable {
    private let guardProcess: Freeze?
    private let devices: Mutex<FrozenDevices?>
    private let start: UInt64

    /// Freezes all of the list. - Throws: why not; then none is frozen.
    init(_ list: FreezeList, deadlineMilliseconds: UInt64) throws(AgentError) {
        // A freeze writes what is not written yet: nobody knows how long it takes while writes wait for space.
        for server in list.servers { if let stall = server.stall() { throw stall } }
        start = SystemTime().monotonic()
        guardProcess =
            list.targets.isEmpty
            ? nil
            : try Freeze(
                list.targets, deadlineMilliseconds: deadlineMilliseconds,
                executable: Installation.executable(), servers: list.servers)
        devices = Mutex(nil)
        guard !list.devices.isEmpty else { return }
        do throws(DriverError) {
            let frozen = try FrozenDevices(
                list.devices, holdingWrites: list.holdsWrites,
                deadlineMilliseconds: min(deadlineMilliseconds, Driver.deadlineMillisecondsMax))
            devices.withLock { $0 = frozen }
        } catch {
            let code: AgentError.Code =
                switch error.code {
                case .busy: .busy
                // Its writes wait for space, and so would the freeze.
                case .outOfSpace: .outOfSpace
                default: .io
                }
            throw AgentError(code, error.message)
        }
    }

    /// Thaws. - Returns: whether a deadline had come first, and how long writes stood still.
    func thaw() throws(AgentError) -> (isExpired: Bool, nanoseconds: UInt64) {
        let frozen = devices.withLock { $0.take() }
        var isExpired = false
        var nanoseconds: UInt64 = 0
        if let frozen {
            do throws(DriverError) { isExpired = try frozen.thaw() } catch { throw AgentError(.io, error.message) }
            nanoseconds = SystemTime().elapsed(since: start)
        }
        if let thawed = try guardProcess?.thaw() {
            isExpired = isExpired || thawed.isExpired
            nanoseconds = max(nanoseconds, thawed.nanoseconds)
        }
        return (isExpired, nanoseconds)
    }
}
