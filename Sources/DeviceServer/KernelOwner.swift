internal import AgentAPI
public import DeviceControl
internal import DiskImage
public import LinuxSystem
internal import SystemPackage

/// The process that owns a disk which the driver serves: from its attachment to its detachment, unless it dies.
public enum KernelOwner {
    /// - Parameters:
    ///   - leftBehind: the device of an owner of this disk that has died.
    ///   - report: gets one ``ControlReply`` line, whether the start went well; closed after it.
    /// - Returns: the exit status.
    public static func run(
        _ configuration: DeviceConfiguration, leftBehind: DeviceIndex?, report: consuming OwnedDescriptor
    ) -> Int32 {
        ignoreBrokenPipes()
        let channel = LineChannel(adopting: report)
        do {
            let signals = try SignalWatch([Signal.terminate, Signal.interrupt, Signal.hangUp])
            let ended = try Pipe()
            let number = ended.writing.number
            let disk: KernelDisk
            let owner: DiskOwner
            do throws(DiskError) {
                disk = try KernelDisk.start(
                    configuration.disk, options: configuration.options, leftBehind: leftBehind)
                do throws(SystemError) {
                    owner = try DiskOwner.start(disk, controlSocket: configuration.controlSocket) {
                        Self.tellEnd(number)
                    }
                } catch {
                    throw DiskError(error, path: configuration.controlSocket ?? configuration.disk)
                }
            } catch {
                log.say("\(configuration.disk): \(error)")
                try? channel.send(ControlReply.failed(code: error.code.rawValue, message: error.message))
                return 1
            }
            try channel.send(ControlReply.done)
            channel.end()
            try wait(owner, disk, signals, ended.reading.number)
            withExtendedLifetime(ended) {}
            return 0
        } catch {
            log.say("\(error)")
            return 1
        }
    }

    private static func tellEnd(_ descriptor: CInt) {
        if let copy = try? OwnedDescriptor(duplicating: descriptor) { try? copy.writeAll([0]) }
    }

    /// Until the disk is closed, or a signal says so; a device in use then stays for the next owner.
    private static func wait(
        _ owner: DiskOwner, _ disk: KernelDisk, _ signals: SignalWatch, _ ended: CInt
    ) throws {
        let events = try DriverEvents(of: disk.device)
        while true {
            var entries = [
                PollEntry(ended, .readable), PollEntry(signals.descriptor, .readable),
                PollEntry(events.descriptor, .readable),
            ]
            try pollDescriptors(&entries, deadlineMilliseconds: nil)
            if !entries[2].ready.isEmpty {
                for event in try events.next(waitMilliseconds: 0) {
                    tell(event, disk)
                    // Another tool stopped it: there is nothing to own any more.
                    if event.kind == .stopped, !disk.state.withLock({ $0.isClosing }) {
                        disk.held.deviceHasGone()
                        return
                    }
                }
            }
            if !entries[0].ready.isEmpty { return }
            guard !entries[1].ready.isEmpty else { continue }
            _ = try signals.next()
            do throws(DiskError) { try owner.stop() } catch { log.say("\(error)") }
            return
        }
    }

    private static let log = FaultLog()

    private static func tell(_ event: DriverEvent, _ disk: KernelDisk) {
        switch event.kind {
        case .outOfSpace(let isLimit):
            log.say(
                "\(disk.held.path): " + (isLimit ? "the limit of the top's file is reached" : "the host is full")
                    + "; writes wait for space")
        case .hasSpace: log.say("\(disk.held.path): there is space again, writes go on")
        case .aborted(let errno): log.say("\(disk.held.path): writes fail from now on: \(errno.description)")
        default: break
        }
    }
}
