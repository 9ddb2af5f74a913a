internal import CSystemShims
internal import Geometry
public import LinuxSystem

extension Mount {
    /// Whether the file system lies on one of these block devices, given as `major:minor`. Some file systems (btrfs,
    /// bcachefs) have a number that belongs to no device: what was mounted tells of theirs.
    public func lies(on numbers: Set<String>) -> Bool {
        if numbers.contains(device) { return true }
        guard hasOwnNumber else { return false }
        return source.parts(between: ":").contains { path in
            guard PathText.isAbsolute(path), let number = blockNumber(String(path)) else { return false }
            return numbers.contains(number) || !numbers.isDisjoint(with: btrfsDevices(with: number))
        }
    }

    /// Whether the file system's number belongs to no device; the driver cannot freeze such a one by its device. What
    /// others say was mounted (tmpfs, FUSE) is any user's to choose.
    public var hasOwnNumber: Bool { device.begins(with: "0:") && ["btrfs", "bcachefs"].contains(type) }
}

/// A file system that is mounted in another mount namespace than ours.
public struct MountElsewhere: Hashable, Sendable {
    public var mount: Mount
    /// One that sees it.
    public var process: Int32

    /// Where it can be reached from here, while the process lives.
    public var path: String { "/proc/\(process)/root\(mount.mountPoint)" }
    public var user: BlockUser {
        BlockUser(process: process, name: processName(process), mountPoint: mount.mountPoint)
    }
}

/// File systems on block devices that are mounted in other mount views, containers' for example, and not in ours.
/// - Parameters:
///   - numbers: `major:minor` of each device.
///   - own: ``Mount/device`` of those that are mounted here, too.
/// - Returns: each file system once.
public func mountsElsewhere(
    on numbers: Set<String>, besides own: Set<String>
) throws(SystemError) -> [MountElsewhere] {
    var found: [MountElsewhere] = []
    var seen = own
    var views: Set<String> = [mountView(of: "self") ?? ""]
    for name in try LinuxFileSystem().list("/proc") {
        guard let process = Int32(name), let table = foreignMounts(of: process, &views) else { continue }
        for mount in table.mounts where !seen.contains(mount.device) && mount.lies(on: numbers) {
            seen.insert(mount.device)
            found.append(MountElsewhere(mount: mount, process: process))
        }
    }
    return found
}

/// What a process sees of mounts: those of its namespace, below its root.
func mountView(of process: String) -> String? {
    guard let namespace = mountNamespace(of: process), let root = linkText("/proc/\(process)/root") else {
        return nil
    }
    return "\(namespace) \(root)"
}

func mountNamespace(of process: String) -> String? { linkText("/proc/\(process)/ns/mnt") }

/// The mounts that the process sees; `nil` for a view that was looked at before, or when the process is gone.
func foreignMounts(of process: Int32, _ views: inout Set<String>) -> MountTable? {
    guard let view = mountView(of: "\(process)"), !views.contains(view),
        let text = (try? kernelBytes("/proc/\(process)/mountinfo")).flatMap({ $0 }), !text.isEmpty
    else { return nil }
    views.insert(view)
    return MountTable(parsing: text)
}

/// `major:minor` of the block device at a path.
private func blockNumber(_ path: String) -> String? {
    var (major, minor): (UInt32, UInt32) = (0, 0)
    return unsafe shim_block_number(path, &major, &minor) == 1 ? "\(major):\(minor)" : nil
}

/// The numbers of all devices of the btrfs that has one of that number.
private func btrfsDevices(with number: String) -> Set<String> {
    let folder = "/sys/fs/btrfs"
    let files = LinuxFileSystem()
    for identity in (try? files.list(folder)) ?? [] {
        let names = (try? files.list("\(folder)/\(identity)/devices")) ?? []
        let numbers = names.compactMap { name in
            (try? kernelText("/sys/class/block/\(name)/dev")).flatMap { $0 }.map { String($0.prefix { !$0.isNewline }) }
        }
        if numbers.contains(number) { return Set(numbers) }
    }
    return []
}
