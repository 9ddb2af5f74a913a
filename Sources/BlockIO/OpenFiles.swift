internal import CSystemShims
internal import Geometry
public import LinuxSystem

/// Who has one of the files open to write through its page cache: without O_DIRECT.
/// - Parameter paths: absolute, without symbolic links.
/// - Returns: process identifiers. Processes that may not be looked at are left out, which are none for root.
public func processesWritingCached(to paths: [String]) throws(SystemError) -> [String] {
    let files = LinuxFileSystem()
    var found: [String] = []
    for process in try files.list("/proc") where process.allSatisfy(\.isNumber) {
        // Processes and their files may go while they are looked at.
        let numbers = (try? files.list("/proc/\(process)/fd")) ?? []
        let writes = numbers.contains { number in
            guard let target = try? files.resolve("/proc/\(process)/fd/\(number)"), paths.hasSame(as: target),
                let info = try? kernelText("/proc/\(process)/fdinfo/\(number)")
            else { return false }
            return writesCached(info)
        }
        if writes { found.append(process) }
    }
    return found
}

/// By the line `flags:`, in octal (proc_pid_fdinfo(5)); if there is none, it may.
private func writesCached(_ info: String) -> Bool {
    for line in info.parts(between: "\n") where line.begins(with: "flags:") {
        let digits = (line.rest(after: "flags:") ?? "").filter { !$0.isWhitespace }
        guard let flags = UInt64(digits, radix: 8) else { return true }
        return shim_flags_write_cached(flags) != 0
    }
    return true
}
