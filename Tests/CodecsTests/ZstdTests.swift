import Codecs
import LinuxSystem
import TestSupport
import Testing

/// Bytes of many kinds: what backups are made of.
private func samples(_ random: inout SeededRandom) -> [(name: String, bytes: [UInt8])] {
    let words = ["INSERT ", "INTO ", "accounts ", "VALUES ", "(42, ", "'godwit')", ";\n"]
    let text = (0..<20_000).flatMap { _ in Array(words[random.below(words.count)].utf8) }
    return [
        ("nothing", []), ("one byte", [7]), ("zeros", [UInt8](repeating: 0, count: 1 << 20)), ("text", text),
        ("noise", random.bytes(300_001)),
        ("mixed", Array(text.prefix(70_000)) + random.bytes(70_000) + [UInt8](repeating: 255, count: 70_000)),
    ]
}

private struct NoFrame: Error {}

private func compressed(_ bytes: [UInt8], _ compressor: borrowing Compressor) throws -> [UInt8] {
    var target = [UInt8](repeating: 0, count: Compressor.bound(bytes.count))
    let count = bytes.withUnsafeBytes { source in
        target.withUnsafeMutableBytes { compressor.compress(source, into: $0) }
    }
    guard let count else { throw NoFrame() }
    return Array(target.prefix(count))
}

/// What a decompression left in `room` bytes, with a fence behind that it must not touch.
private func decompressed(_ frame: [UInt8], room: Int, _ decompressor: borrowing Decompressor) -> [UInt8]? {
    let fence = [UInt8](repeating: 0xa5, count: 64)
    var target = [UInt8](repeating: 0, count: room) + fence
    let count = frame.withUnsafeBytes { source in
        target.withUnsafeMutableBytes { memory in
            decompressor.decompress(source, into: UnsafeMutableRawBufferPointer(rebasing: memory[..<room]))
        }
    }
    #expect(Array(target.suffix(64)) == fence, "bytes behind the target were written")
    guard let count else { return nil }
    #expect(count <= room, "\(count) bytes in room for \(room)")
    return Array(target.prefix(count))
}

private func smallFrame() throws -> (frame: [UInt8], plain: [UInt8]) {
    let plain = Array("a frame, a frame, a small frame of some words, and again: a frame, a small frame".utf8)
    return (try compressed(plain, Compressor(level: 3)), plain)
}

@Suite struct ZstdTests {
    @Test("what was compressed is decompressed, at any level and by a context used before") func roundTrip() throws {
        var random = SeededRandom("zstd round trip")
        let decompressor = Decompressor()
        for level: Int32? in [nil, -5, 1, 3, 9, 19] {
            let compressor = level.map { Compressor(level: $0) } ?? Compressor()
            for (name, bytes) in samples(&random) {
                let frame = try compressed(bytes, compressor)
                #expect(decompressed(frame, room: bytes.count, decompressor) == bytes, "\(name), level \(level ?? 0)")
                #expect(decompressed(frame, room: bytes.count + 1, decompressor) == bytes)
                if !bytes.isEmpty { #expect(decompressed(frame, room: bytes.count - 1, decompressor) == nil) }
            }
        }
    }

    @Test("the zstd program reads our frames, and we read its", .enabled(if: hasTool("zstd"))) func outsider() throws {
        var random = SeededRandom("zstd outsider")
        let compressor = Compressor()
        let decompressor = Decompressor()
        for (name, bytes) in samples(&random) {
            let frame = try compressed(bytes, compressor)
            #expect(try runTool("zstd", "-dcq", input: frame).output == bytes, "\(name)")
            for options in [["-cq1"], ["-cq19", "--no-check"], ["-cq", "--long=27"]] {
                let theirs = try runTool("sh", "-c", "zstd \(options.joined(separator: " "))", input: bytes).output
                #expect(decompressed(theirs, room: bytes.count, decompressor) == bytes, "\(name), \(options)")
            }
        }
    }

    @Test("a target that is too small is told, not overrun") func smallTargets() throws {
        var random = SeededRandom("small targets")
        let bytes = random.bytes(5000)
        let compressor = Compressor()
        for room in [0, 1, 10, 4999] {
            var target = [UInt8](repeating: 0xa5, count: room + 64)
            let count = bytes.withUnsafeBytes { source in
                target.withUnsafeMutableBytes { memory in
                    compressor.compress(source, into: UnsafeMutableRawBufferPointer(rebasing: memory[..<room]))
                }
            }
            #expect(count == nil)
            #expect(target.suffix(64).allSatisfy { $0 == 0xa5 })
        }
    }

    @Test("every truncation of a frame is refused") func truncations() throws {
        let (frame, plain) = try smallFrame()
        let decompressor = Decompressor()
        for count in 0..<frame.count {
            let found = decompressed(Array(frame.prefix(count)), room: plain.count, decompressor)
            #expect(found == nil, "\(count) of \(frame.count) bytes")
        }
        #expect(decompressed(frame, room: plain.count, decompressor) == plain, "the context goes on")
    }

    @Test("any flipped bit is refused or fills no more than its room") func bitFlips() throws {
        var (frame, plain) = try smallFrame()
        let decompressor = Decompressor()
        for bit in 0..<frame.count * 8 {
            frame[bit / 8] ^= 1 << UInt8(bit % 8)
            for room in [0, 1, plain.count, 4096] { _ = decompressed(frame, room: room, decompressor) }
            frame[bit / 8] ^= 1 << UInt8(bit % 8)
        }
        #expect(decompressed(frame, room: plain.count, decompressor) == plain, "the context goes on")
    }

    @Test("more than one frame, or anything behind one, is refused") func oneFrame() throws {
        let (frame, plain) = try smallFrame()
        let decompressor = Decompressor()
        for more in [frame, [0], Array(frame.prefix(4)), [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]] {
            #expect(decompressed(frame + more, room: 4 * plain.count, decompressor) == nil, "\(more.count) bytes more")
        }
    }

    @Test(
        "frames that are no data, or promise what they don't hold, are refused or empty",
        arguments: [
            // No frame at all.
            [], [0, 0, 0, 0], Array("not a frame".utf8), [0x28, 0xb5, 0x2f, 0xfd],
            // A skippable frame of 2 bytes, and one that claims 4 GiB.
            [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2], [0x50, 0x2a, 0x4d, 0x18, 255, 255, 255, 255],
            // One segment of 2^60 bytes, then a block of a single repeated byte.
            [0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x03, 0, 0, 0x41],
            // The largest window that can be written, content size unknown, a last raw block cut off.
            [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0xff, 0xff, 0xff],
            // A dictionary that nobody has.
            [0x28, 0xb5, 0x2f, 0xfd, 0x03, 0x58, 1, 2, 3, 4, 0x01, 0, 0],
            // A reserved block type.
            [0x28, 0xb5, 0x2f, 0xfd, 0x20, 1, 0x07, 0, 0],
        ] as [[UInt8]])
    func hostile(frame: [UInt8]) {
        let decompressor = Decompressor()
        for room in [0, 1, 4096] {
            let found = decompressed(frame, room: room, decompressor)
            #expect(found == nil || found == [], "\(found?.count ?? 0) bytes of nothing")
        }
    }

    @Test("a bomb stops at its room", .enabled(if: hasTool("zstd"))) func bomb() throws {
        // 64 MiB of zeros in some 6 KiB, with and without the size in its head.
        let zeros = [UInt8](repeating: 0, count: 64 << 20)
        let known = try compressed(zeros, Compressor(level: 1))
        let unknown = try runTool("zstd", "-cq1", "--no-content-size", input: zeros).output
        let decompressor = Decompressor()
        for frame in [known, unknown] {
            #expect(frame.count < 16 << 10)
            for room in [0, 4096, 1 << 20] { #expect(decompressed(frame, room: room, decompressor) == nil) }
        }
    }
}
