// modules: Geometry Codecs ImageFormat
import Codecs
import Geometry
import ImageFormat

/// The format extension. Its checksum is set right first, or nothing behind it would ever be reached.
func fuzz(_ bytes: [UInt8]) {
    _ = try? FormatExtension(parsing: bytes)
    guard bytes.count > 24 else { return }
    var cluster = bytes
    let sum = unsafe cluster[24...].withUnsafeBytes { unsafe md5($0) }
    cluster.replaceSubrange(8..<24, with: sum)
    guard let parsed = try? FormatExtension(parsing: cluster) else { return }
    _ = parsed.allowsWritingWithout
    for bitmap in (try? parsed.dirtyBitmaps()) ?? [] where !bitmap.granularity.isPowerOfTwo {
        finding("a granularity that is no power of two")
    }
    guard let written = try? parsed.encode(clusterSize: .smallest) else { return }
    if (try? FormatExtension(parsing: written)) != parsed {
        finding("an extension that is written and read as another")
    }
}

let seeds: [[UInt8]] = {
    var bitmap: [UInt8] = []
    bitmap.append(littleEndian: UInt64(614_400))
    bitmap += (0..<16).map { UInt8($0) }
    bitmap.append(littleEndian: UInt32(128))
    bitmap.append(littleEndian: UInt32(3))
    for entry: UInt64 in [0, 1, 4096] { bitmap.append(littleEndian: entry) }
    let sections: [FormatExtension.Section] = [
        .init(magic: FormatExtension.Section.dirtyBitmapMagic, flags: 0, data: bitmap),
        .init(magic: 7, flags: 3, data: [1, 2, 3]),
    ]
    return (0...2).compactMap { count in
        // The padding only slows the fuzzer down.
        (try? FormatExtension(sections: Array(sections[..<count])).encode(clusterSize: .smallest)).map {
            Array($0[..<256])
        }
    }
}()
