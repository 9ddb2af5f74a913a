internal import CNBDKit
internal import DeviceServer
internal import DiskImage
internal import Geometry
internal import Synchronization

// What CNBDKit's plugin.c calls. nbdkit calls `configure` for each parameter, `start` when it is about to serve, then
// the requests from many threads, and `stop` when all connections have ended. Results are 0 or a positive errno.

/// The one disk of this nbdkit process.
private let plugin = Plugin()

private final class Plugin: Sendable {
    private let settings = Mutex(PluginParameters())
    /// Set once, before the first request: read without the lock on every request.
    private let running = AtomicLazyReference<DeviceServer>()

    var server: DeviceServer? { running.load() }
    var parameters: PluginParameters { settings.withLock { $0 } }

    func configure(_ key: String, _ value: String) throws(PluginError) {
        let failure: PluginError? = settings.withLock { settings in
            do throws(PluginError) { try settings.set(key, value) } catch { return error }
            return nil
        }
        if let failure { throw failure }
    }

    func start() throws(DiskError) {
        let parameters = parameters
        // The descriptor goes when the report is made: its reader needs an end.
        let report = parameters.report
        settings.withLock { $0.report = StartReport() }
        do throws(DiskError) {
            _ = running.storeIfNil(
                try DeviceServer.start(parameters.configuration, onShutdown: { cnbdkit_end() }))
        } catch {
            report.failed(error)
            throw error
        }
        if parameters.outlivesParent { cnbdkit_outlive_parent() }
        report.succeeded()
    }

    /// Does the request, and tells errno and log about its failure.
    func serve(_ body: (DeviceServer) throws(DeviceFault) -> Void) -> CInt {
        guard let server else { return PluginError.notStarted }
        do throws(DeviceFault) {
            try body(server)
            return 0
        } catch {
            unsafe cnbdkit_error(error.message)
            return error.number
        }
    }
}

@_cdecl("godwit_plugin_configure")
func configure(_ key: UnsafePointer<CChar>, _ value: UnsafePointer<CChar>) -> CInt {
    do throws(PluginError) {
        guard let key = unsafe String(validatingCString: key), let value = unsafe String(validatingCString: value)
        else {
            unsafe cnbdkit_error("a parameter is not UTF-8: rename the file, or whatever it names")
            return PluginError.invalidArgument
        }
        try plugin.configure(key, value)
        return 0
    } catch {
        unsafe cnbdkit_error(error.message)
        return PluginError.invalidArgument
    }
}

@_cdecl("godwit_plugin_check_configuration")
func checkConfiguration() -> CInt {
    guard plugin.parameters.configuration.disk.isEmpty else { return 0 }
    unsafe cnbdkit_error("say which disk: disk=DIR or disk=IMAGE")
    return PluginError.invalidArgument
}

@_cdecl("godwit_plugin_start")
func start() -> CInt {
    do throws(DiskError) {
        try plugin.start()
        return 0
    } catch {
        unsafe cnbdkit_error(error.message)
        return DeviceFault(error).number
    }
}

@_cdecl("godwit_plugin_stop")
func stop() -> CInt {
    do throws(DiskError) {
        try plugin.server?.stop()
        return 0
    } catch {
        unsafe cnbdkit_error(error.message)
        return DeviceFault(error).number
    }
}

@_cdecl("godwit_plugin_connected")
func connected(_ process: CInt) -> UInt64 {
    // Counted from 1: the handle that nbdkit keeps must not be NULL.
    plugin.server?.connected(process) ?? .max
}

@_cdecl("godwit_plugin_disconnected")
func disconnected(_ client: UInt64) { plugin.server?.disconnected(client) }

@_cdecl("godwit_plugin_is_read_only")
func isReadOnly() -> CInt { plugin.server?.isReadOnly == false ? 0 : 1 }

/// The size in bytes, or a negative errno.
@_cdecl("godwit_plugin_size")
func size() -> Int64 {
    var bytes: UInt64 = 0
    let failure = plugin.serve { server throws(DeviceFault) in bytes = try server.byteCount() }
    return failure == 0 ? Int64(bytes) : -Int64(failure)
}

@_cdecl("godwit_plugin_read")
func read(_ buffer: UnsafeMutableRawPointer, _ count: UInt64, _ offset: UInt64) -> CInt {
    plugin.serve { server throws(DeviceFault) in
        try unsafe server.read(at: offset, into: UnsafeMutableRawBufferPointer(start: buffer, count: Int(count)))
    }
}

@_cdecl("godwit_plugin_write")
func write(_ buffer: UnsafeRawPointer, _ count: UInt64, _ offset: UInt64, _ durable: CInt) -> CInt {
    plugin.serve { server throws(DeviceFault) in
        try unsafe server.write(
            at: offset, from: UnsafeRawBufferPointer(start: buffer, count: Int(count)), durable: durable != 0)
    }
}

@_cdecl("godwit_plugin_flush")
func flush() -> CInt { plugin.serve { server throws(DeviceFault) in try server.flush() } }

@_cdecl("godwit_plugin_discard")
func discard(_ count: UInt64, _ offset: UInt64, _ durable: CInt) -> CInt {
    plugin.serve { server throws(DeviceFault) in try server.discard(at: offset, count: count, durable: durable != 0) }
}

@_cdecl("godwit_plugin_zero")
func zero(_ count: UInt64, _ offset: UInt64, _ mayDiscard: CInt, _ durable: CInt) -> CInt {
    plugin.serve { server throws(DeviceFault) in
        try server.writeZeroes(at: offset, count: count, mayDiscard: mayDiscard != 0, durable: durable != 0)
    }
}

@_cdecl("godwit_plugin_extents")
func extents(_ count: UInt64, _ offset: UInt64, _ firstOnly: CInt, _ list: OpaquePointer) -> CInt {
    plugin.serve { server throws(DeviceFault) in
        for run in try server.extents(at: offset, count: count, limit: firstOnly != 0 ? 1 : Plugin.extentsMax) {
            let added = unsafe cnbdkit_add_extent(
                list, run.range.offset, run.range.count, run.isAllocated ? 0 : 1, run.isZero ? 1 : 0)
            guard added == 0 else {
                throw DeviceFault(number: PluginError.invalidArgument, message: "nbdkit refused a block status run")
            }
        }
    }
}

extension Plugin {
    /// Runs of one block status reply; a client asks again for the rest.
    fileprivate static let extentsMax = 4096
}
