internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// What other software keeps in an image beside the data.
extension DeltaFile {
    /// Other software's additions that must be kept up to date forbid writing.
    func refuseNeededExtension() throws(DiskError) {
        guard let header, header.extensionSector != 0 else { return }
        let fileBytes = try attempt { () throws(SystemError) in try file.size() }
        let offset = try? FormatExtension.offset(in: header, fileBytes: fileBytes)
        guard let offset = offset ?? nil else { return }
        let cluster = AlignedBuffer(byteCount: header.clusterSize.byteCount)
        try attempt { () throws(SystemError) in try unsafe file.read(at: offset, into: cluster.memory) }
        // One that is damaged can't be loaded by anybody: it is let go.
        guard let found = try? FormatExtension(parsing: unsafe [UInt8](cluster.memory)), !found.allowsWritingWithout
        else {
            return
        }
        throw DiskError(
            .unsupported, "\(path) carries data of other software that forbids changing it; open it for reading only",
            path: path)
    }

    /// Takes the extension out of the header, durably: before its clusters, to which no entry points, are cut off or
    /// given to data. Otherwise what the guest writes there would be taken for the extension.
    /// - Throws: `.unsupported` when it forbids that.
    func dropExtension() throws(DiskError) {
        guard var header, header.extensionSector != 0 else { return }
        try refuseNeededExtension()
        header.extensionSector = 0
        try attempt { () throws(SystemError) in try Self.writeHeader(header, to: file) }
        try synchronize()
    }
}
