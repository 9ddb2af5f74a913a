internal import CSystemShims
internal import Geometry
internal import SystemPackage

/// The contents of a file in /proc or /sys, whose size is only known by reading it.
/// - Returns: `nil` when there is none, or when what it tells about has gone meanwhile.
public func kernelText(_ path: String) throws(SystemError) -> String? {
    try kernelBytes(path).map { String(decoding: $0, as: UTF8.self) }
}

/// Like ``kernelText(_:)``, where names of files may be in it, which need not be text.
public func kernelBytes(_ path: String) throws(SystemError) -> [UInt8]? {
    let result = unsafe shim_open_file(path, 0, 0)
    if result == -Errno.noSuchFileOrDirectory.rawValue || result == -Errno.notDirectory.rawValue { return nil }
    let descriptor = OwnedDescriptor(adopting: try check(result, "open", path))
    var bytes: [UInt8] = []
    while true {
        let part: [UInt8]
        do throws(SystemError) {
            part = try descriptor.readSome(upTo: 64 << 10)
        } catch {
            if error.errno == .noSuchProcess || error.errno == .noSuchAddressOrDevice { return nil }
            throw error
        }
        if part.isEmpty { break }
        bytes += part
        guard bytes.count <= 64 << 20 else { throw SystemError(errno: .fileTooLarge, operation: "read", subject: path) }
    }
    return bytes
}

/// Stands for a name that is no UTF-8 and so can't be said in a string. It is the name of nothing, being longer than
/// the kernel takes: with the bytes replaced it would be another file's.
public let nameThatIsNoText = String(repeating: "\u{FFFD}", count: 1400)

/// Opens an existing file, to hand its descriptor to somebody else.
/// - Parameter followsLink: a symbolic link at the end of the path is ELOOP otherwise.
public func openDescriptor(
    _ path: String, writable: Bool, followsLink: Bool = true
) throws(SystemError) -> OwnedDescriptor {
    let flags: UInt32 = (writable ? SHIM_OPEN_WRITE : 0) | (followsLink ? 0 : SHIM_OPEN_NO_LINK)
    return OwnedDescriptor(adopting: try check(unsafe shim_open_file(path, flags, 0), "open", path))
}

/// Opens a file to append to, and makes it, for nobody else to read, when there is none.
public func openLog(_ path: String) throws(SystemError) -> OwnedDescriptor {
    let flags = SHIM_OPEN_WRITE | SHIM_OPEN_CREATE | SHIM_OPEN_APPEND
    return OwnedDescriptor(adopting: try check(unsafe shim_open_file(path, flags, 0o600), "open", path))
}

/// Creates a folder that only this user can enter; an existing one is left as it is.
/// - Throws: EPERM when somebody else could put files into an existing one.
public func createPrivateFolder(_ path: String) throws(SystemError) {
    let result = unsafe shim_mkdir(path, 0o700)
    guard result == -Errno.fileExists.rawValue else {
        _ = try check(result, "create folder", path)
        return
    }
    var status = shim_stat()
    _ = try check(unsafe shim_stat(path, &status), "examine", path)
    let isOurs = status.owner == effectiveUser() || status.owner == 0
    guard isOurs, status.mode & 0o022 == 0 else {
        throw SystemError(errno: .notPermitted, operation: "use, for others can write to it,", subject: path)
    }
}

/// Whether anybody may write to the file at a path.
public func isWorldWritable(_ path: String) throws(SystemError) -> Bool {
    var status = shim_stat()
    _ = try check(unsafe shim_stat(path, &status), "examine", path)
    return status.mode & 0o002 != 0
}

/// Opens those of the standard streams that whoever started this process left closed, on nothing.
public func openStandardStreams() { shim_open_standard_streams() }

/// Makes a device node for the block device `major:minor`, as the kernel writes it, for root only.
public func createBlockNode(_ path: String, device: String) throws(SystemError) {
    let parts = device.parts(between: ":").compactMap { UInt32($0) }
    guard parts.count == 2 else { throw SystemError(errno: .invalidArgument, operation: "create node", subject: path) }
    let result = unsafe shim_block_node(path, parts[0], parts[1])
    if result == -Errno.fileExists.rawValue { return }
    _ = try check(result, "create node", path)
}

extension OwnedDescriptor {
    /// What a file of the kernel's says now, at most so many bytes of it.
    public func kernelText(upTo limit: Int) throws(SystemError) -> String {
        var result: Int64 = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: limit) { memory, initialized in
            result = unsafe shim_pread(number, memory.baseAddress, UInt64(limit), 0)
            initialized = max(0, Int(result))
        }
        _ = try check(result, "read", "descriptor \(number)")
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// Makes an empty file that is for this user only. - Throws: EEXIST when there is one.
public func createPrivateFile(_ path: String) throws(SystemError) {
    let flags = SHIM_OPEN_WRITE | SHIM_OPEN_CREATE | SHIM_OPEN_EXCLUSIVE
    _ = OwnedDescriptor(adopting: try check(unsafe shim_open_file(path, flags, 0o600), "create", path))
}

/// Removes a file, if it is there.
public func removeFile(_ path: String) { _ = unsafe shim_unlink(path) }
