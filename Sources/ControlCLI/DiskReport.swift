internal import DiskImage
internal import Geometry

/// What `disk create` and `disk info` tell.
struct DiskReport: Encodable {
    struct Image: Encodable {
        var snapshot: String?
        var file: String
        /// 1 or 2; 0 for a raw base.
        var imageVersion: Int
        var fileBytes: UInt64
        var allocatedBytes: UInt64
        var isClean: Bool
    }
    var path: String
    var isDisk: Bool
    var sizeBytes: UInt64
    var clusterBytes: UInt64
    var imageVersion: Int
    var isPreallocated: Bool
    var hasRawBase: Bool
    var snapshotCount: Int
    var chainLength: Int
    var allocatedBytes: UInt64
    /// Served by this host at the moment.
    var isAttached: Bool
    var images: [Image]

    init(_ info: DiskInfo, isAttached: Bool = false) {
        path = info.path
        isDisk = info.isDisk
        sizeBytes = info.byteCount
        clusterBytes = info.clusterBytes
        imageVersion = info.version
        isPreallocated = info.isPreallocated
        hasRawBase = info.hasRawBase
        snapshotCount = info.snapshotCount
        chainLength = info.chainLength
        allocatedBytes = info.allocatedBytes
        self.isAttached = isAttached
        images = info.images.map {
            Image(
                snapshot: $0.guid.isEmpty ? nil : $0.guid, file: $0.file, imageVersion: $0.version,
                fileBytes: $0.fileBytes,
                allocatedBytes: $0.allocatedBytes, isClean: $0.isClean)
        }
    }

    var kind: String {
        let version = imageVersion == 0 ? "raw" : "version \(imageVersion)"
        return "\(version), clusters of \(SizeText.format(clusterBytes))" + (isPreallocated ? ", preallocated" : "")
    }

    var lines: [String] {
        var lines = Report.columns([
            ["path", path],
            ["size", "\(SizeText.format(sizeBytes)) (\(sizeBytes) bytes)"],
            ["on the host", SizeText.format(allocatedBytes)],
            ["format", kind + (hasRawBase ? ", on a raw base" : "")],
            ["snapshots", "\(snapshotCount)"],
            ["attached", isAttached ? "yes" : "no"],
        ])
        lines.append("")
        var rows = [["FILE", "VERSION", "LENGTH", "ON HOST", "CLOSED", "SNAPSHOT"]]
        for image in images {
            rows.append([
                image.file, image.imageVersion == 0 ? "raw" : "\(image.imageVersion)", SizeText.format(image.fileBytes),
                SizeText.format(image.allocatedBytes), image.isClean ? "yes" : "no", image.snapshot ?? "-",
            ])
        }
        return lines + Report.columns(rows)
    }
}
