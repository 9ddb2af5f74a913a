internal import AgentCore
internal import ArgumentParser

struct DiskMount: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mount", abstract: "Mount the file system on a disk; attaches the disk first if needed.")

    @Argument(help: .image, completion: .file()) var disk: String
    @Argument(help: "An existing folder.", completion: .directory) var mountpoint: String
    @Option(
        name: [.customShort("t"), .long], help: ArgumentHelp("The file system, as in mount(8).", valueName: "type"))
    var type: String?
    @Option(name: [.customShort("o"), .long], help: ArgumentHelp("Mount options, as in mount(8).", valueName: "list"))
    var options: String?
    @Option(help: ArgumentHelp("A partition, from 1; without it the whole disk.", valueName: "number"))
    var partition: Int?
    @Flag(help: "Nothing may be written.") var readOnly = false
    @OptionGroup var served: BackendOption
    @OptionGroup var common: CommonOptions

    func validate() throws {
        if let partition, partition < 1 { throw ValidationError("--partition counts from 1, not \(partition)") }
    }

    func run() throws {
        let configuration = try common.configuration()
        let disk = try DiskArgument.existing(disk, configuration)
        var attach = AttachOptions()
        attach.readOnly = readOnly
        attach.backend = served.backend(configuration)
        var mount = MountOptions()
        mount.fileSystem = type
        mount.options = options
        mount.partition = partition
        mount.readOnly = readOnly
        let attached = try DeviceAttachments().attachAndMount(disk.path, at: mountpoint, attach: attach, mount: mount)
        try Report(common).result(AttachedReport(attached), AttachedReport(attached).lines)
    }
}
