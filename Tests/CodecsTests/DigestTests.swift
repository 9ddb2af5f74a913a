import Codecs
import TestSupport
import Testing

private let nistLong =
    "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu"

private func sum(_ bytes: [UInt8]) -> UInt32 { bytes.withUnsafeBytes { crc32c(0, $0) } }

@Suite struct DigestTests {
    @Test(
        "SHA-256 of the messages in FIPS 180-4's examples",
        arguments: [
            ("", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ("abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
            ),
            (nistLong, 1, "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"),
            ("a", 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ])
    func sha256(message: String, count: Int, expected: String) {
        let bytes = Array(String(repeating: message, count: count).utf8)
        #expect(Digest.hash(bytes).description == expected)
        let hash = StreamHash()
        hash.update(bytes)
        #expect(hash.finish().description == expected)
    }

    @Test("a message in parts has the hash of the whole, with a prefix too") func parts() {
        var random = SeededRandom("hash in parts")
        for _ in 0..<60 {
            let bytes = random.bytes(random.below(700))
            let prefix = random.bytes(random.below(80))
            let hash = StreamHash(prefix: prefix)
            var rest = bytes[...]
            while !rest.isEmpty {
                let part = rest.prefix(random.below(rest.count) + 1)
                hash.update(Array(part))
                rest = rest.dropFirst(part.count)
            }
            let whole = hash.finish()
            #expect(whole == Digest.hash(prefix: prefix, bytes), "seed \(random.seed)")
            #expect(whole == Digest.hash(prefix + bytes), "seed \(random.seed)")
        }
    }

    @Test("sha256sum agrees", .enabled(if: hasTool("sha256sum"))) func outsider() throws {
        var random = SeededRandom("sha256sum agrees")
        for count in [0, 1, 63, 64, 65, 4096, 100_003] {
            let bytes = random.bytes(count)
            let text = try expectTool("sha256sum", input: bytes)
            #expect(text.prefix(64) == Digest.hash(bytes).description, "\(count) bytes")
        }
    }

    @Test("a digest's text and bytes lead back to it, nothing else does") func forms() throws {
        var random = SeededRandom("digest forms")
        for _ in 0..<50 {
            let bytes = random.bytes(32)
            let digest = try #require(Digest(bytes))
            #expect(digest.bytes == bytes)
            #expect(Digest(hex: digest.description) == digest)
            #expect(digest.prefix == bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) })
        }
        for count in 0...64 where count != 32 { #expect(Digest([UInt8](repeating: 1, count: count)) == nil) }
        let text = Digest.hash([]).description
        for count in 0..<64 { #expect(Digest(hex: text.prefix(count)) == nil) }
        for wrong in [text + "0", text.uppercased(), "g" + text.dropFirst(), "+" + text.dropFirst(), " " + text] {
            #expect(Digest(hex: wrong) == nil, "\(wrong)")
        }
        #expect(Digest(hex: String(repeating: "0", count: 64)) == .zero && Digest.zero.isZero)
    }

    @Test("digests are ordered as their bytes are") func order() throws {
        var random = SeededRandom("digest order")
        var all = (0..<200).map { _ in random.bytes(32) }
        // Neighbours that differ late.
        all += all.prefix(50).map { Array($0.dropLast()) + [$0[31] ^ 0x80] }
        let sorted = all.compactMap { Digest($0) }.sorted().map(\.bytes)
        #expect(sorted == all.sorted { $0.lexicographicallyPrecedes($1) })
    }

    @Test(
        "CRC-32C of the messages in RFC 3720",
        arguments: [
            ([UInt8](repeating: 0, count: 32), 0x8a91_36aa), ([UInt8](repeating: 0xff, count: 32), 0x62a8_ab43),
            ([UInt8](0...31), 0x46dd_794e), ((0...31).map { UInt8(31 - $0) }, 0x113f_db5c),
            (
                [0x01, 0xc0, 0, 0] + [UInt8](repeating: 0, count: 12) + [0x14, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0x14]
                    + [0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0], 0xd996_3a56
            ), (Array("123456789".utf8), 0xe306_9283), ([], 0),
        ] as [([UInt8], UInt32)])
    func crc(message: [UInt8], expected: UInt32) { #expect(sum(message) == expected) }

    @Test("a checksum in parts is that of the whole, at any alignment") func crcParts() {
        var random = SeededRandom("checksum in parts")
        let bytes = random.bytes(300)
        var bitwise = ~UInt32(0)
        for (count, byte) in bytes.enumerated() {
            #expect(sum(Array(bytes.prefix(count))) == ~bitwise, "\(count) bytes")
            bitwise ^= UInt32(byte)
            for _ in 0..<8 { bitwise = bitwise & 1 == 1 ? bitwise >> 1 ^ 0x82f6_3b78 : bitwise >> 1 }
        }
        bytes.withUnsafeBytes { memory in
            for cut in 0...300 {
                let first = crc32c(0, UnsafeRawBufferPointer(rebasing: memory[..<cut]))
                #expect(crc32c(first, UnsafeRawBufferPointer(rebasing: memory[cut...])) == ~bitwise, "cut at \(cut)")
            }
        }
    }

    @Test(
        "MD5 of the messages in RFC 1321",
        arguments: [
            ("", "d41d8cd98f00b204e9800998ecf8427e"), ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
            ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
        ])
    func messageDigest5(message: String, expected: String) {
        let digest = Array(message.utf8).withUnsafeBytes { md5($0) }
        let hex = digest.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        #expect(hex == expected)
    }

    @Test("one bit anywhere is not all zeros") func zeros() {
        for count in [0, 1, 7, 8, 63, 64, 65, 127, 128, 200] {
            var bytes = [UInt8](repeating: 0, count: count)
            #expect(bytes.withUnsafeBytes { isAllZeros($0) })
            for index in 0..<count {
                bytes[index] = 1 << UInt8(index % 8)
                #expect(!bytes.withUnsafeBytes { isAllZeros($0) }, "byte \(index) of \(count)")
                bytes[index] = 0
            }
        }
    }
}
