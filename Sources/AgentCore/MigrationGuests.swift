internal import BlockIO
internal import LinuxSystem
public import Migration
internal import Synchronization

/// What uses an attached disk on this host: the guest that the hooks stop and start, and file systems mounted here.
public final class AttachedGuest: GuestControl {
    private struct State {
        var unmounted: GuestStopNote?
        var frozen: Freeze?
        var ranStopHook = false
    }
    private let disk: String
    private let attachments: DeviceAttachments
    private let hooks: HookRunner
    private let freezeMilliseconds: UInt64
    private let state = Mutex(State())

    /// - Parameter freezeMilliseconds: after this time frozen file systems thaw by themselves.
    public init(disk: String, attachments: DeviceAttachments, hooks: HookRunner, freezeMilliseconds: UInt64) {
        self.freezeMilliseconds = freezeMilliseconds
        self.disk = disk
        self.attachments = attachments
        self.hooks = hooks
    }

    private static let settleSeconds = 600

    /// By a process of its own, which can be left when the disk's server hangs, or waits for space.
    public func settle() {
        // What this can't do is done by the stop, only later.
        guard let attached = (try? attachments.attached(disk)).flatMap({ $0 }) else { return }
        let server = ServerSign(controlSocket: attached.controlSocket)
        for mountpoint in (try? attachments.mountpoints(of: disk)) ?? [] where server.stall() == nil {
            _ = try? runCommand("sync", ["-f", mountpoint], limitSeconds: Self.settleSeconds, server: server)
        }
    }

    public func stopNote() -> GuestStopNote? {
        guard hooks.has(.stop) else { return nil }
        let attached = try? attachments.attached(disk)
        return GuestStopNote(mountpoint: attached?.mountpoint, partition: attached?.device?.partition)
    }

    /// With a stop hook the guest ends and its file system is unmounted, so that the target finds it clean. Without one
    /// the file system is frozen where it is mounted.
    public func stop() throws(MigrationError) {
        do throws(AgentError) {
            let hasHook = hooks.has(.stop)
            if hasHook {
                state.withLock { $0.ranStopHook = true }
                try hooks.run(.stop, environment: ["GODWIT_DISK": disk])
            }
            let attached = try attachments.attached(disk)
            guard let device = attached?.device else { return }
            if hasHook, let elsewhere = try DeviceTree.mountsElsewhere(on: device.path).first {
                throw AgentError(.inUse, "\(disk) is still \(elsewhere.user) after the stop hook")
            }
            if hasHook, let mountpoint = attached?.mountpoint, try !DeviceTree.mounts(on: device.path).isEmpty {
                let note = GuestStopNote(mountpoint: mountpoint, partition: device.partition)
                // Before: an unmount that fails may still have unmounted.
                state.withLock { $0.unmounted = note }
                try attachments.unmount(disk)
                return
            }
            // The driver freezes what it can when its writes are paused.
            let targets = try DeviceTree.toFreeze(on: device.path, isOfDriver: attached?.backend == .kernel)
            guard !targets.isEmpty else { return }
            if let stall = attached.flatMap({ ServerSign(controlSocket: $0.controlSocket).stall() }) { throw stall }
            // Should it expire, the server still holds the writes back.
            let freeze = try Freeze(
                targets, deadlineMilliseconds: freezeMilliseconds,
                executable: Installation.executable())
            state.withLock { $0.frozen = freeze }
        } catch {
            throw MigrationError(.guest, error.message)
        }
    }

    public func restart() throws(MigrationError) {
        let was = state.withLock { state in
            defer { state = State() }
            return state
        }
        _ = try? was.frozen?.thaw()
        do throws(AgentError) {
            if let note = was.unmounted { try mountAgain(note, attachments.attached(disk)) }
            if was.ranStopHook { try runStartHook() }
        } catch {
            throw MigrationError(.guest, "the guest could not be started again: \(error.message)")
        }
    }

    /// Starts the guest again that another process had stopped, which is gone.
    func restart(_ note: GuestStopNote) throws(MigrationError) {
        do throws(AgentError) {
            if let attached = try attachments.attached(disk) { try mountAgain(note, attached) }
            try runStartHook()
        } catch {
            throw MigrationError(.guest, "the guest could not be started again: \(error.message)")
        }
    }

    private func mountAgain(_ note: GuestStopNote, _ attached: AttachedDisk?) throws(AgentError) {
        guard let mountpoint = note.mountpoint, attached?.mountpoint != mountpoint else { return }
        var options = MountOptions()
        options.partition = note.partition
        _ = try attachments.mount(disk, at: mountpoint, options: options)
    }

    /// That something has stopped the guest does not say that anything starts it.
    private func runStartHook() throws(AgentError) {
        guard hooks.has(.start) else {
            throw AgentError(
                .invalid,
                "there is no start hook: name one with 'godwit migrate --recover --start-command', or 'true' there "
                    + "once it was started by hand")
        }
        try hooks.run(.start, environment: ["GODWIT_DISK": disk])
    }

    /// The disk has gone: lets go of what still holds its file system here.
    func forget() {
        let was = state.withLock { state in
            defer { state = State() }
            return state
        }
        _ = try? was.frozen?.thaw()
    }
}

/// Starts the guest of a disk that has arrived.
public struct ArrivedGuest: TargetGuest {
    private let attachments: DeviceAttachments
    /// The start hook of the target's own configuration.
    private let hooks: @Sendable (_ folder: String) -> HookRunner
    /// Whether a command that the source sends is run. Off where a forced command confines the peer.
    private let allowsCommands: Bool
    private let attach: AttachOptions
    /// Of a recovery by hand, in the place of what is on record.
    private let startCommand: String?

    public init(
        attachments: DeviceAttachments, attach: AttachOptions = AttachOptions(), allowsCommands: Bool,
        startCommand: String? = nil, hooks: @escaping @Sendable (_ folder: String) -> HookRunner
    ) {
        self.startCommand = startCommand
        self.attachments = attachments
        self.attach = attach
        self.allowsCommands = allowsCommands
        self.hooks = hooks
    }

    public var isToldHow: Bool { startCommand != nil }

    public func objection(to command: String) -> String? {
        allowsCommands
            ? nil
            : "runs no commands of a peer: give its agent --allow-commands, or leave --start-command out and set a "
                + "start hook in its godwit.toml"
    }

    public func start(folder: String, command: String?, attempt: Int) throws(MigrationError) {
        do throws(AgentError) {
            var runner = hooks(folder)
            if let command = startCommand ?? command {
                if startCommand == nil, let objection = objection(to: command) {
                    throw AgentError(
                        .unsupported,
                        "this host \(objection); now 'godwit migrate --recover --start-command' here starts the guest")
                }
                runner = HookRunner(hooks: [.start: Hook(command: command, limitSeconds: 120)])
            }
            // A disk without a guest that is started by itself waits for whoever wants it.
            guard runner.has(.start) else { return }
            if try attachments.attached(folder) == nil { _ = try attachments.attach(folder, options: attach) }
            try runner.run(.start, environment: ["GODWIT_DISK": folder, "GODWIT_ATTEMPT": "\(attempt)"])
        } catch {
            throw MigrationError(.guest, error.message)
        }
    }
}
