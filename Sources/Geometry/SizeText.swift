/// Sizes as people write them: `10G`, `64K`, `512`. Units are powers of 1024; a bare number is bytes.
public enum SizeText {
    private static let units: [Character: UInt64] = ["B": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50]

    /// Bytes, or `nil` when `text` is no size or does not fit in 64 bits. Accepts `10G`, `10g`, `10GiB`, `1.5G`.
    public static func parse(_ text: String) -> UInt64? {
        var rest = Substring(text.uppercased())
        if rest.ends(with: "IB") {
            rest = rest.dropLast(2)
        } else if rest.count > 1, rest.ends(with: "B") {
            rest = rest.dropLast()
        }
        var shift: UInt64 = 0
        if let last = rest.last, let unit = units[last] {
            shift = unit
            rest = rest.dropLast()
        }
        let parts = rest.parts(between: ".", keepsEmpty: true)
        guard (1...2).contains(parts.count), let whole = digits(parts[0]) else { return nil }
        let (scaled, overflow) = whole.multipliedReportingOverflow(by: 1 << shift)
        guard !overflow else { return nil }
        guard parts.count == 2 else { return scaled }
        guard shift > 0, (1...6).contains(parts[1].count), let fraction = digits(parts[1]) else { return nil }
        let unit = (0..<parts[1].count).reduce(UInt64(1)) { power, _ in power * 10 }
        let (high, low) = fraction.multipliedFullWidth(by: 1 << shift)
        let (sum, carry) = scaled.addingReportingOverflow(unit.dividingFullWidth((high, low)).quotient)
        return carry ? nil : sum
    }

    private static func digits(_ text: Substring) -> UInt64? {
        guard !text.isEmpty, text.allSatisfy({ ("0"..."9").contains($0) }) else { return nil }
        return UInt64(text)
    }

    /// Short form for people: `8 GiB`, `1.5 MiB`, `512 B`.
    public static func format(_ bytes: UInt64) -> String {
        let names = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
        var unit = 0
        while unit < 6, bytes >> UInt64(10 * (unit + 1)) > 0 { unit += 1 }
        let whole = bytes >> UInt64(10 * unit)
        guard unit > 0, whole < 100 else { return "\(whole) \(names[unit])" }
        let tenths = (bytes >> UInt64(10 * (unit - 1)) & 1023) * 10 / 1024
        return tenths == 0 ? "\(whole) \(names[unit])" : "\(whole).\(tenths) \(names[unit])"
    }
}
