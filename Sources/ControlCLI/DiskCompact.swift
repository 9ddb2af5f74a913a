internal import AgentAPI
internal import AgentCore
internal import ArgumentParser
internal import BlockIO
internal import DiskImage
internal import Geometry

struct DiskCompact: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "compact", abstract: "Give space that a disk has freed back to the host, also while it is in use.",
        discussion: "Only the newest image is compacted: what was written since the last snapshot.")

    @Argument(help: .disk, completion: .directory) var disk: String
    @Option(help: ArgumentHelp("Move at most so much a second, such as 20M; the driver only.", valueName: "size"))
    var rate: SizeArgument?
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument.existing(disk, common.configuration())
        let attachments = DeviceAttachments()
        let before = try diskInfo(at: disk.path, in: LinuxFileSystem()).allocatedBytes
        let display = ProgressDisplay("compacting", common, counts: .items)
        defer { display.finish() }
        if try attachments.attached(disk.path) != nil {
            let control = try attachments.control(disk.path)
            _ = try Interruption.withCleanEnd {
                try control.call(.compact(bytesPerSecond: rate?.bytes ?? 0), progress: display.update)
            }
        } else {
            let opened = try Disk.open(disk.path, in: LinuxFileSystem())
            let isFinished: Bool
            do throws(DiskError) {
                isFinished = try Interruption.withCleanEnd { () throws(DiskError) in
                    try opened.compactNow(progress: display.update)
                }
            } catch {
                try? opened.close()
                throw error
            }
            try opened.close()
            guard isFinished else {
                throw CommandFailure(.interrupted, "the compaction was stopped: run the command again to go on")
            }
        }
        let after = try diskInfo(at: disk.path, in: LinuxFileSystem()).allocatedBytes
        let report = CompactReport(disk: disk.path, allocatedBytes: after, freedBytes: before - min(before, after))
        try Report(common).result(
            report,
            ["\(disk.path) takes \(SizeText.format(after)) on the host, \(SizeText.format(report.freedBytes)) less"])
    }
}

private struct CompactReport: Encodable {
    var disk: String
    var allocatedBytes: UInt64
    var freedBytes: UInt64
}
