public import AgentAPI
public import BlockIO
public import DiskImage

/// The states of a disk, whether it is attached or not.
public struct DiskSnapshots: Sendable {
    private let attachments: DeviceAttachments
    private let fs: any FileSystem

    public init(attachments: DeviceAttachments = DeviceAttachments(), fs: any FileSystem = LinuxFileSystem()) {
        self.attachments = attachments
        self.fs = fs
    }

    public func list(_ path: String) throws(DiskAccessError) -> [SnapshotStatus] {
        do {
            if try attachments.attached(path) != nil {
                guard case .snapshots(let list) = try attachments.control(path).call(.listSnapshots) else {
                    throw AgentError(
                        .protocolViolation, "the server of \(path) does not list snapshots: attach it again")
                }
                return list
            }
            return try Disk.open(path, in: fs, options: .readOnly).snapshots().map {
                SnapshotStatus(
                    guid: $0.guid, parent: $0.parent, file: $0.file, isTop: $0.isTop, isTemporary: $0.isTemporary,
                    allocatedBytes: $0.allocatedBytes)
            }
        } catch { throw DiskAccessError(error) }
    }

    /// Merges the delta above the state `guid` into it.
    /// - Parameter progress: told of clusters done and in all; `false` stops it, and a later call goes on.
    /// - Returns: whether it was finished.
    public func delete(
        _ guid: String, of path: String, progress: (_ done: UInt64, _ total: UInt64) -> Bool = { _, _ in true }
    ) throws(DiskAccessError) -> Bool {
        do {
            if try attachments.attached(path) != nil {
                let control = try attachments.control(path)
                do throws(ControlError) {
                    _ = try control.call(.deleteSnapshot(guid: guid), progress: progress)
                    return true
                } catch  where error.code == ControlError.stopped {
                    return false
                }
            }
            let disk = try Disk.open(path, in: fs)
            let isFinished: Bool
            do throws(DiskError) { isFinished = try disk.deleteSnapshot(guid, progress: progress) } catch {
                try? disk.close()
                throw error
            }
            try disk.close()
            return isFinished
        } catch { throw DiskAccessError(error) }
    }
}

/// Why something can't be done with a disk that may be attached or not.
public enum DiskAccessError: Error, Hashable, Sendable {
    case agent(AgentError)
    case control(ControlError)
    case disk(DiskError)

    /// - Parameter error: of one of the three kinds.
    init(_ error: any Error) {
        if let error = error as? AgentError {
            self = .agent(error)
        } else if let error = error as? ControlError {
            self = .control(error)
        } else {
            self = .disk(error as? DiskError ?? DiskError(.io, "\(error)", path: ""))
        }
    }
}
