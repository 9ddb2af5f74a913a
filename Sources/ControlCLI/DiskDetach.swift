internal import AgentCore
internal import ArgumentParser

struct DiskDetach: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "detach", abstract: "Unmount a disk, close it and end its server.",
        discussion: "Also clears up after a server that died.")

    @Argument(help: .image, completion: .file()) var disk: String
    @Flag(help: "Cut off whoever uses it: NBD clients, and what has its device open or mounted.") var force = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument(disk, common.configuration())
        try DeviceAttachments().detach(disk.path, isForced: force)
        try Report(common).result(DoneReport(disk: disk.path), ["\(disk.path) is detached"])
    }
}

/// What commands tell in JSON that only do something.
struct DoneReport: Encodable {
    var disk: String
}
