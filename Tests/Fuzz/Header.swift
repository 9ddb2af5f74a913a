// modules: Geometry Codecs ImageFormat
import Geometry
import ImageFormat

/// The header, the entries that follow it, and the laxer header of images that are only imported. The size of the file
/// comes first: eight bytes.
func fuzz(_ bytes: [UInt8]) {
    guard bytes.count >= 8 else { return }
    let fileBytes = bytes[..<8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    let image = Array(bytes[8...])
    let probe = ForeignFormat.probeBytes
    _ = ForeignFormat(head: Array(image.prefix(probe)), tail: Array(image.suffix(probe)))
    let format = ForeignFormat(head: Array(image.prefix(probe)), tail: [])
    if format != nil, (try? HeaderFields(parsing: image)) != nil { finding("an image of another format") }
    if let foreign = try? ForeignHeader(parsing: image, fileBytes: fileBytes) {
        if foreign.tableEnd > fileBytes { finding("a table behind the end of the file") }
        for raw: UInt32 in [1, 2, .max] { _ = foreign.offset(of: raw) }
        _ = foreign.byteCount
    }
    guard let header = try? ImageHeader(parsing: image, fileBytes: fileBytes) else { return }
    if header.encode() != Array(image[..<64]) { finding("a header that encodes to other bytes") }
    let bat = header.bat
    if bat.endOffset > bat.areaBytes || bat.areaBytes > fileBytes { finding("a table behind its area") }
    for position in stride(from: 64, to: image.count - 3, by: 4) {
        let raw = image[position..<position + 4].reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
        guard case .cluster(let place) = bat.decode(raw, fileBytes: fileBytes) else { continue }
        if header.clusterSize.offset(of: place + 1) > fileBytes { finding("a cluster behind the end of the file") }
        if place < bat.firstDataCluster { finding("a cluster in the table") }
        if raw != .max, bat.encode(place) != raw { finding("an entry that encodes to another") }
    }
    for page: UInt64 in [0, 1, .max] { _ = bat.entries(inPage: page, pageBytes: 4096) }
    _ = try? FormatExtension.offset(in: header, fileBytes: fileBytes)
    var grown = header
    try? grown.grow(toSectors: fileBytes)
}

let seeds: [[UInt8]] = ImageVersion.allCases.flatMap { version in
    [UInt64(1), 40960, 614_400, 1 << 32].compactMap { sectors in
        guard let header = try? ImageHeader(version: version, sectorCount: sectors, clusterSize: .standard) else {
            return nil
        }
        let fileBytes = header.bat.areaBytes + (8 << 20)
        let entries = (0..<8).flatMap { cluster -> [UInt8] in
            let raw = header.bat.encode(header.firstDataCluster + UInt64(cluster)) ?? 0
            return (0..<4).map { UInt8(truncatingIfNeeded: raw >> UInt32(8 * $0)) }
        }
        return (0..<8).map { UInt8(truncatingIfNeeded: fileBytes >> UInt64(8 * $0)) } + header.encode() + entries
    }
}
