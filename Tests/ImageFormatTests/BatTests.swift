import Geometry
import ImageFormat
import Testing

@Suite struct BatTests {
    private func geometry(_ version: ImageVersion, sectors: UInt64 = 0xa000, cluster: UInt64 = 64 << 10) throws
        -> BatGeometry
    {
        let size = try #require(ClusterSize(bytes: cluster))
        return try ImageHeader(version: version, sectorCount: sectors, clusterSize: size).bat
    }

    @Test("version 1 counts sectors, version 2 clusters") func units() throws {
        let v1 = try geometry(.v1)
        let v2 = try geometry(.v2)
        #expect(v1.decode(0x200, fileBytes: 5 << 16) == .cluster(4))
        #expect(v1.encode(4) == 0x200)
        #expect(v2.decode(4, fileBytes: 5 << 16) == .cluster(4))
        #expect(v2.encode(4) == 4)
        #expect(v1.decode(0, fileBytes: 5 << 16) == .unallocated)
    }

    @Test("entries that lead nowhere are told apart") func faults() throws {
        let v1 = try geometry(.v1)
        let v2 = try geometry(.v2)
        #expect(v1.decode(0x81, fileBytes: 5 << 16) == .invalid(.misaligned))
        #expect(v2.decode(5, fileBytes: 5 << 16) == .invalid(.beyondFile))
        #expect(v2.decode(4, fileBytes: (5 << 16) - 1) == .invalid(.beyondFile))
        #expect(v2.decode(UInt32.max, fileBytes: .max) == .cluster(UInt64(UInt32.max)))
        #expect(v1.decode(UInt32.max, fileBytes: .max) == .invalid(.misaligned))
        let large = try geometry(.v2, sectors: 0x226000)
        #expect(large.firstDataCluster == 2)
        #expect(large.decode(1, fileBytes: 5 << 16) == .invalid(.beforeData))
    }

    @Test("what a version can't express has no entry") func encodingLimits() throws {
        #expect(try geometry(.v1).encode(1 << 25) == nil)
        #expect(try geometry(.v1).encode((1 << 25) - 1) == 0xFFFF_FF80)
        #expect(try geometry(.v2).encode(UInt64(UInt32.max)) == nil)
        #expect(try geometry(.v2).encode(UInt64(UInt32.max) - 1) == UInt32.max - 1)
        #expect(try geometry(.v2).encode(.max) == nil)
    }

    @Test("pages cover all entries once, in order", arguments: [UInt64(64), 512, 4096, 65536])
    func pages(pageBytes: UInt64) throws {
        let bat = try geometry(.v2, sectors: 0x226000)
        var next: UInt32 = 0
        for page in 0...(bat.endOffset / pageBytes + 1) {
            let entries = bat.entries(inPage: page, pageBytes: pageBytes)
            guard !entries.isEmpty else { continue }
            #expect(entries.lowerBound == next)
            #expect(bat.page(ofEntry: entries.lowerBound, pageBytes: pageBytes) == page)
            #expect(bat.page(ofEntry: entries.upperBound - 1, pageBytes: pageBytes) == page)
            next = entries.upperBound
        }
        #expect(next == bat.clusterCount)
        #expect(bat.entries(inPage: .max, pageBytes: pageBytes).isEmpty)
    }

    @Test("every flipped bit of a table is an entry of some kind") func bitFlips() throws {
        for version in ImageVersion.allCases {
            let bat = try geometry(version)
            let raw = try #require(bat.encode(4))
            for bit in 0..<32 {
                switch bat.decode(raw ^ 1 << UInt32(bit), fileBytes: 8 << 16) {
                case .cluster(let place): #expect(place >= 1 && place < 8)
                case .unallocated: #expect(raw == 1 << UInt32(bit))
                case .invalid: break
                }
            }
        }
    }
}
