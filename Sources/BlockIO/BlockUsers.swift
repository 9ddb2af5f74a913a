internal import CSystemShims
public import LinuxSystem
internal import SystemPackage

/// A process that uses a block device, and how.
public struct BlockUser: Hashable, Sendable, CustomStringConvertible {
    public var process: Int32
    public var name: String
    /// Where a file system of the device is mounted in the process's mount namespace; `nil`: the process has the device
    /// open.
    public var mountPoint: String?

    public var description: String {
        let who = "process \(process) (\(name))"
        return mountPoint.map { "mounted at \($0) in the mount namespace of \(who)" } ?? "open in \(who)"
    }
}

/// Who uses block devices: has one open, or lives in another mount namespace than this process in which one is mounted.
/// This process itself is left out, and so are processes that may not be looked at, which are none for root.
/// - Parameters:
///   - numbers: `major:minor` of each device.
///   - groups: mounts that follow one of these peer groups are left out: they go when ours do.
public func blockUsers(of numbers: Set<String>, besides groups: Set<Int> = []) throws(SystemError) -> [BlockUser] {
    var users: [BlockUser] = []
    var views: Set<String> = []
    let namespace = mountNamespace(of: "self")
    for name in try LinuxFileSystem().list("/proc") {
        guard let process = Int32(name), process != ownProcess() else { continue }
        // Processes and their files may go while they are looked at.
        // What is mounted in this namespace is for the caller to see, whatever the process's root.
        if mountNamespace(of: name) != namespace, let mount = foreignMount(of: process, numbers, groups, &views) {
            users.append(BlockUser(process: process, name: processName(process), mountPoint: mount.mountPoint))
        }
        if hasOpen(process, numbers) {
            users.append(BlockUser(process: process, name: processName(process), mountPoint: nil))
        }
    }
    return users
}

/// What the kernel calls a process: the first 15 bytes of its program's name.
public func processName(_ process: Int32) -> String {
    let text = (try? kernelText("/proc/\(process)/comm")).flatMap { $0 }
    return text.map { String($0.prefix { !$0.isNewline }) } ?? "it has ended"
}

/// Whether a file system on the device, or what is stacked on it, holds it for itself, in whichever namespace.
public func isClaimed(_ device: String) throws(SystemError) -> Bool {
    do throws(SystemError) {
        _ = OwnedDescriptor(adopting: try check(unsafe shim_open_file(device, SHIM_OPEN_EXCLUSIVE, 0), "open", device))
        return false
    } catch {
        guard error.errno == .resourceBusy else { throw error }
        return true
    }
}

private func foreignMount(
    of process: Int32, _ numbers: Set<String>, _ groups: Set<Int>, _ views: inout Set<String>
) -> Mount? {
    guard let table = foreignMounts(of: process, &views) else { return nil }
    return table.mounts.first { mount in
        mount.lies(on: numbers)
            && groups.isDisjoint(with: [mount.peerGroup, mount.masterGroup].compactMap { $0 })
    }
}

private func hasOpen(_ process: Int32, _ numbers: Set<String>) -> Bool {
    let open = (try? LinuxFileSystem().list("/proc/\(process)/fd")) ?? []
    return open.contains { number in
        var (major, minor): (UInt32, UInt32) = (0, 0)
        let result = unsafe shim_block_number("/proc/\(process)/fd/\(number)", &major, &minor)
        return result == 1 && numbers.contains("\(major):\(minor)")
    }
}

/// Where a symbolic link leads, as it says.
func linkText(_ path: String) -> String? {
    var length: Int32 = 0
    let bytes = unsafe [UInt8](unsafeUninitializedCapacity: 256) { memory, initialized in
        length = unsafe memory.withMemoryRebound(to: CChar.self) { unsafe shim_readlink(path, $0.baseAddress, 256) }
        initialized = max(0, Int(length))
    }
    return length > 0 ? String(decoding: bytes, as: UTF8.self) : nil
}
