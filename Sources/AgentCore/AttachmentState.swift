public import AgentAPI
internal import Geometry
internal import LinuxSystem

/// An attachment as it is found: what is on record, what its server says, and where it is mounted by now.
public struct AttachmentState: Sendable {
    /// In a word.
    public enum Word: String, Encodable, Hashable, Sendable {
        case serving
        /// Its server opens it: it may be repairing it.
        case starting
        /// Writes are held back.
        case paused
        /// It belongs to another host: all requests fail.
        case released
        /// Writes wait for space on the host.
        case full
        /// Requests wait for the host: it has no memory, or a server of it does not answer.
        case waiting
        /// Writes fail, after an error of the host; or all requests to the block device, whose nbdfuse has ended.
        case failed
        /// Its server gives no sign.
        case silent = "not answering"
        /// Its server has ended, and has left something.
        case dead
    }
    /// With the mount point that there really is.
    public var record: AttachedDisk
    public var word: Word
    /// `nil` when the server does not answer.
    public var server: DeviceStatus?
}

extension DeviceAttachments {
    private static let glanceMilliseconds: UInt64 = 3_000

    /// Asks all servers at once, and waits for none of them for long.
    public func states(of records: [AttachedDisk]) throws(AgentError) -> [AttachmentState] {
        let answers = Monitor([Int: AttachmentState]())
        let (glance, count) = (Self.glanceMilliseconds, records.count)
        for (index, record) in records.enumerated() {
            try withAgentError { () throws(SystemError) in
                // Not joined: one that hangs in the kernel must not hold the others up.
                _ = try OwnThread(name: "status") {
                    var record = record
                    // The driver's device goes on without its owner, and gets another one.
                    if record.backend == .kernel, let owned = try? attached(record.disk) { record = owned }
                    let state = Self.state(of: record, silenceMilliseconds: glance)
                    answers.change { $0[index] = state }
                }
            }
        }
        // The mount table is looked into as well, so a little more than the servers have.
        let deadline = SystemTime().monotonic() + 2 * Self.glanceMilliseconds * 1_000_000
        _ = answers.wait(until: deadline) { $0.count == count ? () : nil }
        let known = answers.withLock { $0 }
        return records.enumerated().map { known[$0] ?? AttachmentState(record: $1, word: .silent, server: nil) }
    }

    private static func state(of record: AttachedDisk, silenceMilliseconds: UInt64) -> AttachmentState {
        var state = AttachmentState(record: record, word: .dead, server: nil)
        if let device = record.device {
            let mounts = (try? DeviceTree.mounts(on: device.path, all: true)) ?? []
            let isThere = record.mountpoint.map { mounts.map(\.mountPoint).hasSame(as: $0) } == true
            state.record.mountpoint = isThere ? record.mountpoint : mounts.first?.mountPoint
        }
        guard (try? record.server.handle()).flatMap({ $0 }) != nil else { return state }
        do throws(ControlError) {
            let control = try ControlClient.connect(
                record.controlSocket, silenceMilliseconds: silenceMilliseconds)
            let status = try control.status()
            state.server = status
            state.word = hasLostFuse(record) ? .failed : word(for: status)
        } catch {
            state.word = error.code == ControlError.unreachable ? .starting : .silent
        }
        return state
    }

    private static func hasLostFuse(_ record: AttachedDisk) -> Bool {
        guard let fuse = record.device?.fuse else { return false }
        do throws(AgentError) { return try fuse.handle() == nil } catch { return false }
    }

    private static func word(for status: DeviceStatus) -> AttachmentState.Word {
        if status.isReleased { return .released }
        if status.isAborted == true { return .failed }
        if status.isOutOfSpace == true { return .full }
        if status.waitsFor != nil { return .waiting }
        return status.isPaused ? .paused : .serving
    }
}
