internal import CDeviceABI
internal import SystemPackage

/// A device of a snapshot and its new top.
public struct SnapshotItem: Hashable, Sendable {
    public var device: DeviceIndex
    /// An empty image of the same version, size and cluster, open for reading and writing.
    public var newTop: CInt
    public init(device: DeviceIndex, newTop: CInt) {
        self.device = device
        self.newTop = newTop
    }
}

extension Driver {
    /// How long a freeze can last at most.
    public static var deadlineMillisecondsMax: UInt64 { UInt64(PLOOP_DEADLINE_MS_MAX) }

    /// Switches all devices to their new tops in one instant, or none.
    /// - Parameters:
    ///   - freezesFor: freeze what is mounted, for at most so many milliseconds; `nil`: leave the file systems alone.
    ///   - bitmap: on each device a bitmap of that name is empty at the instant of the switch.
    /// - Throws: `.expired` when the freeze ended before the switch, `.outOfSpace` when a reserve is not there.
    public func snapshot(
        _ items: [SnapshotItem], freezesFor milliseconds: UInt64?,
        bitmap: (name: String, granuleBytes: UInt64)? = nil
    ) throws(DriverError) {
        var list = items.map { item in
            var one = ploop_snapshot_item()
            one.index = item.device.number
            one.fd = item.newTop
            return one
        }
        var arg = ploop_snapshot()
        arg.nr_items = UInt32(clamping: list.count)
        if let milliseconds {
            arg.deadline_ms = UInt32(clamping: milliseconds)
        } else {
            arg.flags |= PLOOP_SNAPSHOT_NO_FREEZE
        }
        if let bitmap {
            arg.flags |= PLOOP_SNAPSHOT_BITMAP
            arg.granule_log = UInt32(bitmap.granuleBytes.trailingZeroBitCount)
            try Self.setName(&arg.name, bitmap.name)
        }
        let result = unsafe list.withUnsafeMutableBufferPointer { memory in
            arg.items = unsafe Self.address(memory.baseAddress)
            return unsafe device_abi_snapshot(descriptor, &arg)
        }
        let names = items.map(\.device.path).joined(separator: ", ")
        try checked(result, "take a snapshot of", names)
    }
}

/// The file systems on some devices, frozen by the driver, and if wanted all other writes, held back. They go on when
/// this is dropped, at the deadline, and when the process dies, whatever comes first. A class, since who freezes and
/// who thaws are different threads.
public final class FrozenDevices: Sendable {
    private let driver: Driver

    /// - Parameters:
    ///   - holdingWrites: those of whoever has the devices open, too; what was acknowledged before is durable then.
    ///   - deadlineMilliseconds: at most ``Driver/deadlineMillisecondsMax``.
    public init(
        _ devices: [DeviceIndex], holdingWrites: Bool = false, deadlineMilliseconds: UInt64
    ) throws(DriverError) {
        let driver = try Driver()
        var arg = ploop_freeze()
        var indices = devices.map(\.number)
        arg.nr = UInt32(clamping: indices.count)
        arg.deadline_ms = UInt32(clamping: max(1, deadlineMilliseconds))
        arg.flags = holdingWrites ? PLOOP_FREEZE_HOLD : 0
        let result = unsafe indices.withUnsafeMutableBufferPointer { memory in
            arg.indices = unsafe Driver.address(memory.baseAddress)
            return unsafe device_abi_freeze(driver.descriptor, &arg)
        }
        try checked(result, "freeze what is mounted from", devices.map(\.path).joined(separator: ", "))
        self.driver = driver
    }

    /// Thaws, once. - Returns: whether the deadline had come first.
    public func thaw() throws(DriverError) -> Bool {
        let result = device_abi_thaw(driver.descriptor)
        if result == -Errno.timedOut.rawValue { return true }
        try checked(result, "thaw", "what it had frozen")
        return false
    }
}
