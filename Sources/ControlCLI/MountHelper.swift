internal import AgentCore
internal import ArgumentParser
internal import Geometry
internal import LinuxSystem

/// Not for people: what mount(8) runs, as /sbin/mount.godwit, for the file system type `godwit`.
struct MountHelper: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "internal-mount", abstract: "Mounts a disk for mount(8).", shouldDisplay: false)

    @Argument var disk: String
    @Argument var mountpoint: String
    @Option(name: .customShort("o")) var options: [String] = []
    /// `godwit`, or `godwit.TYPE` for a file system that is not to be guessed.
    @Option(name: .customShort("t")) var type: String?
    @Option(name: .customShort("N")) var namespace: String?
    @Flag(name: .customShort("f"), help: "Do nothing.") var fake = false
    // These say nothing here: tolerate unknown options, write no mtab, tell more.
    @Flag(name: .customShort("s")) var sloppy = false
    @Flag(name: .customShort("n")) var noTable = false
    @Flag(name: .customShort("v")) var verbose = false

    func run() throws {
        guard namespace == nil else {
            throw CommandFailure(.unsupported, "mount it from within the other namespace: there is no -N for disks")
        }
        let parsed = try MountHelperOptions(parsing: options)
        let configuration = try configuration(parsed.configurationFile)
        let disk = try DiskArgument.existing(disk, configuration)
        guard !fake else { return }
        var attach = AttachOptions()
        attach.readOnly = parsed.isReadOnly
        attach.direct = !parsed.isBuffered
        attach.backend = parsed.backend.map { $0.backend } ?? configuration.backend
        var mount = MountOptions()
        mount.readOnly = parsed.isReadOnly
        mount.partition = parsed.partition
        mount.options = parsed.passedOn
        if let type, let dot = type.firstIndex(of: ".") { mount.fileSystem = String(type[type.index(after: dot)...]) }
        let attachments = DeviceAttachments()
        // mount(8) sees that a device is mounted and not that it is this disk's, so `mount -a` comes again.
        if try attachments.isMounted(disk.path, at: mountpoint) { return }
        _ = try attachments.attachAndMount(disk.path, at: mountpoint, attach: attach, mount: mount)
    }

    private func configuration(_ file: String?) throws -> Configuration {
        var common = CommonOptions()
        common.config = file
        return try common.configuration()
    }
}

/// Not for people: what umount(8) runs, as /sbin/umount.godwit, for what ``MountHelper`` has mounted.
struct UmountHelper: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "internal-umount", abstract: "Unmounts a disk for umount(8).", shouldDisplay: false)

    @Argument var mountpoint: String
    @Option(name: .customShort("t")) var type: String?
    @Option(name: .customShort("N")) var namespace: String?
    @Flag(name: .customShort("f")) var force = false
    @Flag(name: .customShort("l")) var lazy = false
    @Flag(name: .customShort("n")) var noTable = false
    @Flag(name: .customShort("r")) var readOnly = false
    @Flag(name: .customShort("v")) var verbose = false

    func run() throws {
        guard namespace == nil else {
            throw CommandFailure(.unsupported, "unmount it from within the other namespace: there is no -N for disks")
        }
        let flags = [(force, "-f"), (lazy, "-l"), (noTable, "-n"), (readOnly, "-r")].filter { $0.0 }.map { $0.1 }
        try DeviceAttachments().unmountAndDetach(mountpoint, flags: flags, isLazy: lazy)
    }
}

/// The options of a line in fstab: some are for us, some for programs that read fstab, the others for the file system.
struct MountHelperOptions: Hashable {
    var isReadOnly = false
    var isBuffered = false
    var partition: Int?
    var backend: BackendChoice?
    var configurationFile: String?
    /// With what has umount(8) call ``UmountHelper``, whatever the type of the file system.
    var passedOn = "helper=godwit"

    private static let meantForOthers: Set<Substring> = [
        "rw", "defaults", "auto", "noauto", "nofail", "_netdev", "user", "users", "nouser", "owner", "group",
    ]

    init(parsing lists: [String]) throws(CommandFailure) {
        for word in lists.flatMap({ Self.words($0) }) {
            let name = word.prefix { $0 != "=" }
            let value = word.dropFirst(name.count + 1)
            switch name {
            case "partition":
                guard let number = Int(value), number >= 1 else { throw Self.wrong(word, "a number from 1") }
                partition = number
            case "backend":
                guard let choice = BackendChoice(argument: String(value)) else {
                    throw Self.wrong(word, "kernel, user or auto")
                }
                backend = choice
            case "config":
                guard !value.isEmpty else { throw Self.wrong(word, "a file") }
                configurationFile = String(value)
            case "buffered" where value.isEmpty: isBuffered = true
            case "ro" where value.isEmpty: isReadOnly = true
            case "helper", "uhelper", "comment": break
            default:
                guard !Self.meantForOthers.contains(name), !name.lowercased().begins(with: "x-") else { break }
                passedOn += ",\(word)"
            }
        }
    }

    /// The words between commas; a comma within double quotes divides none.
    private static func words(_ list: String) -> [Substring] {
        var isQuoted = false
        return list.split { character in
            if character == "\"" { isQuoted.toggle() }
            return character == "," && !isQuoted
        }
    }

    private static func wrong(_ word: Substring, _ wanted: String) -> CommandFailure {
        CommandFailure(.usage, "the mount option '\(word)' has to name \(wanted)")
    }
}
