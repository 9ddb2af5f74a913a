import Geometry
import ImageFormat
import Testing

/// Bytes written as hexadecimal digits with spaces.
func bytes(_ hex: String) -> [UInt8] {
    let digits = Array(hex.filter { !$0.isWhitespace })
    return stride(from: 0, to: digits.count, by: 2).compactMap { UInt8(String(digits[$0...$0 + 1]), radix: 16) }
}

@Suite struct HeaderTests {
    static let goldenV1 = bytes(
        """
        57 69 74 68 6f 75 74 46 72 65 65 53 70 61 63 65 02 00 00 00 10 00 00 00 50 00 00 00 00 08 00 00
        14 00 00 00 00 a0 00 00 00 00 00 00 00 00 00 00 00 08 00 00 01 00 00 00 00 00 00 00 00 00 00 00
        """)
    static let goldenV2 = bytes(
        """
        57 69 74 68 6f 75 46 72 65 53 70 61 63 45 78 74 02 00 00 00 10 00 00 00 b0 04 00 00 00 08 00 00
        2c 01 00 00 00 60 09 00 00 00 00 00 00 00 00 00 00 08 00 00 01 00 00 00 00 00 00 00 00 00 00 00
        """)

    @Test(
        "a new header has the bytes that ploop writes",
        arguments: [
            (ImageVersion.v1, UInt64(40960), HeaderTests.goldenV1), (.v2, 614_400, HeaderTests.goldenV2),
        ])
    func golden(version: ImageVersion, sectors: UInt64, expected: [UInt8]) throws {
        let header = try ImageHeader(version: version, sectorCount: sectors, clusterSize: .standard)
        #expect(header.encode() == expected)
        let parsed = try ImageHeader(parsing: expected, fileBytes: 1 << 20)
        #expect(parsed == header)
        #expect(parsed.encode() == expected)
    }

    @Test("growing recomputes the geometry and the data area") func grow() throws {
        let cluster = try #require(ClusterSize(bytes: 64 << 10))
        var header = try ImageHeader(version: .v1, sectorCount: 0xa000, clusterSize: cluster)
        #expect(header.clusterCount == 0x140 && header.firstDataSector == 0x80)
        try header.grow(toSectors: 0x226000)
        #expect(header.clusterCount == 0x44c0 && header.sectorCount == 0x226000 && header.firstDataSector == 0x100)
        #expect(header.fields.cylinders == 0x8ba)
        #expect(throws: ImageError.self) { try header.grow(toSectors: 0xa000) }
    }

    @Test("every truncation is an error") func truncations() {
        for count in 0..<64 {
            let error = #expect(throws: ImageError.self) {
                try ImageHeader(parsing: Array(Self.goldenV2[..<count]), fileBytes: 1 << 20)
            }
            #expect(error?.code == (count < 16 ? .notAnImage : .truncated))
        }
        #expect(throws: ImageError.self) { try ImageHeader(parsing: Self.goldenV2, fileBytes: 64) }
        #expect(throws: ImageError.self) { try ImageHeader(parsing: Self.goldenV2, fileBytes: (1 << 20) - 1) }
    }

    @Test(
        "a flipped bit is an error or a valid header that encodes to the same bytes", arguments: [goldenV1, goldenV2])
    func bitFlips(golden: [UInt8]) {
        var accepted: Set<Int> = []
        for bit in 0..<golden.count * 8 {
            var flipped = golden
            flipped[bit / 8] ^= 1 << (bit % 8)
            do throws(ImageError) {
                let header = try ImageHeader(parsing: flipped, fileBytes: 1 << 20)
                #expect(header.encode() == flipped)
                #expect(header.bat.areaBytes <= 1 << 20)
                accepted.insert(bit / 8)
            } catch {
                #expect(!error.message.isEmpty)
                #expect((0..<64).contains(error.offset) || error.code == .truncated)
            }
            if let foreign = try? ForeignHeader(parsing: flipped, fileBytes: 1 << 20) {
                #expect(foreign.tableEnd <= 1 << 20)
            }
        }
        // Heads, cylinders, size below the last cluster, in-use mark, flags, extension offset: nothing else.
        let free = Set(20..<28).union(36..<38).union(44..<48).union(52..<64)
        #expect(accepted.isSubset(of: free))
    }

    @Test(
        "what the format forbids is refused",
        arguments: [
            (16, UInt32(3), ImageError.Code.unsupported), (28, 63, .unsupported), (28, 504, .unsupported),
            (28, 32, .unsupported),
            (28, 262_144, .unsupported), (28, 0, .unsupported), (32, 301, .corrupt), (32, 0, .corrupt),
            (36, 0, .corrupt),
            (40, 1, .corrupt), (48, 0, .corrupt), (48, 100, .corrupt), (48, 4096, .truncated),
            (48, 0xFFFF_F800, .truncated),
        ])
    func forbidden(offset: Int, value: UInt32, code: ImageError.Code) {
        var header = Self.goldenV2
        for index in 0..<4 { header[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * UInt32(index))) }
        let error = #expect(throws: ImageError.self) { try ImageHeader(parsing: header, fileBytes: 1 << 20) }
        #expect(error?.code == code)
    }

    @Test("a version 1 header with the upper half of the size in use is refused") func reservedWord() {
        var header = Self.goldenV1
        header[40] = 1
        #expect(throws: ImageError.self) { try ImageHeader(parsing: header, fileBytes: 1 << 20) }
    }

    @Test("an interrupted version conversion is refused, a finished one is not") func conversion() throws {
        var header = try ImageHeader(parsing: Self.goldenV1, fileBytes: 1 << 20)
        header.flags.insert(.versionConversion)
        _ = try ImageHeader(parsing: header.encode(), fileBytes: 1 << 20)
        header.inUse = .open
        let error = #expect(throws: ImageError.self) { try ImageHeader(parsing: header.encode(), fileBytes: 1 << 20) }
        #expect(error?.code == .unsupported)
    }

    @Test("only 0 and the extension's mark mean closed") func marks() {
        #expect(InUseMark.closed.isClean && InUseMark.closedWithExtension.isClean)
        #expect(!InUseMark.open.isClean && !InUseMark(rawValue: 1).isClean)
    }

    @Test(
        "sizes at the limits",
        arguments: [
            (ImageVersion.v1, UInt32(64), UInt64(UInt32.max) - 63, true), (.v1, 64, UInt64(UInt32.max), false),
            (.v1, 2048, UInt64(UInt32.max) - 2047, true), (.v2, 64, UInt64(UInt32.max) * 64, true),
            (.v2, 64, UInt64(UInt32.max) * 64 + 1, false), (.v2, 131_072, UInt64(UInt32.max) * 131_072, true),
            (.v2, 131_072, UInt64.max, false), (.v2, 2048, 0, false), (.v2, 2048, 1, true),
        ])
    func limits(version: ImageVersion, cluster: UInt32, sectors: UInt64, isValid: Bool) throws {
        let clusterSize = try #require(ClusterSize(sectors: cluster))
        guard isValid else {
            #expect(throws: ImageError.self) {
                try ImageHeader(version: version, sectorCount: sectors, clusterSize: clusterSize)
            }
            return
        }
        let header = try ImageHeader(version: version, sectorCount: sectors, clusterSize: clusterSize)
        #expect(header.sectorCount == sectors)
        #expect(UInt64(header.clusterCount) == (sectors + UInt64(cluster) - 1) / UInt64(cluster))
        #expect(header.bat.endOffset <= header.bat.areaBytes)
        #expect(header.bat.areaBytes - header.bat.endOffset < clusterSize.bytes)
        #expect(try ImageHeader(parsing: header.encode(), fileBytes: header.bat.areaBytes) == header)
    }

    @Test("a 64 TiB disk has the table that it needs") func large() throws {
        let header = try ImageHeader(version: .v2, sectorCount: 64 << 31, clusterSize: .standard)
        #expect(header.clusterCount == 64 << 20)
        #expect(header.firstDataCluster == 257)
    }

    @Test("disk sizes that are no multiple of the cluster are read as they are") func unaligned() throws {
        // As QEMU makes them: 20000000 bytes.
        var fields = try ImageHeader(version: .v2, sectorCount: 40960, clusterSize: .standard).encode()
        fields[36] = 0x97
        fields[37] = 0x98
        let header = try ImageHeader(parsing: fields, fileBytes: 1 << 20)
        #expect(header.sectorCount == 39063 && header.clusterCount == 20)
    }
}
