internal import CSystemShims
internal import Geometry
internal import SystemPackage

/// One mounted file system, as the kernel lists it.
public struct Mount: Hashable, Sendable {
    public var identifier: Int
    /// The ``identifier`` of the mount that this one was mounted on.
    public var parent: Int
    /// `major:minor` of the file system's device.
    public var device: String
    /// The folder of the file system that is mounted: `/` unless it is a bind mount.
    public var root: String
    public var mountPoint: String
    public var type: String
    /// What was mounted: mostly the path of a block device.
    public var source: String
    public var isReadOnly: Bool
    /// The mounts that share what is mounted and unmounted below them; `nil`: it is private.
    public var peerGroup: Int?
    /// The group that this mount follows.
    public var masterGroup: Int?
}

/// What is mounted in this process's mount namespace, in the order in which it was mounted.
public struct MountTable: Hashable, Sendable {
    public var mounts: [Mount]

    public static func current() throws(SystemError) -> MountTable {
        let path = "/proc/self/mountinfo"
        guard let text = try kernelBytes(path) else {
            throw SystemError(errno: .noSuchFileOrDirectory, operation: "open", subject: path)
        }
        return MountTable(parsing: text)
    }

    /// The mounts in the kernel's text; lines that aren't mounts are left out.
    public init(parsing text: some Sequence<UInt8>) {
        mounts = Array(text).split(separator: UInt8(ascii: "\n")).compactMap { Self.mount(parsing: $0) }
    }

    public init(parsing text: String) { self.init(parsing: text.utf8) }

    // 36 35 98:0 /root /mount\040point rw,noatime master:1 - ext4 /dev/sda1 rw,errors=continue
    private static func mount(parsing line: ArraySlice<UInt8>) -> Mount? {
        let fields = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false).map(unescaped)
        guard let dash = fields.dropFirst(6).firstIndex(of: "-"), fields.count >= dash + 4,
            let identifier = Int(fields[0]), let parent = Int(fields[1])
        else { return nil }
        let options = fields[5].parts(between: ",") + fields[dash + 3].parts(between: ",")
        return Mount(
            identifier: identifier, parent: parent, device: fields[2], root: fields[3],
            mountPoint: fields[4], type: fields[dash + 1], source: fields[dash + 2], isReadOnly: options.contains("ro"),
            peerGroup: group("shared:", in: fields[6..<dash]), masterGroup: group("master:", in: fields[6..<dash]))
    }

    private static func group(_ tag: String, in fields: ArraySlice<String>) -> Int? {
        fields.lazy.compactMap { $0.rest(after: tag) }.first.flatMap { Int($0) }
    }

    /// Undoes the kernel's `\040` for bytes that would end a field. What is no text is ``nameThatIsNoText``.
    private static func unescaped(_ field: ArraySlice<UInt8>) -> String {
        var bytes: [UInt8] = []
        var rest = field
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            if byte == UInt8(ascii: "\\"), digits.count == 3,
                let code = UInt8(String(decoding: digits, as: UTF8.self), radix: 8)
            {
                bytes.append(code)
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(validating: bytes, as: UTF8.self) ?? nameThatIsNoText
    }

    /// The mounts of a device or whatever else was mounted.
    public func mounts(of source: String) -> [Mount] { mounts.filter { $0.source.isSame(as: source) } }

    /// What is mounted at a path: the last mount there hides the others.
    public func mount(at mountPoint: String) -> Mount? { mounts.last { $0.mountPoint.isSame(as: mountPoint) } }

    /// Whether the path of a mount leads somewhere else, because another one lies over it or over a folder above it.
    public func isHidden(_ mount: Mount) -> Bool {
        let byIdentifier = Dictionary(mounts.map { ($0.identifier, $0) }) { first, _ in first }
        // The first of all lies on itself.
        let isCovered = mounts.contains {
            $0.parent == mount.identifier && $0.identifier != mount.identifier
                && $0.mountPoint.isSame(as: mount.mountPoint)
        }
        if isCovered { return true }
        var (step, visited) = (mount, Set([mount.identifier]))
        while let parent = byIdentifier[step.parent], visited.insert(parent.identifier).inserted {
            let isCovered = mounts.contains { other in
                other.parent == parent.identifier && other.identifier != step.identifier
                    && (step.mountPoint.isSame(as: other.mountPoint) || other.mountPoint.isSame(as: "/")
                        || step.mountPoint.begins(with: other.mountPoint + "/"))
            }
            if isCovered { return true }
            step = parent
        }
        return false
    }
}

/// Mounts what `source` holds at the folder `target`.
public func mountFileSystem(
    _ source: String, at target: String, type: String, isReadOnly: Bool = false, options: String = ""
) throws(SystemError) {
    let readOnlyFlag: UInt64 = 1
    let result = unsafe shim_mount(source, target, type, isReadOnly ? readOnlyFlag : 0, options)
    _ = try check(result, "mount", "\(source) at \(target)")
}

/// Takes the file system at `target` away. - Throws: EBUSY while something in it is in use.
public func unmountFileSystem(at target: String) throws(SystemError) {
    _ = try check(unsafe shim_umount(target, 0), "unmount", target)
}

/// Takes the file system at `target` out of the tree of folders at once; it ends when its last user does.
public func detachFileSystem(at target: String) throws(SystemError) {
    let detachFlag: Int32 = 2
    _ = try check(unsafe shim_umount(target, detachFlag), "detach", target)
}

/// Something to wait on for changes of the mount table.
public final class MountWatch: Sendable {
    private let owned: OwnedDescriptor

    /// Changes from here on are seen.
    public init() throws(SystemError) {
        let path = "/proc/self/mountinfo"
        owned = OwnedDescriptor(adopting: try check(unsafe shim_open_file(path, 0, 0), "open", path))
    }

    /// For polling; lent. Each change is reported once, as `.failed`.
    public var entry: PollEntry { PollEntry(owned.number, []) }
}
