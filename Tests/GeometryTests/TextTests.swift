import Geometry
import TestSupport
import Testing

@Suite struct TextTests {
    @Test(
        "sizes are read as people write them",
        arguments: [
            ("0", 0), ("512", 512), ("1B", 1), ("64K", 64 << 10), ("64k", 64 << 10), ("64KB", 64 << 10),
            ("64KiB", 64 << 10), ("10G", 10 << 30), ("1.5G", 3 << 29), ("0.5K", 512), ("2T", 2 << 40), ("1P", 1 << 50),
            ("16383P", 16383 << 50), ("18446744073709551615", .max), ("0.000001M", 1),
        ] as [(String, UInt64)])
    func sizes(text: String, bytes: UInt64) { #expect(SizeText.parse(text) == bytes) }

    @Test(
        "what is no size, or does not fit, is refused",
        arguments: [
            "", " ", "G", "B", "iB", "-1", "+1", "1 G", " 1G", "1G ", "1.G", ".5G", "1..5G", "1.5", "1.5.5G", "1,5G",
            "0x10",
            "1e3", "10Q", "10GG", "1GiBiB", "18446744073709551616", "16384P", "99999999999999999999G", "1.1234567G",
            "１G", "٣G", "1\u{301}G",
        ])
    func refusedSizes(text: String) { #expect(SizeText.parse(text) == nil) }

    @Test(
        "sizes are told short",
        arguments: [
            (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (8 << 30, "8 GiB"),
            (99 << 20 | 512 << 10, "99.5 MiB"), (100 << 20 | 512 << 10, "100 MiB"), (.max, "15.9 EiB"),
        ] as [(UInt64, String)])
    func toldSizes(bytes: UInt64, text: String) { #expect(SizeText.format(bytes) == text) }

    @Test("no number makes a size or a duration trap") func anyNumber() {
        var random = SeededRandom("size and duration texts")
        for _ in 0..<3000 {
            let number = random.next() >> UInt64(random.below(64))
            #expect(!SizeText.format(number).isEmpty && !DurationText.format(nanoseconds: number).isEmpty)
            #expect(SizeText.parse("\(number)") == number)
            for unit in ["K", "M", "G", "T", "P"] { _ = SizeText.parse("\(number).\(random.below(1 << 20))\(unit)") }
            for unit in ["ms", "s", "m", "h", "d"] { _ = DurationText.parse("\(number)\(unit)") }
        }
    }

    @Test(
        "durations are read with their unit",
        arguments: [
            ("0s", 0), ("300ms", 300), ("10s", 10_000), ("2m", 120_000), ("20h", 72_000_000), ("7d", 604_800_000),
            ("18446744073709551615ms", .max),
        ] as [(String, UInt64)])
    func durations(text: String, milliseconds: UInt64) { #expect(DurationText.parse(text) == milliseconds) }

    @Test(
        "what is no duration, or does not fit, is refused",
        arguments: [
            "", "10", "s", "ms", "-1s", "+1s", "1 s", "1.5s", "1S", "1w", "1us", "18446744073709551616ms",
            "213503982335d", "٣s",
        ])
    func refusedDurations(text: String) { #expect(DurationText.parse(text) == nil) }

    @Test(
        "durations are told short",
        arguments: [
            (0, "0.0 ms"), (1_250_000, "1.2 ms"), (9_999_999, "9.9 ms"), (350_000_000, "350 ms"),
            (12_345_000_000, "12.3 s"), (245_000_000_000, "4 min 05 s"), (7_380_000_000_000, "2 h 03 min"),
        ] as [(UInt64, String)])
    func toldDurations(nanoseconds: UInt64, text: String) {
        #expect(DurationText.format(nanoseconds: nanoseconds) == text)
    }
}
