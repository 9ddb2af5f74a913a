internal import AgentAPI
internal import AgentCore
internal import ArgumentParser
internal import Geometry

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show the attached disks of this host and what they do.")

    @Argument(help: "Only these disks.", completion: .directory) var disks: [String] = []
    @OptionGroup var common: CommonOptions

    func run() throws {
        let configuration = try common.configuration()
        let attachments = DeviceAttachments()
        var list: [AttachedDisk] = []
        if disks.isEmpty {
            list = try attachments.records()
        } else {
            for text in disks {
                let disk = try DiskArgument.existing(text, configuration)
                guard let attached = try attachments.record(disk.path) else {
                    throw CommandFailure(.notAttached, "\(disk.path) is not attached: use 'godwit disk attach' first")
                }
                list.append(attached)
            }
        }
        let reports = try attachments.states(of: list).map { StatusReport($0) }
        var rows = [["DISK", "STATE", "SIZE", "PID", "DELTAS", "READ", "WRITTEN", "DEVICE", "MOUNTED AT"]]
        for report in reports {
            rows.append([
                report.attachment.disk, report.state.rawValue,
                report.server.map { SizeText.format($0.sizeBytes) } ?? "-",
                "\(report.attachment.pid)", report.server.map { "\($0.deltas)" } ?? "-",
                report.server.map { SizeText.format($0.readBytes) } ?? "-",
                report.server.map { SizeText.format($0.writeBytes) } ?? "-",
                report.attachment.device ?? "-", report.attachment.mountpoint ?? "-",
            ])
        }
        let lines = reports.isEmpty ? ["no disk is attached"] : Report.columns(rows)
        try Report(common).result(["disks": reports], lines + reports.flatMap(\.notes))
    }
}

private struct StatusReport: Encodable {
    var attachment: AttachedReport
    var state: AttachmentState.Word
    /// `nil` when the server does not answer.
    var server: DeviceStatus?

    init(_ state: AttachmentState) {
        attachment = AttachedReport(state.record)
        self.state = state.word
        server = state.server
    }

    /// What is wrong, and what to do about it, for people.
    var notes: [String] {
        let remark: String? =
            switch state {
            case .serving, .paused: nil
            case .starting: "its server opens it, and repairs it where it was not closed"
            case .released: "it belongs to another host, and every request fails: see 'godwit migrate --recover'"
            case .full: "writes wait for space on the host"
            case .waiting: "requests wait for the host: \(server?.waitsFor ?? "it says not for what")"
            case .failed where server?.isAborted == true:
                "writes fail after an error of the host; detach and attach the disk"
            case .failed: "its nbdfuse has ended, and every request to its device fails; unmount the disk"
            case .silent: "its server gives no sign: it or its storage hangs; 'godwit disk detach --force' ends it"
            case .dead: "its server has ended; 'godwit disk detach' clears up, 'godwit disk attach' serves it again"
            }
        return remark.map { ["\(attachment.disk): \($0)"] } ?? []
    }
}
