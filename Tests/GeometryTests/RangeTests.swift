import Geometry
import TestSupport
import Testing

@Suite struct RangeTests {
    /// All ranges in 11 bytes.
    private static let small = (0..<11).flatMap { offset in
        (0...11 - offset).map { ByteRange(offset: UInt64(offset), count: UInt64($0)) }
    }

    private func bytes(_ range: ByteRange) -> Set<UInt64> { Set(range.offset..<range.end) }

    @Test("intersection and containment are those of the sets of bytes") func sets() {
        for a in Self.small {
            for b in Self.small {
                let common = a.intersection(b)
                #expect(bytes(common) == bytes(a).intersection(bytes(b)), "\(a) \(b)")
                if !b.isEmpty { #expect(a.contains(b) == bytes(a).isSuperset(of: bytes(b)), "\(a) \(b)") }
            }
        }
    }

    @Test("aligning outward covers with the fewest units, inward holds the most") func alignment() {
        let unit: UInt64 = 4
        for range in Self.small where !range.isEmpty {
            let units = Set(bytes(range).map { $0 / unit })
            let outward = range.alignedOutward(to: unit)
            #expect(bytes(outward) == Set(units.flatMap { $0 * unit..<($0 + 1) * unit }), "\(range)")
            let whole = units.filter { bytes(range).isSuperset(of: $0 * unit..<($0 + 1) * unit) }
            let inward = range.alignedInward(to: unit)
            #expect(bytes(inward) == Set(whole.flatMap { $0 * unit..<($0 + 1) * unit }), "\(range)")
            #expect(inward.offset >= range.offset && inward.end <= range.end)
        }
    }

    @Test("a range that would end beyond 2^64 is none") func overflow() {
        #expect(ByteRange(checking: .max, count: 1) == nil)
        #expect(ByteRange(checking: 1, count: .max) == nil)
        #expect(ByteRange(checking: 1 << 63, count: 1 << 63) == nil)
        #expect(ByteRange(checking: .max, count: 0)?.isEmpty == true)
        #expect(ByteRange(checking: 0, count: .max)?.end == .max)
    }

    @Test("rounding divisions neither lose a rest nor overflow") func division() {
        for unit in [1, 2, 3, 7, 512] as [UInt64] {
            for number in 0..<2000 as Range<UInt64> {
                let units = number.dividedRoundingUp(by: unit)
                #expect(units * unit >= number && (units == 0 || (units - 1) * unit < number), "\(number) by \(unit)")
            }
            #expect(UInt64.max.dividedRoundingUp(by: unit) >= UInt64.max / unit)
        }
        #expect(UInt64.max.dividedRoundingUp(by: .max) == 1 && UInt8(255).dividedRoundingUp(by: 2) == 128)
    }

    @Test("only powers of two from 32 KiB to 64 MiB are cluster sizes") func clusters() throws {
        for shift in 0..<64 as Range<UInt64> {
            let isOne = (15...26).contains(shift)
            #expect((ClusterSize(bytes: 1 << shift) != nil) == isOne, "2^\(shift)")
            #expect(ClusterSize(bytes: 1 << shift | 1) == nil)
            guard isOne else { continue }
            let size = try #require(ClusterSize(bytes: 1 << shift))
            #expect(ClusterSize(sectors: size.sectors) == size)
            let last = size.offset(of: 5) + size.bytes - 1
            #expect(size.cluster(at: last) == 5 && size.remainder(of: last) == size.bytes - 1)
            #expect(size.cluster(at: last + 1) == 6 && size.remainder(of: last + 1) == 0)
        }
        #expect(ClusterSize(bytes: 0) == nil && ClusterSize(sectors: 0) == nil && ClusterSize(sectors: .max) == nil)
    }
}
