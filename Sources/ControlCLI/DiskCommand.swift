internal import ArgumentParser

struct DiskCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "disk", abstract: "Create, convert, inspect, attach and mount disks.",
        subcommands: [
            DiskAttach.self, DiskDetach.self, DiskMount.self, DiskUmount.self, DiskResize.self,
        ])
}
