internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// Shows progress on standard error: one line that is rewritten on a terminal, a line every ten seconds otherwise,
/// nothing with `--quiet` or `--json`. Also answers whether to go on: not after Ctrl-C.
final class ProgressDisplay: Sendable {
    private let meter: Mutex<ProgressMeter>
    private let isTerminal: Bool
    private let isShown: Bool
    private let hasLine = Mutex(false)
    private let time: any TimeSource

    init(
        _ label: String, _ common: CommonOptions, counts: ProgressMeter.Counts = .bytes,
        time: any TimeSource = SystemTime()
    ) {
        isTerminal = LinuxSystem.isTerminal(2)
        isShown = !common.quiet && !common.json
        meter = Mutex(ProgressMeter(label, interval: isTerminal ? 200_000_000 : 10_000_000_000, counts: counts))
        self.time = time
    }

    /// - Returns: whether to go on.
    func update(_ done: UInt64, _ total: UInt64) -> Bool {
        if isShown, let line = meter.withLock({ $0.line(done: done, total: total, at: time.monotonic()) }) {
            if isTerminal {
                hasLine.withLock { $0 = true }
                Report.write("\r\u{1B}[K" + PrintableText.of(line), to: .standardError)
            } else {
                Report.write(PrintableText.of(line) + "\n", to: .standardError)
            }
        }
        return !Interruption.isRequested
    }

    /// Removes the line, so that what follows starts on a clean one.
    func finish() {
        if hasLine.withLock({ had in
            defer { had = false }; return had
        }) {
            Report.write("\r\u{1B}[K", to: .standardError)
        }
    }
}
