import BlockIO
import DiskImage
import Geometry
import ImageFormat
import LinuxSystem
import TestSupport
import Testing

/// Writes `content` at places of a raw file of `byteCount` and returns it.
func makeRaw(_ path: String, byteCount: UInt64, _ parts: [(UInt64, [UInt8])]) throws {
    let file = try LinuxFileSystem().open(path, OpenMode(writable: true, creation: .replace))
    try file.truncate(to: byteCount)
    for (offset, content) in parts { try file.writeBytes(content, at: offset) }
    try file.synchronize()
}

func pattern(_ count: Int, seed: UInt64) -> [UInt8] {
    var random = SeededRandom(seed: seed)
    return random.bytes(count)
}

func readFile(_ path: String) throws -> [UInt8] {
    let file = try LinuxFileSystem().open(path, .read)
    return try file.readBytes(at: 0, count: Int(try file.size()))
}

func patch(_ path: String, at offset: UInt64, _ bytes: [UInt8]) throws {
    let file = try LinuxFileSystem().open(path, .update)
    try file.writeBytes(bytes, at: offset)
}

func littleEndian(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(8 * $0)) } }

/// What `qemu-img compare` says of an image and a raw file.
func expectSameContent(_ image: String, _ raw: String) throws {
    try expectTool("qemu-img", "compare", "-f", "parallels", "-F", "raw", image, raw)
}

let hasQemuImg = hasTool("qemu-img")

/// Where files are in memory, for tests that synchronise often and don't ask the host's file system for its extents.
let memoryFolder: String? = (try? LinuxFileSystem().isFolder("/dev/shm")) == true ? "/dev/shm" : nil

/// Whether temporary folders are on a file system where the original tools look for holes.
let isOnExt4: Bool = {
    guard let folder = try? TemporaryFolder() else { return false }
    return (try? LinuxFileSystem().space(at: folder.path))?.typeMagic == 0xEF53
}()
