internal import ArgumentParser

struct DiskCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "disk", abstract: "Create, convert, inspect, attach and mount disks.",
        subcommands: [
            DiskCreate.self, DiskImport.self, DiskExport.self, DiskInfoCommand.self, DiskCheck.self, DiskAttach.self,
            DiskDetach.self, DiskMount.self, DiskUmount.self, DiskResize.self, DiskCompact.self,
        ])
}
