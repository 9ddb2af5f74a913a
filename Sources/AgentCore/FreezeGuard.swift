internal import Geometry
public import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// The process that freezes file systems, and thaws them whatever happens to who asked: at the word `thaw`, when its
/// standard input ends, at a signal, and at the deadline. `godwit internal-freeze-guard` runs it.
///
/// The kernel does not thaw when a freezer dies, so there are three: this process thaws when its parent dies, the
/// parent when this one does, and a third one, in a session and where it can be a control group of its own, when this
/// one dies or does not keep its deadline. So what kills a command with all of its group, session or service leaves
/// nothing frozen; only who kills all three by hand does (`fsfreeze -u` thaws it then).
///
/// On standard output: `frozen`, or `failed MESSAGE`; then `thawed EXPIRED NANOSECONDS`, with 1 when the deadline came
/// first, and how long writes stood still.
public enum FreezeGuard {
    /// Freezes all of `targets` (or none), says so on standard output, waits, thaws.
    /// - Returns: the exit code.
    public static func run(_ targets: [FreezeTarget], deadlineMilliseconds: UInt64) -> Int32 {
        ignoreBrokenPipes()
        let input = OwnedDescriptor(adopting: 0)
        let output = OwnedDescriptor(adopting: 1)
        do throws(SystemError) {
            let signals = try SignalWatch([Signal.terminate, Signal.interrupt, Signal.hangUp])
            let watcher = try Watcher(targets, deadlineMilliseconds)
            for target in targets { try FreezeHandle.synchronize(target) }
            // That may have taken long, and whoever wanted the freeze have gone.
            if try isToldToThaw(input, signals, milliseconds: 0) {
                throw SystemError(errno: .canceled, operation: "freeze", subject: "what nobody waits for any more")
            }
            let time = SystemTime()
            let start = time.monotonic()
            try watcher.begin()
            // Those frozen before one fails thaw when the list goes.
            var handles: [FreezeHandle] = []
            for target in targets { handles.append(try FreezeHandle(freezing: target)) }
            try? output.writeAll(Array("frozen\n".utf8))
            let isExpired = try wait(input, signals, until: start + deadlineMilliseconds * 1_000_000, time)
            // The last frozen first: a file system may lie in a file of one frozen before it.
            for handle in handles.reversed() { try handle.thaw() }
            let nanoseconds = time.elapsed(since: start)
            watcher.dismiss()
            try? output.writeAll(Array("thawed \(isExpired ? 1 : 0) \(nanoseconds)\n".utf8))
            return 0
        } catch {
            try? output.writeAll(Array("failed \(error)\n".utf8))
            return 1
        }
    }

    /// The third process, seen from the guard.
    private final class Watcher {
        private let child: ChildProcess
        private let word: OwnedDescriptor

        init(_ targets: [FreezeTarget], _ deadlineMilliseconds: UInt64) throws(SystemError) {
            let pipe = try Pipe()
            child = try ChildProcess(
                Installation.executable(),
                ["internal-freeze-guard", "--watch", "--deadline", "\(deadlineMilliseconds)ms", "--"]
                    + targets.map(\.argument),
                // It holds the guard's output open: who waits for the end of that waits for its thaw, too.
                input: .descriptor(pipe.reading.number), output: .inherited, errors: .inherited, tie: .ownSession)
            word = pipe.keepWriting()
        }

        /// What is frozen from here on has to be thawed by the deadline. What came before may have taken long: there
        /// was much to write.
        func begin() throws(SystemError) { try word.writeAll([Word.begin]) }

        /// All is thawed.
        func dismiss() { try? word.writeAll([Word.dismiss]) }

        // Dropped undismissed when the freeze failed: there is nothing to thaw then, either.
        deinit { dismiss() }
    }

    /// What the guard tells the third process, in this order.
    private enum Word {
        static let begin: UInt8 = 2
        static let dismiss: UInt8 = 1
    }

    /// What the third process has beyond the deadline, before it takes the guard for one that hangs.
    private static let slackMilliseconds: UInt64 = 5_000

    /// Waits for the guard's word that all is thawed, or for its end, and in that case thaws.
    /// - Returns: the exit code.
    public static func watch(_ targets: [FreezeTarget], deadlineMilliseconds: UInt64) -> Int32 {
        // A service is stopped with all of its control group. Where this is not to be had, the session has to do.
        if let procs = try? openDescriptor("/sys/fs/cgroup/cgroup.procs", writable: true) {
            try? procs.writeAll(Array("\(ownProcess())".utf8))
        }
        let input = OwnedDescriptor(adopting: 0)
        // Without that word nothing is frozen.
        guard (try? input.readSome(upTo: 1)) == [Word.begin] else { return 0 }
        var entries = [PollEntry(input.number, .readable)]
        let milliseconds = Int(clamping: deadlineMilliseconds + slackMilliseconds)
        let count = (try? pollDescriptors(&entries, deadlineMilliseconds: milliseconds)) ?? 0
        if count == 0 {
            thaw(targets)
            // Its freeze may still be on its way in the kernel, where nothing ends it: then it is thawed after that.
        }
        if (try? input.readSome(upTo: 1))?.isEmpty == false { return 0 }
        thaw(targets)
        return 1
    }

    /// For one of them; one that hangs, behind a freeze that hangs, must not keep the others frozen.
    private static let thawNanoseconds: UInt64 = 1_000_000_000

    private static func thaw(_ targets: [FreezeTarget]) {
        for target in targets.reversed() {
            let isOver = Monitor(false)
            let thread = try? OwnThread(name: "thaw") {
                _ = try? FreezeHandle.thaw(target)
                isOver.change { $0 = true }
            }
            if thread == nil { _ = try? FreezeHandle.thaw(target) }
            _ = isOver.wait(until: SystemTime().monotonic() + thawNanoseconds) { $0 ? true : nil }
        }
    }

    /// Waits for any reason to thaw. - Returns: whether it was the deadline.
    private static func wait(
        _ input: borrowing OwnedDescriptor, _ signals: SignalWatch, until deadline: UInt64, _ time: some TimeSource
    ) throws(SystemError) -> Bool {
        let now = time.monotonic()
        guard now < deadline else { return true }
        // Rounded up, so as not to thaw a moment early.
        return try !isToldToThaw(input, signals, milliseconds: Int((deadline - now + 999_999) / 1_000_000))
    }

    /// Any input is a reason to thaw: its only word, or its end.
    private static func isToldToThaw(
        _ input: borrowing OwnedDescriptor, _ signals: SignalWatch, milliseconds: Int
    ) throws(SystemError) -> Bool {
        var entries = [PollEntry(input.number, .readable), PollEntry(signals.descriptor, .readable)]
        return try pollDescriptors(&entries, deadlineMilliseconds: milliseconds) > 0
    }
}

/// A running ``FreezeGuard``, seen from its parent. Dropping it thaws.
final class Freeze: Sendable {
    private let targets: [FreezeTarget]
    private let child: ChildProcess
    private let input: OwnedDescriptor
    private let output: OwnedDescriptor
    /// The guard goes on by itself: it freezes nothing.
    private let isLeft = Mutex(false)
    /// How often it is looked whether the guard waits for a disk's server.
    private static let lookMilliseconds = 3000
    /// How long the guard may take for what it does beyond waiting, such as thawing.
    private static let slackMilliseconds = 120_000
    /// How long the guest's dirty data may take to be stored before the freeze.
    private static let storeMilliseconds = 240_000

    /// Freezes all of `targets`.
    /// - Parameter servers: of the disks that they lie on. What is written before a freeze may wait for them without
    ///   end, and nobody waits for that.
    /// - Throws: why not; then none is frozen.
    init(
        _ targets: [FreezeTarget], deadlineMilliseconds: UInt64, executable: String, servers: [ServerSign] = []
    ) throws(AgentError) {
        ignoreBrokenPipes()
        self.targets = targets
        do throws(SystemError) {
            let input = try Pipe()
            let output = try Pipe()
            child = try ChildProcess(
                executable,
                ["internal-freeze-guard", "--deadline", "\(deadlineMilliseconds)ms", "--"] + targets.map(\.argument),
                input: .descriptor(input.reading.number), output: .descriptor(output.writing.number),
                errors: .inherited, tie: .ownSession)
            self.input = input.keepWriting()
            self.output = output.keepReading()
        } catch {
            throw AgentError(error)
        }
        let words = try firstWords(servers)
        guard words.first == "frozen" else {
            // One that says why it failed has thawed what it froze; the rest is frozen by somebody else.
            guard words.first == "failed" else {
                thawAll()
                throw AgentError(.commandFailed, "the freeze guard died")
            }
            // Its end is awaited, or what goes with this one would take it for a dead one, and thaw another's freeze.
            _ = try? child.wait(deadlineMilliseconds: Self.slackMilliseconds)
            let reason = words.dropFirst().joined(separator: " ")
            let hint =
                reason.ends(with: "busy") ? ": it is frozen already; 'fsfreeze -u' ends that, if nobody needs it" : ""
            throw AgentError(hint.isEmpty ? .io : .busy, "cannot freeze: \(reason)\(hint)")
        }
    }

    var guardIdentifier: Int32 { child.identifier }

    /// Thaws. - Returns: whether the deadline had come first, and how long writes stood still.
    /// - Throws: when the guard died: the file systems are thawed, but nobody knows since when.
    func thaw() throws(AgentError) -> (isExpired: Bool, nanoseconds: UInt64) {
        try? input.writeAll(Array("thaw\n".utf8))
        let words: [Substring]
        do throws(AgentError) {
            words = try next()
        } catch {
            thawAll()
            throw error
        }
        guard words.count == 3, words[0] == "thawed", let nanoseconds = UInt64(words[2]) else {
            thawAll()
            throw AgentError(.expired, "the freeze guard died: the file systems may have been thawed too early")
        }
        _ = try? child.wait(deadlineMilliseconds: Self.slackMilliseconds)
        return (words[1] != "0", nanoseconds)
    }

    /// What the guard says of its freeze.
    private func firstWords(_ servers: [ServerSign]) throws(AgentError) -> [Substring] {
        let deadline = SystemTime().monotonic() + UInt64(Self.storeMilliseconds) * 1_000_000
        while SystemTime().monotonic() < deadline {
            var entries = [PollEntry(output.number, .readable)]
            let isThere = try withAgentError { () throws(SystemError) in
                try pollDescriptors(&entries, deadlineMilliseconds: Self.lookMilliseconds) > 0
            }
            if isThere { return try next() }
            for server in servers {
                guard let stall = server.stall() else { continue }
                leave()
                throw AgentError(
                    stalled: stall.code,
                    "what \(targets.map(\.path).joined(separator: ", ")) has to store before it can be "
                        + "frozen waits for the disk's server, and is left to itself: \(stall). It ends without "
                        + "a freeze")
            }
        }
        // Whatever it has frozen the third process thaws when it is gone.
        leave()
        throw AgentError(
            .timeout,
            "\(targets.map(\.path).joined(separator: ", ")) could not be frozen in \(Self.storeMilliseconds / 1000) s: "
                + "what is to be stored before does not get through, or the freeze guard was stopped")
    }

    /// Nobody waits for the guard any more, which may hang in the kernel: it ends when that is over.
    private func leave() {
        try? input.writeAll(Array("thaw\n".utf8))
        isLeft.withLock { $0 = true }
        try? child.send(Signal.kill)
        child.detach()
    }

    /// The words of the guard's next line; none when it has ended.
    private func next() throws(AgentError) -> [Substring] {
        var line: [UInt8] = []
        do throws(SystemError) {
            while line.last != UInt8(ascii: "\n"), line.count < 4096 {
                var entries = [PollEntry(output.number, .readable)]
                guard try pollDescriptors(&entries, deadlineMilliseconds: Self.slackMilliseconds) > 0 else {
                    throw SystemError(errno: .timedOut, operation: "wait for", subject: "the freeze guard")
                }
                let part = try output.readSome(upTo: 1)
                if part.isEmpty { return [] }
                line += part
            }
        } catch {
            throw AgentError(.timeout, "\(error)")
        }
        let text = String(decoding: line.dropLast(), as: UTF8.self)
        return text.parts(between: " ")
    }

    /// Instead of a guard that died. Those that are not frozen are left alone.
    private func thawAll() {
        try? child.send(Signal.kill)
        // One that hangs in the kernel, in a freeze that waits for a device, would have this process hang in its thaw.
        // It is left to the third process, which thaws when it has ended.
        guard (try? child.wait(deadlineMilliseconds: Self.slackMilliseconds)) != nil else { return child.detach() }
        for target in targets.reversed() { _ = try? FreezeHandle.thaw(target) }
    }

    deinit {
        // The end of its input is the guard's word to thaw; a dead guard's work is done here.
        guard !isLeft.withLock({ $0 }) else { return }
        guard (try? child.exitCode()) == .some(nil) else { return }
        try? input.writeAll(Array("thaw\n".utf8))
        guard (try? child.wait(deadlineMilliseconds: Self.slackMilliseconds)) != .some(0) else { return }
        thawAll()
    }
}
