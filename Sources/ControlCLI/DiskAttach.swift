internal import AgentCore
internal import ArgumentParser

struct DiskAttach: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "attach", abstract: "Serve a disk as a block device, or as an NBD export.")

    @Argument(help: .image, completion: .file()) var disk: String
    @Flag(help: "Also make a block device (for mkfs or a guest), without mounting it; the driver always does.")
    var device = false
    @Flag(help: "Nothing may be written.") var readOnly = false
    @Flag(help: "Go through the host's page cache even where direct I/O is possible.") var buffered = false
    @OptionGroup var served: BackendOption
    @OptionGroup var common: CommonOptions

    func run() throws {
        let configuration = try common.configuration()
        let disk = try DiskArgument.existing(disk, configuration)
        var options = AttachOptions()
        options.backend = served.backend(configuration)
        options.readOnly = readOnly
        options.direct = !buffered
        let attachments = DeviceAttachments()
        var attached: AttachedDisk
        var isNew = true
        do throws(AgentError) { attached = try attachments.attach(disk.path, options: options) } catch {
            // One that is attached without a device can be given one.
            guard device, error.code == .alreadyAttached, let present = try attachments.attached(disk.path),
                present.device == nil, present.readOnly == readOnly
            else { throw error }
            (attached, isNew) = (present, false)
        }
        if device {
            var mount = MountOptions()
            mount.deviceOnly = true
            mount.readOnly = readOnly
            do throws(AgentError) {
                attached = try attachments.mount(disk.path, at: nil, options: mount)
            } catch {
                if isNew { try? attachments.detach(disk.path) }
                throw error
            }
        }
        try Report(common).result(AttachedReport(attached), AttachedReport(attached).lines)
    }
}

/// What `disk attach` and `disk mount` tell.
struct AttachedReport: Encodable {
    var disk: String
    /// `kernel` or `user`.
    var backend: String
    /// For NBD clients; the driver serves none.
    var uri: String?
    var pid: Int32
    var readOnly: Bool
    var repairedOnOpen: Bool
    var device: String?
    /// `nbd`, `fuseLoop` or `ploop`.
    var way: String?
    var mountpoint: String?

    init(_ attached: AttachedDisk) {
        disk = attached.disk
        backend = attached.backend.rawValue
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
        lines.append("\(disk) is served \(uri.map { "at \($0)" } ?? "by the driver")")
        if let device { lines.append("device \(device)" + (way == "fuseLoop" ? " (nbdfuse and a loop device)" : "")) }
        if let mountpoint { lines.append("mounted at \(mountpoint)") }
        return lines
    }
}

/// Who shall serve a disk that is attached.
struct BackendOption: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "kernel: the driver; user: a server process; auto: the driver where it is loaded.",
            valueName: "backend"), completion: .list(["auto"] + DiskBackend.allCases.map(\.rawValue)))
    var backend: BackendChoice?

    func backend(_ configuration: Configuration) -> DiskBackend? {
        guard let backend else { return configuration.backend }
        return backend.backend
    }
}

struct BackendChoice: ExpressibleByArgument, Hashable {
    /// `nil`: auto.
    var backend: DiskBackend?

    init?(argument: String) {
        if argument == "auto" { return }
        guard let backend = DiskBackend(rawValue: argument) else { return nil }
        self.backend = backend
    }
}
