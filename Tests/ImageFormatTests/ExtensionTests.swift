import Codecs
import Geometry
import ImageFormat
import Testing

@Suite struct ExtensionTests {
    private func bitmap(table: [UInt64] = [0, 1, 4096]) -> FormatExtension.Section {
        var data: [UInt8] = []
        data.append(littleEndian: UInt64(614_400))
        data += (0..<16).map { UInt8($0) }
        data.append(littleEndian: UInt32(128))
        data.append(littleEndian: UInt32(table.count))
        for entry in table { data.append(littleEndian: entry) }
        return .init(magic: FormatExtension.Section.dirtyBitmapMagic, flags: 0, data: data)
    }

    private func example() -> FormatExtension {
        FormatExtension(sections: [bitmap(), .init(magic: 77, flags: 2, data: [1, 2, 3])])
    }

    @Test("what is written is read back") func roundTrip() throws {
        let cluster = try example().encode(clusterSize: .smallest)
        let parsed = try FormatExtension(parsing: cluster)
        #expect(parsed == example())
        #expect(try parsed.encode(clusterSize: .smallest) == cluster)
        let bitmap = try #require(try parsed.dirtyBitmaps().first)
        #expect(bitmap.sectorCount == 614_400 && bitmap.granularity == 128 && bitmap.table == [0, 1, 4096])
    }

    @Test("only necessary sections forbid writing without them") func necessary() throws {
        #expect(example().allowsWritingWithout)
        let other = FormatExtension(sections: [.init(magic: 5, flags: 1, data: [])])
        #expect(!other.allowsWritingWithout)
    }

    @Test("every flipped bit is noticed") func bitFlips() throws {
        let cluster = try example().encode(clusterSize: .smallest)
        for bit in 0..<256 * 8 {
            var flipped = cluster
            flipped[bit / 8] ^= 1 << (bit % 8)
            #expect(throws: ImageError.self) { try FormatExtension(parsing: flipped) }
        }
    }

    @Test("every truncation is noticed, with a right checksum too") func truncations() throws {
        let cluster = try example().encode(clusterSize: .smallest)
        for count in 0..<160 {
            var cut = Array(cluster[..<count])
            if count > 24 {
                let sum = cut[24...].withUnsafeBytes { md5($0) }
                cut.replaceSubrange(8..<24, with: sum)
            }
            // Behind the end mark there is only padding.
            if count >= 24 + 24 + 56 + 24 + 8 + 24 { continue }
            #expect(throws: ImageError.self, "\(count) bytes") { try FormatExtension(parsing: cut) }
        }
    }

    @Test("bitmaps that lie about themselves are refused") func hostileBitmaps() throws {
        var section = bitmap()
        section.data[24] = 3
        #expect(throws: ImageError.self) { try FormatExtension(sections: [section]).dirtyBitmaps() }
        section = bitmap()
        section.data[31] = 0xFF
        #expect(throws: ImageError.self) { try FormatExtension(sections: [section]).dirtyBitmaps() }
    }

    @Test("an extension must be a data cluster of the file") func placement() throws {
        var header = try ImageHeader(version: .v2, sectorCount: 40960, clusterSize: .standard)
        #expect(try FormatExtension.offset(in: header, fileBytes: 4 << 20) == nil)
        header.extensionSector = 4096
        #expect(try FormatExtension.offset(in: header, fileBytes: 4 << 20) == 2 << 20)
        for sector: UInt64 in [1, 1024, 6144, 8192, .max, .max - 2047] {
            header.extensionSector = sector
            if sector == 6144 { continue }
            #expect(throws: ImageError.self) { try FormatExtension.offset(in: header, fileBytes: 4 << 20) }
        }
    }
}
