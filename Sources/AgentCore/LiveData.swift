internal import AgentAPI
internal import BlockIO
internal import DeviceControl
internal import DiskImage
internal import Geometry
internal import LinuxSystem
internal import Migration
internal import NBDBridge
internal import Synchronization

/// The data of an attached disk, read while others write it. See ``MigrationSource``.
protocol LiveData: AnyObject, Sendable {
    var byteCount: UInt64 { get }
    func read(_ ranges: [ByteRange], into memory: UnsafeMutableRawBufferPointer) throws(MigrationError)
    func dataRuns(in range: ByteRange) throws(MigrationError) -> (runs: [ByteRange], coveredTo: UInt64)
    func flush() throws(MigrationError)
}

/// Over NBD, from the disk's server.
final class ExportData: LiveData {
    let byteCount: UInt64
    /// `nil` once it has failed: a late answer is not to meet anybody.
    private let connection: Mutex<Connection?>

    private final class Connection: Sendable {
        let held: NBDConnection
        init(_ connection: consuming NBDConnection) { held = connection }
    }

    /// - Parameter shouldStop: asked by what waits for the server: a request waits there for what its host lacks.
    init(_ socket: String, shouldStop: @escaping @Sendable () -> Bool) throws(MigrationError) {
        let connection: NBDConnection
        do throws(NBDError) { connection = try NBDConnection(unixSocket: socket, shouldStop: shouldStop) } catch {
            throw MigrationError(.source, error.message)
        }
        byteCount = connection.export.byteCount
        self.connection = Mutex(Connection(connection))
    }

    func read(_ ranges: [ByteRange], into memory: UnsafeMutableRawBufferPointer) throws(MigrationError) {
        // The pointer does not leave the call.
        nonisolated(unsafe) let memory = unsafe memory
        try ask { connection throws(NBDError) in try unsafe connection.read(ranges, into: memory) }
    }

    func dataRuns(in range: ByteRange) throws(MigrationError) -> (runs: [ByteRange], coveredTo: UInt64) {
        let extents = try ask { connection throws(NBDError) in try connection.extents(in: range) }
        return (extents.filter { !$0.isZero }.map(\.range), extents.last?.range.end ?? range.end)
    }

    func flush() throws(MigrationError) { try ask { connection throws(NBDError) in try connection.flush() } }

    private func ask<R>(_ body: (borrowing NBDConnection) throws(NBDError) -> sending R) throws(MigrationError) -> R {
        do throws(NBDError) {
            return try connection.withLock { connection throws(NBDError) in
                guard let open = connection else { throw NBDError(.failed, "the connection has failed before") }
                do throws(NBDError) { return try body(open.held) } catch {
                    connection = nil
                    throw error
                }
            }
        } catch {
            throw MigrationError(.source, error.message)
        }
    }
}

/// From the driver's block device, past the page cache: what a file system writes does not go through the cache of its
/// device.
final class DeviceData: LiveData {
    let byteCount: UInt64
    private let clusterBytes: UInt64
    private let file: any StorageFile
    private let driver: Driver
    private let device: DeviceIndex
    private static let extentsMax = 4096

    /// - Parameter control: of the disk's owner, which knows the size.
    init(_ disk: AttachedDisk, _ control: ControlClient) throws(MigrationError) {
        guard let path = disk.device?.path, let number = UInt32(path.drop { !$0.isNumber }) else {
            throw MigrationError(.source, "\(disk.disk) has no block device")
        }
        device = DeviceIndex(number)
        do {
            let status = try control.status()
            // Numbers of devices are given anew: by now it may be another disk's.
            guard let own = status.device, own.isSame(as: path) else {
                throw MigrationError(
                    .source, "\(disk.disk) was detached and attached meanwhile: try again", cause: .disk(.busy))
            }
            byteCount = status.sizeBytes
            clusterBytes = status.clusterBytes
            file = try LinuxFileSystem().open(path, OpenMode(writable: false, direct: true))
            driver = try Driver()
        } catch let error as MigrationError {
            throw error
        } catch {
            throw MigrationError(.source, "\(error)")
        }
    }

    func read(_ ranges: [ByteRange], into memory: UnsafeMutableRawBufferPointer) throws(MigrationError) {
        var transfers: [Transfer] = unsafe []
        var position = 0
        for range in ranges {
            let part = position..<position + Int(range.count)
            unsafe transfers.append(
                Transfer(
                    .read, at: range.offset, memory: UnsafeMutableRawBufferPointer(rebasing: memory[part])))
            position = part.upperBound
        }
        do throws(SystemError) { try unsafe file.perform(transfers) } catch {
            throw MigrationError(.source, "\(error)")
        }
    }

    func dataRuns(in range: ByteRange) throws(MigrationError) -> (runs: [ByteRange], coveredTo: UInt64) {
        // The driver answers from the start of a cluster.
        let start = range.offset & ~(clusterBytes - 1)
        let whole = ByteRange(offset: start, count: range.end - start)
        do throws(DriverError) {
            let found = try driver.blockStatus(of: device, in: whole, limit: Self.extentsMax)
            let runs = found.extents.filter { $0.level != nil }.map { $0.range.intersection(range) }
            return (runs.filter { !$0.isEmpty }, found.coveredTo)
        } catch {
            throw MigrationError(.source, error.message)
        }
    }

    func flush() throws(MigrationError) {
        do throws(SystemError) { try file.synchronize() } catch { throw MigrationError(.source, "\(error)") }
    }
}
