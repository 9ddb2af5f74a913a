/// Durations as people write them: `300ms`, `10s`, `2m`, `20h`, `7d`. A bare number is refused: it would not say of
/// what.
public enum DurationText {
    private static let units: [(suffix: String, milliseconds: UInt64)] = [
        ("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000),
    ]

    /// Milliseconds, or `nil` when `text` is no duration or does not fit in 64 bits.
    public static func parse(_ text: String) -> UInt64? {
        for unit in units {
            guard let digits = text.rest(before: unit.suffix) else { continue }
            guard !digits.isEmpty, digits.allSatisfy({ ("0"..."9").contains($0) }), let count = UInt64(digits) else {
                continue
            }
            let (product, overflow) = count.multipliedReportingOverflow(by: unit.milliseconds)
            return overflow ? nil : product
        }
        return nil
    }

    /// Short form for people: `1.2 ms`, `350 ms`, `12.3 s`, `4 min 05 s`, `2 h 03 min`.
    public static func format(nanoseconds: UInt64) -> String {
        let microseconds = nanoseconds / 1000
        if microseconds < 10_000 { return tenths(microseconds / 100) + " ms" }
        let milliseconds = microseconds / 1000
        if milliseconds < 1000 { return "\(milliseconds) ms" }
        let seconds = milliseconds / 1000
        if seconds < 60 { return tenths(milliseconds / 100) + " s" }
        if seconds < 3600 { return "\(seconds / 60) min \(padded(seconds % 60)) s" }
        return "\(seconds / 3600) h \(padded(seconds / 60 % 60)) min"
    }

    private static func tenths(_ count: UInt64) -> String { "\(count / 10).\(count % 10)" }
    private static func padded(_ count: UInt64) -> String { count < 10 ? "0\(count)" : "\(count)" }
}
