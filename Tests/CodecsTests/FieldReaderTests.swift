import Codecs
import TestSupport
import Testing

@Suite struct FieldReaderTests {
    private enum Value: Equatable {
        case number(UInt64)
        case bytes([UInt8])
        case skipped
    }

    /// A record of 1 + 2 + 4 + 8 + 5 + 3 bytes, and where each field ends.
    private static let ends = [1, 3, 7, 15, 20, 23]
    private static let record: [UInt8] = {
        var bytes: [UInt8] = []
        bytes.append(littleEndian: UInt8(0xfe))
        bytes.append(littleEndian: UInt16(0x0102))
        bytes.append(littleEndian: UInt32(0xdead_beef))
        bytes.append(littleEndian: UInt64(0x8000_0000_0000_0001))
        return bytes + [1, 2, 3, 4, 5, 9, 9, 9]
    }()
    private static let values: [Value] = [
        .number(0xfe), .number(0x0102), .number(0xdead_beef), .number(0x8000_0000_0000_0001), .bytes([1, 2, 3, 4, 5]),
        .skipped,
    ]

    /// Reads the record's fields one after the other. - Returns: those before the first error, and that.
    private func read(_ bytes: [UInt8]) -> (values: [Value], error: FieldError?, remaining: Int) {
        var fields = FieldReader(bytes.span.bytes)
        var values: [Value] = []
        do throws(FieldError) {
            values.append(.number(UInt64(try fields.next("a", as: UInt8.self))))
            values.append(.number(UInt64(try fields.next("b", as: UInt16.self))))
            values.append(.number(UInt64(try fields.next("c", as: UInt32.self))))
            values.append(.number(try fields.next("d", as: UInt64.self)))
            values.append(.bytes(try fields.bytes("e", count: 5)))
            try fields.skip("f", count: 3)
            values.append(.skipped)
        } catch { return (values, error, fields.remaining) }
        return (values, nil, fields.remaining)
    }

    @Test("integers are little-endian, at their place") func order() {
        #expect(Self.record.prefix(7) == [0xfe, 2, 1, 0xef, 0xbe, 0xad, 0xde])
        let whole = read(Self.record + [7])
        #expect(whole.values == Self.values && whole.error == nil && whole.remaining == 1)
    }

    @Test("every truncation is an error at the field that is cut, and the fields before it are right")
    func truncations() {
        for count in 0..<Self.record.count {
            let cut = read(Array(Self.record.prefix(count)))
            let whole = Self.ends.prefix { $0 <= count }.count
            #expect(cut.values == Array(Self.values.prefix(whole)), "\(count) bytes")
            let start = whole == 0 ? 0 : Self.ends[whole - 1]
            #expect(cut.error?.offset == start, "\(count) bytes")
            #expect(cut.error?.message.hasSuffix("is cut off") == true)
            #expect(cut.remaining == count - start, "an error takes nothing")
        }
    }

    @Test("a length that cannot be is an error, not a trap", arguments: [-1, 24, Int.max, Int.min])
    func lengths(count: Int) {
        var fields = FieldReader(Self.record.span.bytes)
        #expect(throws: FieldError.self) { _ = try fields.bytes("x", count: count) }
        #expect(throws: FieldError.self) { try fields.skip("x", count: count) }
        #expect(fields.position == 0 && fields.remaining == 23)
    }

    @Test("nothing can be read of nothing, and nothing of it is no error") func empty() throws {
        let none: [UInt8] = []
        var fields = FieldReader(none.span.bytes)
        #expect(try fields.bytes("x", count: 0) == [])
        try fields.skip("x", count: 0)
        #expect(throws: FieldError.self) { _ = try fields.next("x", as: UInt8.self) }
    }

    @Test("what is written is read, whatever the number") func roundTrip() throws {
        var random = SeededRandom("field round trip")
        for _ in 0..<500 {
            let numbers = (UInt16.random(in: 0 ... .max, using: &random), random.next(), UInt32(random.below(1 << 32)))
            var bytes: [UInt8] = []
            bytes.append(littleEndian: numbers.0)
            bytes.append(littleEndian: numbers.1)
            bytes.append(littleEndian: numbers.2)
            var fields = FieldReader(bytes.span.bytes)
            #expect(try fields.next("a", as: UInt16.self) == numbers.0)
            #expect(try fields.next("b", as: UInt64.self) == numbers.1)
            #expect(try fields.next("c", as: UInt32.self) == numbers.2)
        }
    }
}
