internal import CDeviceABI
public import Geometry

/// Where the newest data of a range is.
public struct BlockExtent: Hashable, Sendable {
    public var range: ByteRange
    /// 0 is the base; `nil`: no level holds it, it reads as zeros.
    public var level: Int?
    /// First byte in that level's file.
    public var fileOffset: UInt64
}

extension Driver {
    /// At most `limit` runs from the start of `range`, a multiple of the cluster; complete up to `coveredTo`.
    public func blockStatus(
        of device: DeviceIndex, in range: ByteRange, limit: Int
    ) throws(DriverError) -> (extents: [BlockExtent], coveredTo: UInt64) {
        let capacity = max(1, min(limit, 1 << 16))
        var arg = ploop_block_status()
        arg.index = device.number
        arg.nr_extents = UInt32(capacity)
        arg.start = range.offset
        arg.bytes = range.count
        var result: Int32 = 0
        let found = unsafe [ploop_block_extent](unsafeUninitializedCapacity: capacity) { memory, initialized in
            arg.extents = unsafe Self.address(memory.baseAddress)
            result = unsafe device_abi_block_status(descriptor, &arg)
            initialized = result < 0 ? 0 : min(Int(arg.nr_extents), capacity)
        }
        try checked(result, "look at the blocks of", device.path)
        let extents = found.map {
            BlockExtent(
                range: ByteRange(offset: $0.start, count: $0.bytes),
                level: $0.level == PLOOP_LEVEL_NONE ? nil : Int($0.level), fileOffset: $0.offset)
        }
        return (extents, arg.next)
    }
}
