internal import AgentAPI
public import DeviceServer
internal import DiskImage
public import LinuxSystem

/// The process that serves a disk over NBD with the engine: from its attachment to its detachment.
public enum DiskProcess {
    /// What the kernel shows as its name, of 15 bytes at most.
    private static let name = "godwit-nbd"

    /// Serves until a request on the control socket, or a signal, says to end. The disk is closed then.
    /// - Parameters:
    ///   - socket: where NBD clients connect.
    ///   - report: gets one ``ControlReply`` line, whether the start went well; closed after it.
    /// - Returns: the exit status: 1 when the start or the disk's closing failed. End the process without delay:
    ///   threads of clients may still run.
    public static func run(
        _ configuration: DeviceConfiguration, socket: String, report: consuming OwnedDescriptor
    ) -> Int32 {
        ignoreBrokenPipes()
        try? openDescriptor("/proc/self/comm", writable: true).writeAll(Array(name.utf8))
        let log = FaultLog()
        do {
            let signals = try SignalWatch([Signal.terminate, Signal.interrupt, Signal.hangUp])
            let ended = try WakeEvent()
            let device: DeviceServer
            let listener: ExportListener
            do throws(DiskError) {
                (device, listener) = try start(configuration, socket, ended)
            } catch {
                log.say(error.message)
                try? LineChannel(adopting: report).send(
                    ControlReply.failed(code: error.code.rawValue, message: error.message))
                return 1
            }
            // Who is gone needs no report; its reader needs an end, so that the channel is dropped here.
            try? LineChannel(adopting: report).send(ControlReply.done)
            return try wait(device, listener, signals, ended, log)
        } catch {
            log.say("\(error)")
            return 1
        }
    }

    private static func start(
        _ configuration: DeviceConfiguration, _ socket: String, _ ended: WakeEvent
    ) throws(DiskError) -> (DeviceServer, ExportListener) {
        let device = try DeviceServer.start(configuration) { ended.wake() }
        do throws(SystemError) {
            return (device, try ExportListener.start(at: socket, device: device))
        } catch {
            try? device.stop()
            throw DiskError(error, path: socket)
        }
    }

    private static func wait(
        _ device: DeviceServer, _ listener: ExportListener, _ signals: SignalWatch, _ ended: WakeEvent,
        _ log: FaultLog
    ) throws(SystemError) -> Int32 {
        var entries = [PollEntry(ended.descriptor, .readable), PollEntry(signals.descriptor, .readable)]
        try pollDescriptors(&entries, deadlineMilliseconds: nil)
        guard entries[0].ready.isEmpty else {
            // The disk is closed, and whoever asked for it is told. Clients that are left are cut off with the process.
            listener.removeSocket()
            return 0
        }
        defer { listener.stop() }
        do throws(DiskError) { try device.stop() } catch {
            log.say(error.message)
            return 1
        }
        return 0
    }
}
