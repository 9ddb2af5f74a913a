internal import AgentAPI
internal import AgentCore
internal import ArgumentParser
internal import Geometry

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show the attached disks of this host and what they do.")

    @Argument(help: "Only these disks.") var disks: [String] = []
    @OptionGroup var common: CommonOptions

    func run() throws {
        let configuration = try common.configuration()
        let attachments = DeviceAttachments()
        var list: [AttachedDisk] = []
        if disks.isEmpty {
            list = try attachments.list()
        } else {
            for text in disks {
                let disk = try DiskArgument.existing(text, configuration)
                guard let attached = try attachments.attached(disk.path) else {
                    throw CommandFailure(.notAttached, "\(disk.path) is not attached: use 'godwit disk attach' first")
                }
                list.append(attached)
            }
        }
        var reports: [StatusReport] = []
        for attached in list {
            var report = StatusReport(attachment: AttachedReport(attached), server: nil)
            if case .status(let status)? = try? attachments.control(attached.disk).call(.status) {
                report.server = status
            }
            reports.append(report)
        }
        var rows = [["DISK", "SIZE", "PID", "DELTAS", "READ", "WRITTEN", "DEVICE", "MOUNTED AT"]]
        for report in reports {
            rows.append([
                report.attachment.disk, report.server.map { SizeText.format($0.sizeBytes) } ?? "-",
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
    /// `nil` when the server does not answer.
    var server: DeviceStatus?

    /// What is wrong, for people.
    var notes: [String] {
        var notes: [String] = []
        if server?.isOutOfSpace == true { notes.append("\(attachment.disk): writes wait for space on the host") }
        if server?.isAborted == true {
            notes.append("\(attachment.disk): writes fail after an error of the host; detach and attach the disk")
        }
        if server?.isReleased == true {
            notes.append(
                "\(attachment.disk): handed to another host; 'godwit migrate --recover' finishes that")
        }
        return notes
    }
}
