internal import Geometry

/// Turns counts into lines of progress; a pure value, so that tests script the time.
struct ProgressMeter {
    /// What is going on: `reading`, `merging`.
    let label: String
    /// Nanoseconds between two lines.
    let interval: UInt64
    let counts: Counts
    private var start: UInt64?
    private var first: UInt64 = 0
    private var shown: UInt64 = 0

    /// What is counted.
    enum Counts { case bytes, items }

    init(_ label: String, interval: UInt64, counts: Counts = .bytes) {
        self.label = label
        self.interval = interval
        self.counts = counts
    }

    private func text(_ count: UInt64) -> String { counts == .bytes ? SizeText.format(count) : "\(count)" }

    /// The line to show now, or `nil` when the last one is too young.
    mutating func line(done: UInt64, total: UInt64, at now: UInt64) -> String? {
        guard let start else {
            (start, first, shown) = (now, done, now)
            return nil
        }
        guard now - shown >= interval else { return nil }
        shown = now
        let elapsed = max(now - start, 1)
        let moved = done >= first ? done - first : 0
        // The figures may be a peer's word.
        let rate = UInt64(min(Double(moved) * 1e9 / Double(elapsed), 1e18))
        guard total > 0 else { return "\(label): \(text(done)), \(text(rate))/s" }
        let percent = UInt64(Double(min(done, total)) * 100 / Double(total))
        var line = "\(label): \(percent) %, \(text(done)) of \(text(total)), \(text(rate))/s"
        if rate > 0, done < total {
            let left = Double(total - done) * 1e9 / Double(rate)
            if left < 1e18 { line += ", \(DurationText.format(nanoseconds: UInt64(left))) left" }
        }
        return line
    }
}
