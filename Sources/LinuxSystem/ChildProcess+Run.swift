internal import SystemPackage

/// What a program printed and how it ended.
public struct ProgramResult: Hashable, Sendable {
    /// 128 + the signal that killed it.
    public var exitCode: CInt
    public var output: [UInt8]
    public var errors: [UInt8]
    /// It was killed because its time was over.
    public var isTimedOut: Bool
    public var outputText: String { String(decoding: output, as: UTF8.self) }
    public var errorText: String { String(decoding: errors, as: UTF8.self) }
}

extension ChildProcess {
    /// What a pipe takes at once, without blocking, when it is writable.
    private static let pipeAtom = 4096

    /// Runs a program to its end. The first `limit` bytes of each of its streams are kept, the rest is dropped.
    /// - Parameters:
    ///   - input: what it reads; `nil`: nothing.
    ///   - deadlineMilliseconds: it is killed when it takes longer; `nil`: for ever.
    ///   - tie: to the thread that calls.
    ///   - lookMilliseconds: how often `goesOn` is asked.
    ///   - goesOn: `false` has it killed, as if its time were over.
    public static func run(
        _ program: String, _ arguments: [String], environment: [String: String]? = nil, input: [UInt8]? = nil,
        limit: Int = 16 << 20, deadlineMilliseconds: Int? = nil, tie: Tie = .standard,
        lookMilliseconds: Int? = nil, goesOn: () -> Bool = { true }
    ) throws(SystemError) -> ProgramResult {
        let outputPipe = try Pipe()
        let errorPipe = try Pipe()
        let inputPipe = try Pipe()
        if input != nil { ignoreBrokenPipes() }
        let child = try ChildProcess(
            program, arguments, environment: environment,
            input: input == nil ? .null : .descriptor(inputPipe.reading.number),
            output: .descriptor(outputPipe.writing.number), errors: .descriptor(errorPipe.writing.number), tie: tie)
        // Our copies of the child's ends must go, or its end would not be the end of the streams.
        let output = outputPipe.keepReading()
        let errors = errorPipe.keepReading()
        var feed: OwnedDescriptor? = inputPipe.keepWriting()
        var rest = (input ?? [])[...]
        var result = ProgramResult(exitCode: 0, output: [], errors: [], isTimedOut: false)
        let time = SystemTime()
        let start = time.monotonic()
        var entries = [
            PollEntry(child.descriptor, .readable), PollEntry(output.number, .readable),
            PollEntry(errors.number, .readable), PollEntry(-1, .writable),
        ]
        var nextLook = lookMilliseconds ?? .max
        var killed: Int?
        while true {
            if rest.isEmpty { feed = nil }
            entries[3].descriptor = feed?.number ?? -1
            // After its end only what is already in the pipes counts: a daemon it left behind may keep them open.
            let hasEnded = entries[0].descriptor < 0
            let passed = Int(time.elapsed(since: start) / 1_000_000)
            if !hasEnded, killed == nil {
                var isOver = passed >= deadlineMilliseconds ?? .max
                if !isOver, passed >= nextLook {
                    isOver = !goesOn()
                    nextLook = Int(time.elapsed(since: start) / 1_000_000) + (lookMilliseconds ?? 0)
                }
                // It may have ended while that was asked.
                if isOver, try child.wait(deadlineMilliseconds: 0) == nil {
                    try child.send(Signal.kill)
                    killed = passed
                    result.isTimedOut = true
                }
            }
            if !hasEnded, let killed, passed - killed >= Self.killedMilliseconds {
                child.detach()
                result.exitCode = 128 + Signal.kill
                return result
            }
            let next = killed.map { $0 + Self.killedMilliseconds } ?? min(deadlineMilliseconds ?? .max, nextLook)
            let remaining = next == .max ? nil : max(0, next - passed)
            let ready = try pollDescriptors(&entries, deadlineMilliseconds: hasEnded ? 0 : remaining)
            if hasEnded, ready == 0 { break }
            if !entries[0].ready.isEmpty, !hasEnded { entries[0].descriptor = -1 }
            if try !drain(output, entries[1], into: &result.output, limit) { entries[1].descriptor = -1 }
            if try !drain(errors, entries[2], into: &result.errors, limit) { entries[2].descriptor = -1 }
            if !entries[3].ready.isEmpty, feed != nil {
                rest = try write(rest, to: entries[3].descriptor)
            }
        }
        result.exitCode = try child.wait()
        return result
    }

    /// - Returns: `false` at the end of the stream.
    private static func drain(
        _ stream: borrowing OwnedDescriptor, _ entry: PollEntry, into kept: inout [UInt8], _ limit: Int
    ) throws(SystemError) -> Bool {
        guard entry.descriptor >= 0, !entry.ready.isEmpty else { return true }
        let bytes = try stream.readSome(upTo: 64 << 10)
        kept += bytes.prefix(max(0, limit - kept.count))
        return !bytes.isEmpty
    }

    /// - Returns: what is left to write; nothing when the child reads no more.
    private static func write(_ bytes: ArraySlice<UInt8>, to descriptor: CInt) throws(SystemError) -> ArraySlice<UInt8>
    {
        do throws(SystemError) {
            return bytes.dropFirst(try writeSome(bytes.prefix(pipeAtom), to: descriptor))
        } catch {
            guard error.errno == .brokenPipe else { throw error }
            return []
        }
    }
}
