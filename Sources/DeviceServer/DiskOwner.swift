internal import AgentAPI
internal import DiskImage
internal import LinuxSystem
internal import Synchronization

/// The owner of one disk: its control socket, its pause, and its end.
final class DiskOwner: Sendable {
    let disk: any ControlledDisk
    let pause: WritePause
    let gate: RequestGate
    /// Of the engine's requests: the driver has one of its own.
    let hostWait: HostWait
    /// How many maps of changes there are.
    let trackers = Mutex(0)
    private let listener = Mutex<ControlListener?>(nil)
    private let onShutdown: @Sendable () -> Void
    /// How closing the disk went. Held while it is closed, so that nobody takes a close that has begun for one that is
    /// done.
    private let closing = Mutex<Result<Void, DiskError>?>(nil)

    private init(_ disk: any ControlledDisk, gate: RequestGate, onShutdown: @escaping @Sendable () -> Void) {
        self.disk = disk
        self.gate = gate
        self.onShutdown = onShutdown
        hostWait = HostWait(path: disk.location)
        pause = WritePause(
            hold: { milliseconds throws(ControlError) in
                do throws(DiskError) { try disk.holdWrites(milliseconds: milliseconds) } catch {
                    throw ControlError(error)
                }
            },
            letGo: { disk.letWritesGo() },
            handover: WritePause.HandoverSteps(
                begin: { () throws(DiskError) in try disk.beginRelease() }, finish: { disk.finishRelease() },
                cancel: { disk.cancelRelease() }, isGivenAway: { (try? disk.isGivenAway()) ?? true }))
    }

    /// Begins to listen. Takes the disk over: when this fails, it is closed.
    /// - Parameter onShutdown: called once the disk is closed after a `.shutdown` request: end the process.
    static func start(
        _ disk: any ControlledDisk, controlSocket: String?, onShutdown: @escaping @Sendable () -> Void
    ) throws(SystemError) -> DiskOwner {
        do throws(SystemError) {
            let owner = DiskOwner(disk, gate: try RequestGate(), onShutdown: onShutdown)
            if let controlSocket {
                let listener = try ControlListener.start(at: controlSocket, owner: owner)
                owner.listener.withLock { $0 = listener }
            }
            return owner
        } catch {
            try? disk.close()
            throw error
        }
    }

    /// Flushes and closes the disk, and ends all control connections.
    func stop() throws(DiskError) {
        let listener = listener.withLock { listener in
            defer { listener = nil }
            return listener
        }
        pause.failRelease()
        listener?.stop()
        try closeDisk(isForced: true)
    }

    /// The same for a request to shut down, whose own connection lives on until it is answered. Who asks again is told
    /// how the first time went.
    /// - Throws: `.busy` when somebody uses the device; then nothing has changed.
    func closeDisk(isForced: Bool) throws(DiskError) {
        let result = closing.withLock { outcome -> Result<Void, DiskError> in
            if let outcome { return outcome }
            do throws(DiskError) { try disk.prepareToClose(isForced: isForced) } catch { return .failure(error) }
            let made = closeInTurn()
            outcome = made
            return made
        }
        try result.get()
    }

    private func closeInTurn() -> Result<Void, DiskError> {
        guard gate.shut() else { return .success(()) }
        // Writes that are held back have to go on, or fail, before the last request can leave.
        pause.close()
        hostWait.end()
        gate.awaitEmpty()
        do throws(DiskError) {
            try disk.close()
            return .success(())
        } catch {
            return .failure(error)
        }
    }

    func finishShutdown() { onShutdown() }

    /// Also answered once the disk is released.
    func status() throws(ControlError) -> DeviceStatus {
        let answer: DeviceStatus?
        do throws(DiskError) { answer = try gate.pass { () throws(DiskError) in try disk.status() } } catch {
            throw ControlError(error)
        }
        guard var status = answer else { throw WritePause.closed }
        status.isPaused = pause.isPaused
        status.isReleased = pause.isReleased
        status.isTracked = trackers.withLock { $0 > 0 }
        if let reason = hostWait.reason {
            status.waitsFor = reason.message
            if reason.code == .outOfSpace { status.isOutOfSpace = true }
        }
        return status
    }
}
