// modules: Geometry Codecs SystemPackage LinuxSystem BlockIO ChunkTree BackupStore
@testable import BackupStore
import ChunkTree
import Codecs

/// The store's texts, pack directories and index trailers. The first byte chooses; checksums are set right where there
/// are any, or nothing behind them would ever be reached.
func fuzz(_ bytes: [UInt8]) {
    guard let choice = bytes.first else { return }
    let rest = Array(bytes[1...])
    switch choice % 4 {
    case 0:
        let text = rest + Array("sum \(Digest.hash(rest))\n".utf8)
        _ = try? StoreDescription(parsing: text, of: "x")
        guard
            let record = try? RecordText(
                parsing: text, heading: String(decoding: rest.prefix { $0 != 10 }, as: UTF8.self), in: "x")
        else { return }
        if record.encoded() != text { finding("a text with two forms") }
    case 1:
        let text = rest + Array("sum \(Digest.hash(rest))\n".utf8)
        if let point = try? RestorePoint(parsing: text, id: "x"), point.encoded() != text {
            finding("a point with two forms")
        }
    case 2:
        guard let directory = try? PackDirectory(parsing: rest, end: 1 << 24) else { return }
        if directory.encoded() != rest { finding("a directory with two forms") }
    default:
        var trailer = rest
        if trailer.count == IndexTrailer.byteCount {
            let sum = trailer[..<60].withUnsafeBytes { crc32c(0, $0) }
            for index in 0..<4 { trailer[60 + index] = UInt8(truncatingIfNeeded: sum >> UInt32(8 * index)) }
        }
        for fileBytes in [UInt64(rest.count), 1 << 20, .max] {
            _ = try? IndexTrailer(parsing: trailer, fileBytes: fileBytes)
        }
    }
}

let seeds: [[UInt8]] = {
    var all: [[UInt8]] = []
    func text(_ choice: UInt8, _ whole: [UInt8]) { all.append([choice] + whole.dropLast(69)) }
    text(0, StoreDescription(uuid: "u", chunkBytes: 65536).encoded())
    if let shape = TreeShape(checking: 1 << 30, chunkBytes: 65536) {
        let root = TreeRoot(top: .zero, shape: shape)
        text(1, RestorePoint(.init(disk: "d", name: "n", time: 1, root: root, parent: nil, snapshot: "s")).encoded())
    }
    all.append([3] + IndexTrailer(entryCount: 5, packCount: 1, packChecksum: 0).encoded())
    return all
}()
