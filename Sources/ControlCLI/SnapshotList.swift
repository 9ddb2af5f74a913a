internal import AgentAPI
internal import AgentCore
internal import ArgumentParser
internal import BlockIO
internal import DiskImage
internal import Geometry

struct SnapshotList: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "list", abstract: "Show the states of a disk.")

    @Argument(help: .disk) var disk: String
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument.existing(disk, common.configuration())
        let snapshots = try DiskStates.list(disk.path)
        var rows = [["SNAPSHOT", "PARENT", "ON HOST", "FILE", ""]]
        for snapshot in snapshots {
            let kind = snapshot.isTop ? "top" : snapshot.isTemporary ? "temporary" : ""
            rows.append([
                snapshot.guid, snapshot.parent ?? "-", SizeText.format(snapshot.allocatedBytes), snapshot.file, kind,
            ])
        }
        try Report(common).result(["snapshots": snapshots], Report.columns(rows))
    }
}

/// The states of a disk, whether it is attached or not.
enum DiskStates {
    static func list(_ path: String) throws(CommandFailure) -> [SnapshotStatus] {
        try translated {
            let attachments = DeviceAttachments()
            if try attachments.attached(path) != nil {
                guard case .snapshots(let list) = try attachments.control(path).call(.listSnapshots) else {
                    throw CommandFailure(.peerProtocol, "the server of \(path) does not list snapshots: attach it again")
                }
                return list
            }
            return try Disk.open(path, in: LinuxFileSystem(), options: .readOnly).snapshots().map {
                SnapshotStatus(
                    guid: $0.guid, parent: $0.parent, file: $0.file, isTop: $0.isTop, isTemporary: $0.isTemporary,
                    allocatedBytes: $0.allocatedBytes)
            }
        }
    }

    /// Merges the delta above the state `guid` into it, whether the disk is attached or not.
    /// - Returns: whether it was finished; it was not after Ctrl-C.
    static func delete(
        _ path: String, _ guid: String, progress: (UInt64, UInt64) -> Bool
    ) throws(CommandFailure) -> Bool {
        try translated {
            let attachments = DeviceAttachments()
            if try attachments.attached(path) != nil {
                let control = try attachments.control(path)
                do throws(ControlError) {
                    _ = try control.call(.deleteSnapshot(guid: guid), progress: progress)
                    return true
                } catch where error.code == ControlError.stopped {
                    return false
                }
            }
            let disk = try Disk.open(path, in: LinuxFileSystem())
            let isFinished = try disk.deleteSnapshot(guid, progress: progress)
            try disk.close()
            return isFinished
        }
    }
}
