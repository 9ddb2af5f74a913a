internal import AgentAPI
internal import BlockIO
public import DiskImage
internal import Geometry
internal import LinuxSystem

/// What a device server is started with.
public struct DeviceConfiguration: Hashable, Sendable {
    /// The disk's folder or image.
    public var disk: String
    /// Where to listen for ``ControlRequest``s; `nil`: nowhere.
    public var controlSocket: String?
    public var options: DiskOptions

    public init(disk: String, controlSocket: String? = nil, options: DiskOptions = .standard) {
        self.disk = disk
        self.controlSocket = controlSocket
        self.options = options
    }
}

/// One disk behind a block device: what NBD requests and the control socket do.
///
/// Requests come from any number of threads and block in them. All connections share one disk, so a flush on any of
/// them covers what was written on all.
public final class DeviceServer: Sendable {
    private let disk: Disk
    private let clients: NBDClients
    private let configuration: DeviceConfiguration
    private let owner: DiskOwner

    private init(_ engine: EngineDisk, configuration: DeviceConfiguration, owner: DiskOwner) {
        disk = engine.disk
        clients = engine.clients
        self.configuration = configuration
        self.owner = owner
    }

    /// Opens the disk, repairing it when it was not closed, and begins to listen for control requests.
    /// - Parameter onShutdown: called once the disk is closed after a `.shutdown` request: end the process.
    public static func start(
        _ configuration: DeviceConfiguration, onShutdown: @escaping @Sendable () -> Void = {}
    ) throws(DiskError) -> DeviceServer {
        ignoreBrokenPipes()
        let disk = try Disk.open(configuration.disk, in: LinuxFileSystem(), options: configuration.options)
        return try start(disk, configuration, onShutdown: onShutdown)
    }

    /// The same on a disk that is open already; it is closed by ``stop()``, or when this fails.
    static func start(
        _ disk: Disk, _ configuration: DeviceConfiguration, onShutdown: @escaping @Sendable () -> Void = {}
    ) throws(DiskError) -> DeviceServer {
        let engine = EngineDisk(disk, path: configuration.disk)
        do throws(SystemError) {
            let owner = try DiskOwner.start(
                engine, controlSocket: configuration.controlSocket, onShutdown: onShutdown)
            return DeviceServer(engine, configuration: configuration, owner: owner)
        } catch {
            throw DiskError(error, path: configuration.controlSocket ?? configuration.disk)
        }
    }

    /// Flushes and closes the disk, and ends all control connections. Later requests fail with ESHUTDOWN.
    public func stop() throws(DiskError) { try owner.stop() }

    // MARK: who is connected

    /// A client has connected: from now on the disk is not closed without force.
    /// - Parameter process: the client's; -1 where nobody knows.
    /// - Returns: what ``disconnected(_:)`` is to be told.
    public func connected(_ process: Int32) -> UInt64 { clients.connected(process) }
    public func disconnected(_ client: UInt64) { clients.disconnected(client) }
    /// A client asks for nothing more; what of it waits is to see whether it is still there.
    public func hasFallenSilent() { owner.hostWait.lookAgain() }

    // MARK: what the block device asks

    public var isReadOnly: Bool { configuration.options.readOnly }

    public func byteCount() throws(DeviceFault) -> UInt64 { try serve { disk.byteCount } }

    public func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(DeviceFault) {
        _ = try range(offset, UInt64(memory.count))
        try serve { () throws(DiskError) in try unsafe disk.read(at: offset, into: memory) }
    }

    public func write(at offset: UInt64, from memory: UnsafeRawBufferPointer, durable: Bool) throws(DeviceFault) {
        _ = try range(offset, UInt64(memory.count))
        try serve { () throws(DiskError) in try unsafe disk.write(at: offset, from: memory, durable: durable) }
    }

    public func flush() throws(DeviceFault) {
        // A reader's flush has nothing to do, and must not fail.
        guard !isReadOnly else { return }
        try serve { () throws(DiskError) in try disk.flush() }
    }

    /// A hint, so that a range that starts or ends within a sector is cut, not refused, and what the host lacks space
    /// for is left undone.
    public func discard(at offset: UInt64, count: UInt64, durable: Bool) throws(DeviceFault) {
        guard let range = ByteRange(checking: offset, count: count)?.alignedInward(to: sectorBytes) else {
            throw DeviceFault(number: DeviceFault.invalidArgument, message: "discard beyond 2^64")
        }
        guard durable else {
            return try serve { () throws(DiskError) in
                do throws(DiskError) { try disk.discard(range) } catch {
                    guard error.mayPass else { throw error }
                }
            }
        }
        try serve { () throws(DiskError) in
            try disk.discard(range)
            try disk.flush()
        }
    }

    public func writeZeroes(
        at offset: UInt64, count: UInt64, mayDiscard: Bool, durable: Bool
    ) throws(DeviceFault) {
        let range = try range(offset, count)
        try serve { () throws(DiskError) in try disk.writeZeroes(range, mayDiscard: mayDiscard, durable: durable) }
    }

    /// At most `limit` runs from `offset` on.
    public func extents(at offset: UInt64, count: UInt64, limit: Int) throws(DeviceFault) -> [DiskExtent] {
        guard let range = ByteRange(checking: offset, count: count) else {
            throw DeviceFault(number: DeviceFault.invalidArgument, message: "block status beyond 2^64")
        }
        return try serve { () throws(DiskError) in try disk.extents(in: range, limit: limit) }
    }

    /// Whole sectors only: a client that ignores the advertised block size is told so, instead of a slow and not atomic
    /// read, change and write behind its back.
    private func range(_ offset: UInt64, _ count: UInt64) throws(DeviceFault) -> ByteRange {
        guard let range = ByteRange(checking: offset, count: count), (offset | count) % sectorBytes == 0 else {
            throw DeviceFault(
                number: DeviceFault.invalidArgument,
                message: "request at \(offset) for \(count) bytes: not whole sectors of \(sectorBytes) bytes")
        }
        return range
    }

    private func serve<R>(_ body: () throws(DiskError) -> R) throws(DeviceFault) -> R {
        let result: R?
        do throws(DiskError) {
            // Outside the gate: it must not keep a disk from closing.
            result = try owner.hostWait.run { () throws(DiskError) in try owner.gate.pass(body) }
        } catch {
            throw owner.pause.isReleased ? Self.releasedFault : DeviceFault(error)
        }
        guard let result else { throw DeviceFault.shutDown("the disk is closed") }
        return result
    }

    private static let releasedFault = DeviceFault.shutDown("the disk belongs to another host")
}

extension ControlError {
    init(_ error: DiskError) { self.init(code: error.code.rawValue, message: error.message) }
}
