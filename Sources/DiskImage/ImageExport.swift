public import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// Zeros are looked for in pieces of this size.
private let exportUnit: UInt64 = 64 << 10

/// Writes the content of a disk or an image to a raw file that does not exist yet, in which ranges without data, and
/// zeros, become holes; or over a block device. The disk is only read, but must not be in use. A file has its name once
/// it is whole and durable; after a failure there is none.
/// - Parameter overwrites: `target` may be a block device.
/// - Throws: `.busy` when `progress` stopped it.
public func exportImage(
    from source: String, to target: String, overwrites: Bool = false, in fs: any FileSystem,
    progress: TransferProgress = { _, _ in true }
) throws(DiskError) -> TransferReport {
    let opened = try TransferSource.open(source, kind: .expandable, in: fs)
    defer { withExtendedLifetime(opened) {} }
    let content = opened.content
    var report = TransferReport(byteCount: content.byteCount, sourceBytes: content.byteCount)
    if try withPath(target, { () throws(SystemError) in try fs.kind(of: target) }) == .blockDevice {
        guard overwrites else {
            throw DiskError(
                .exists, "\(target) is a block device: what is on it would be lost; give --overwrite for that",
                path: target)
        }
        try writeDevice(content, from: source, to: target, in: fs, progress, &report)
    } else {
        try writeFile(content, from: source, to: target, in: fs, progress, &report)
    }
    report.danglingEntries = content.danglingEntries
    return report
}

private func writeFile(
    _ content: ImageSource, from source: String, to target: String, in fs: any FileSystem,
    _ progress: TransferProgress, _ report: inout TransferReport
) throws(DiskError) {
    let partial = try PartialName.file(for: target, in: fs)
    defer { withExtendedLifetime(partial) {} }
    let path = partial.path
    do throws(DiskError) {
        let file = try withPath(path) { () throws(SystemError) in
            let file = try fs.open(path, OpenMode(writable: true, creation: .ifMissing))
            try file.truncate(to: content.byteCount)
            return file
        }
        try unsafe copy(content, source: source, unit: exportUnit, progress: progress, report: &report) {
            (offset, memory) throws(DiskError) in
            let count = Int(min(UInt64(memory.count), content.byteCount - offset))
            try withPath(path) { () throws(SystemError) in
                try unsafe file.write(at: offset, from: UnsafeRawBufferPointer(rebasing: memory[..<count]))
            }
        }
        try withPath(path) { () throws(SystemError) in try file.synchronize() }
        try partial.publish(in: fs)
    } catch {
        partial.discardFile(in: fs)
        throw error
    }
}

private func writeDevice(
    _ content: ImageSource, from source: String, to target: String, in fs: any FileSystem,
    _ progress: TransferProgress, _ report: inout TransferReport
) throws(DiskError) {
    var mode = OpenMode.update
    mode.isClaimed = true
    let file: any StorageFile
    do throws(SystemError) { file = try fs.open(target, mode) } catch {
        guard error.kind == .busy else { throw DiskError(error, path: target) }
        throw DiskError(.inUse, "\(target) is mounted or part of another device", path: target)
    }
    let room = try withPath(target) { () throws(SystemError) in try file.size() }
    guard room >= content.byteCount else {
        throw DiskError(
            .outOfSpace, "\(target) has \(room) bytes, and the disk \(content.byteCount)", path: target)
    }
    do throws(DiskError) {
        let zeroes = DeviceZeroes(file: file, path: target)
        var position: UInt64 = 0
        try unsafe copy(content, source: source, unit: exportUnit, progress: progress, report: &report) {
            (offset, memory) throws(DiskError) in
            try zeroes.fill(position, to: offset)
            let count = Int(min(UInt64(memory.count), content.byteCount - offset))
            try withPath(target) { () throws(SystemError) in
                try unsafe file.write(at: offset, from: UnsafeRawBufferPointer(rebasing: memory[..<count]))
            }
            position = offset + UInt64(count)
        }
        try zeroes.fill(position, to: content.byteCount)
        try withPath(target) { () throws(SystemError) in try file.synchronize() }
    } catch {
        throw DiskError(error.code, "\(error.message); what is on \(target) now is not whole", path: target)
    }
}

/// Where the source has nothing, a device has what was on it before.
private struct DeviceZeroes {
    private static let pieceBytes: UInt64 = 256 << 20
    let file: any StorageFile
    let path: String

    func fill(_ start: UInt64, to end: UInt64) throws(DiskError) {
        var position = start
        while position < end {
            let count = min(Self.pieceBytes, end - position)
            try withPath(path) { () throws(SystemError) in
                if try !file.zero(offset: position, count: count) {
                    try NewImage.writeZeroes(position, count, in: file)
                }
            }
            position += count
        }
    }
}
