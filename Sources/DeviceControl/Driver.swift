internal import CDeviceABI
internal import LinuxSystem
internal import SystemPackage

/// A device of the driver: N of `/dev/ploopN`.
public struct DeviceIndex: Hashable, Sendable, Codable, CustomStringConvertible {
    public var number: UInt32
    public init(_ number: UInt32) { self.number = number }
    /// `ploopN`, the name of the whole disk.
    public var name: String { "ploop\(number)" }
    public var path: String { "/dev/\(name)" }
    public var description: String { path }
}

/// One file of a stack.
public struct StackFile: Hashable, Sendable {
    public enum Format: Hashable, Sendable { case raw, expandable }
    /// How the driver reaches the file.
    public enum Engine: Hashable, Sendable { case automatic, direct, buffered, nfs }
    /// Open for reading; the top of a writable stack for writing, too. May be closed after the call.
    public var descriptor: CInt
    public var format: Format
    public var engine: Engine
    public init(descriptor: CInt, format: Format, engine: Engine = .automatic) {
        self.descriptor = descriptor
        self.format = format
        self.engine = engine
    }
}

/// How a stack is attached.
public struct AttachSettings: Hashable, Sendable {
    /// The wanted device; `nil`: a free one.
    public var index: DeviceIndex?
    public var isReadOnly = false
    /// Freed clusters are punched out of the file.
    public var punchesHoles = false
    /// Needed for a lone raw file; 0: as the images say. A power of two.
    public var clusterBytes: UInt64 = 0
    /// Limit of the top's file; 0: none.
    public var deltaBytesMax: UInt64 = 0
    /// What must be free on the host before a snapshot; 0: nothing.
    public var reserveBytes: UInt64 = 0
    /// Shown in sysfs; at most 63 bytes.
    public var cookie = ""
    public init() {}
}

/// The driver's control file, opened once. Calls block, from any thread.
///
/// A freeze and a watch belong to an open control file of their own: ``FrozenDevices``, ``DriverEvents``.
public struct Driver: ~Copyable, Sendable {
    /// Lent, for what is declared in the other files of this module.
    let descriptor: CInt

    /// - Throws: `.notLoaded` when there is no driver.
    public init() throws(DriverError) {
        descriptor = try checked(device_abi_open(), "open", "/dev/ploop-control")
    }

    deinit { _ = device_abi_close(descriptor) }

    /// Whether a driver that this program knows is loaded and may be used.
    public static var isLoaded: Bool {
        do throws(DriverError) { return try Driver().version() == PLOOP_CONTROL_VERSION } catch { return false }
    }

    public func version() throws(DriverError) -> UInt32 {
        var arg = ploop_version()
        try checked(unsafe device_abi_version(descriptor, &arg), "tell", "its version")
        return arg.version
    }

    /// Makes a device of a stack of files, base first, and starts it: all or nothing.
    public func attach(_ stack: [StackFile], _ settings: AttachSettings) throws(DriverError) -> DeviceIndex {
        guard settings.clusterBytes == 0 || settings.clusterBytes.nonzeroBitCount == 1,
            settings.clusterBytes == 0 || settings.clusterBytes >= 512, stack.count <= Int(PLOOP_LEVELS_MAX)
        else {
            throw DriverError(errno: .invalidArgument, "attach", "\(stack.count) images")
        }
        var deltas = stack.map { file in
            var delta = ploop_attach_delta()
            delta.fd = file.descriptor
            delta.format = UInt32(file.format == .raw ? PLOOP_FMT_RAW : PLOOP_FMT_PLOOP1)
            delta.io = file.engine.number
            return delta
        }
        var arg = ploop_attach()
        arg.flags = (settings.isReadOnly ? PLOOP_ATTACH_RDONLY : 0) | (settings.punchesHoles ? PLOOP_ATTACH_PUNCH : 0)
        arg.index = settings.index?.number ?? PLOOP_INDEX_ANY
        arg.cluster_log = settings.clusterBytes == 0 ? 0 : UInt32(settings.clusterBytes.trailingZeroBitCount - 9)
        arg.nr_deltas = UInt32(deltas.count)
        arg.max_delta_bytes = settings.deltaBytesMax
        arg.reserve_bytes = settings.reserveBytes
        try Self.setName(&arg.cookie, settings.cookie)
        let result = unsafe deltas.withUnsafeMutableBufferPointer { memory in
            arg.deltas = unsafe Self.address(memory.baseAddress)
            return unsafe device_abi_attach(descriptor, &arg)
        }
        try checked(result, "attach", "\(stack.count) images")
        return DeviceIndex(arg.index)
    }

    /// Stops the device and closes its images.
    /// - Parameter force: writes that wait for space are failed, so that they are not waited for.
    /// - Throws: `.busy` when it is open or mounted somewhere.
    public func detach(_ device: DeviceIndex, force: Bool = false) throws(DriverError) {
        var arg = ploop_ref()
        arg.flags = force ? PLOOP_DETACH_FORCE : 0
        arg.index = device.number
        try checked(unsafe device_abi_detach(descriptor, &arg), "detach", device.path)
    }

    public func status(of device: DeviceIndex) throws(DriverError) -> DriverStatus {
        var arg = ploop_status()
        arg.index = device.number
        try checked(unsafe device_abi_status(descriptor, &arg), "tell the state of", device.path)
        return DriverStatus(arg)
    }

    /// Changes the limits; writes that the old ones held back go on.
    public func setLimits(
        of device: DeviceIndex, deltaBytesMax: UInt64, reserveBytes: UInt64
    ) throws(DriverError) {
        var arg = ploop_limits()
        arg.index = device.number
        arg.max_delta_bytes = deltaBytesMax
        arg.reserve_bytes = reserveBytes
        try checked(unsafe device_abi_limits(descriptor, &arg), "change the limits of", device.path)
    }

    /// Makes writes to the device fail from now on, whoever has it open, or undoes that. Reads go on.
    public func setAborted(_ isAborted: Bool, _ device: DeviceIndex) throws(DriverError) {
        try checked(device_abi_set_aborted(device.number, isAborted ? 1 : 0), "abort", device.path)
    }

    // MARK: for all calls

    /// Copies a text into a `char[PLOOP_NAME_BYTES]`.
    static func setName<Field>(_ field: inout Field, _ text: String) throws(DriverError) {
        let result = unsafe withUnsafeMutableBytes(of: &field) { memory in
            unsafe device_abi_set_name(memory.baseAddress?.assumingMemoryBound(to: CChar.self), text)
        }
        try checked(result, "use", "the name \(text)")
    }

    static func name<Field>(_ field: Field) -> String {
        unsafe withUnsafeBytes(of: field) { memory in
            unsafe String(decoding: memory.prefix { $0 != 0 }, as: UTF8.self)
        }
    }

    static func address(_ memory: UnsafeMutableRawPointer?) -> UInt64 {
        UInt64(UInt(bitPattern: memory))
    }
}

extension StackFile.Engine {
    fileprivate var number: UInt32 {
        let number =
            switch self {
            case .automatic: PLOOP_IO_AUTO
            case .direct: PLOOP_IO_DIRECT
            case .buffered: PLOOP_IO_BUFFERED
            case .nfs: PLOOP_IO_NFS
            }
        return UInt32(number)
    }
}
