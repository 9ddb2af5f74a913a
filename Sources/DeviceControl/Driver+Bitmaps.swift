internal import CDeviceABI
public import Geometry
internal import SystemPackage

/// A named map of written blocks. It lives in the kernel's memory until it is deleted or the device is stopped.
public struct BitmapInfo: Hashable, Sendable {
    public var name: String
    public var granuleBytes: UInt64
    public var markedBytes: UInt64
}

extension Driver {
    /// A granule is marked before a write to any part of it is acknowledged.
    /// - Parameter granuleBytes: a power of two from 4 KiB to 1 MiB.
    /// - Throws: `.exists`, `.tooLarge` for a granule too fine for the device, `.invalid`.
    public func createBitmap(
        _ name: String, of device: DeviceIndex, granuleBytes: UInt64
    ) throws(DriverError) {
        guard granuleBytes.nonzeroBitCount == 1, granuleBytes < 1 << 32 else {
            throw DriverError(errno: .invalidArgument, "track", "granules of \(granuleBytes) bytes")
        }
        var arg = try Self.bitmap(name, device)
        arg.granule_log = UInt32(granuleBytes.trailingZeroBitCount)
        try checked(unsafe device_abi_bitmap_create(descriptor, &arg), "track changes of", device.path)
    }

    /// - Throws: `.notFound`.
    public func deleteBitmap(_ name: String, of device: DeviceIndex) throws(DriverError) {
        var arg = try Self.bitmap(name, device)
        try checked(unsafe device_abi_bitmap_delete(descriptor, &arg), "delete the bitmap \(name) of", device.path)
    }

    public func clearBitmap(_ name: String, of device: DeviceIndex) throws(DriverError) {
        var arg = try Self.bitmap(name, device)
        try checked(unsafe device_abi_bitmap_clear(descriptor, &arg), "clear the bitmap \(name) of", device.path)
    }

    private static func bitmap(_ name: String, _ device: DeviceIndex) throws(DriverError) -> ploop_bitmap {
        var arg = ploop_bitmap()
        arg.index = device.number
        try setName(&arg.name, name)
        return arg
    }

    /// The marked ranges, ascending: at most `limit`, complete up to `coveredTo`.
    /// - Parameter clear: each granule that is returned is cleared, in one step with the look at it.
    public func readBitmap(
        _ name: String, of device: DeviceIndex, in range: ByteRange, limit: Int, clear: Bool
    ) throws(DriverError) -> (ranges: [ByteRange], coveredTo: UInt64) {
        var arg = ploop_bitmap_read()
        arg.index = device.number
        arg.flags = clear ? PLOOP_BITMAP_CLEAR : 0
        arg.start = range.offset
        arg.bytes = range.count
        try Self.setName(&arg.name, name)
        let capacity = max(1, min(limit, 1 << 16))
        arg.nr_ranges = UInt32(capacity)
        var result: Int32 = 0
        let found = unsafe [ploop_range](unsafeUninitializedCapacity: capacity) { memory, initialized in
            arg.ranges = unsafe Self.address(memory.baseAddress)
            result = unsafe device_abi_bitmap_read(descriptor, &arg)
            initialized = result < 0 ? 0 : min(Int(arg.nr_ranges), capacity)
        }
        try checked(result, "read the bitmap \(name) of", device.path)
        return (found.map { ByteRange(offset: $0.start, count: $0.bytes) }, arg.next)
    }

    public func bitmaps(of device: DeviceIndex) throws(DriverError) -> [BitmapInfo] {
        let capacity = Int(PLOOP_BITMAPS_MAX)
        var arg = ploop_bitmap_list()
        arg.index = device.number
        arg.nr = UInt32(capacity)
        var result: Int32 = 0
        let found = unsafe [ploop_bitmap_info](unsafeUninitializedCapacity: capacity) { memory, initialized in
            arg.infos = unsafe Self.address(memory.baseAddress)
            result = unsafe device_abi_bitmap_list(descriptor, &arg)
            initialized = result < 0 ? 0 : min(Int(arg.nr), capacity)
        }
        try checked(result, "list the bitmaps of", device.path)
        return found.map {
            let granule = UInt64(1) << UInt64(min($0.granule_log, 32))
            return BitmapInfo(name: Self.name($0.name), granuleBytes: granule, markedBytes: $0.marked &* granule)
        }
    }
}
