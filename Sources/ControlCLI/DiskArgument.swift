internal import AgentCore
internal import BlockIO
internal import Geometry

/// What the user calls a disk: a path when it has a slash or exists, else a name of the configuration.
struct DiskArgument {
    var path: String
    /// What the configuration says of it, if it does.
    var entry: Configuration.Disk?

    init(_ text: String, _ configuration: Configuration) throws(CommandFailure) {
        let files = LinuxFileSystem()
        let exists = try translated { try files.exists(text) }
        if !exists, !PathText.hasSlash(text), let disk = configuration.disk(text) {
            (path, entry) = (disk.path, disk)
            return
        }
        path = text
        let resolved = exists ? try translated { try files.resolve(text) } : text
        entry = configuration.disks.first { disk in
            disk.path.isSame(as: resolved) || (try? files.resolve(disk.path))?.isSame(as: resolved) == true
        }
    }

    /// A disk that has to be there.
    static func existing(_ text: String, _ configuration: Configuration) throws(CommandFailure) -> DiskArgument {
        let disk = try DiskArgument(text, configuration)
        guard try translated({ try LinuxFileSystem().exists(disk.path) }) else {
            throw CommandFailure(
                .notFound, "there is no disk \(disk.path): check the path, or create it with 'godwit disk create'")
        }
        return disk
    }

    /// Several disks that have to be there, each of which is named once.
    static func existing(
        _ texts: [String], _ configuration: Configuration
    ) throws(CommandFailure) -> [DiskArgument] {
        var disks: [DiskArgument] = []
        var known: [[UInt8]: String] = [:]
        for text in texts {
            let disk = try existing(text, configuration)
            let path = try translated { try LinuxFileSystem().resolve(disk.path) }
            if let other = known.updateValue(text, forKey: Array(path.utf8)) {
                throw CommandFailure(.usage, "\(other) and \(text) are the same disk: name it once")
            }
            disks.append(disk)
        }
        return disks
    }

    /// What to call it in a store.
    var name: String { entry?.name ?? PathText.lastPart(of: path) }

    /// The hooks to run for it.
    func hooks(_ configuration: Configuration) -> HookRunner { HookRunner(hooks: entry?.hooks ?? configuration.hooks) }
}
