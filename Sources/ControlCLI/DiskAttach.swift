internal import AgentCore
internal import ArgumentParser

struct DiskAttach: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "attach", abstract: "Serve a disk as an NBD export, and as a block device if asked.")

    @Argument(help: .image) var disk: String
    @Flag(help: "Also make a block device (for mkfs or a guest), without mounting it.") var device = false
    @Flag(help: "Nothing may be written.") var readOnly = false
    @Flag(help: "Go through the host's page cache even where direct I/O is possible.") var buffered = false
    @OptionGroup var common: CommonOptions

    func run() throws {
        let disk = try DiskArgument.existing(disk, common.configuration())
        var options = AttachOptions()
        options.readOnly = readOnly
        options.direct = !buffered
        let attachments = DeviceAttachments()
        var attached = try attachments.attach(disk.path, options: options)
        if device {
            var mount = MountOptions()
            mount.deviceOnly = true
            mount.readOnly = readOnly
            do throws(AgentError) {
                attached = try attachments.mount(disk.path, at: nil, options: mount)
            } catch {
                try? attachments.detach(disk.path)
                throw error
            }
        }
        try Report(common).result(AttachedReport(attached), AttachedReport(attached).lines)
    }
}

/// What `disk attach` and `disk mount` tell.
struct AttachedReport: Encodable {
    var disk: String
    var uri: String
    var pid: Int32
    var readOnly: Bool
    var repairedOnOpen: Bool
    var device: String?
    /// `nbd` or `fuseLoop`.
    var way: String?
    var mountpoint: String?

    init(_ attached: AttachedDisk) {
        disk = attached.disk
        uri = attached.uri
        pid = attached.server.pid
        readOnly = attached.readOnly
        repairedOnOpen = attached.repairedOnOpen
        device = attached.device?.mounted
        way = attached.device?.way.rawValue
        mountpoint = attached.mountpoint
    }

    var lines: [String] {
        var lines: [String] = []
        if repairedOnOpen { lines.append("the disk had not been closed properly and was repaired") }
        lines.append("\(disk) is served at \(uri)")
        if let device { lines.append("device \(device)" + (way == "fuseLoop" ? " (nbdfuse and a loop device)" : "")) }
        if let mountpoint { lines.append("mounted at \(mountpoint)") }
        return lines
    }
}
