import BlockIO
import Geometry
import LinuxSystem
import NBDBridge
import TestSupport

/// A guest that writes to an export all the time, and tells a model of it.
final class TortureGuest: Sendable {
    private struct State {
        var model: TortureModel
        var isEnding = false
        var hasEnded = false
        /// What it got instead of an answer.
        var failure: String?
    }

    private let state: Monitor<State>
    private let thread: OwnThread

    /// Begins to write.
    /// - Parameter pauseMilliseconds: between its requests, so that there is something else to do for the machine.
    init(_ model: TortureModel, uri: String, seed: UInt64, pauseMilliseconds: Int) throws {
        let state = Monitor(State(model: model))
        self.state = state
        let connection = try NBDConnection(uri: uri)
        let held = Held(connection)
        thread = try OwnThread(name: "guest") {
            var random = SeededRandom(seed: seed)
            do { try Self.run(held, state, &random, pauseMilliseconds) } catch {
                state.change { $0.failure = "\(error)" }
            }
            state.change { $0.hasEnded = true }
        }
    }

    /// Takes the connection across to the guest's thread.
    private final class Held: Sendable {
        let connection: NBDConnection
        init(_ connection: consuming NBDConnection) { self.connection = connection }
    }

    private static func run(
        _ held: Held, _ state: Monitor<State>, _ random: inout SeededRandom, _ pauseMilliseconds: Int
    ) throws {
        let blockBytes = TortureModel.blockBytes
        let buffer = AlignedBuffer(byteCount: 32 * blockBytes)
        while true {
            let deadline = SystemTime().monotonic() + UInt64(pauseMilliseconds) * 1_000_000
            let isEnding = state.wait(until: deadline) { $0.isEnding ? true : nil } ?? false
            if isEnding { return }
            if random.oneIn(8) {
                try held.connection.flush()
                state.change { $0.model.flushed() }
                continue
            }
            let count = random.oneIn(4) ? 1 + random.below(32) : 1 + random.below(3)
            let isZero = random.oneIn(12)
            let start = random.below(state.withLock { $0.model.blockCount } - count)
            let content = state.change { $0.model.issue(start..<start + count, isZero: isZero) }
            let range = ByteRange(offset: UInt64(start * blockBytes), count: UInt64(count * blockBytes))
            if isZero {
                try held.connection.zero(range, mayTrim: true)
            } else {
                for block in 0..<count {
                    let part = UnsafeMutableRawBufferPointer(
                        rebasing: buffer.memory[block * blockBytes..<(block + 1) * blockBytes])
                    TortureModel.fill(part, content: content, block: start + block)
                }
                try held.connection.write(
                    [range], from: UnsafeRawBufferPointer(rebasing: buffer.memory[..<(count * blockBytes)]))
            }
            state.change { $0.model.answer() }
        }
    }

    /// The model as it is now.
    func snapshot() -> TortureModel { state.withLock { $0.model } }
    func mark() -> TortureModel.Span { state.withLock { $0.model.mark() } }
    func spans(since start: TortureModel.Span) -> [TortureModel.Span] {
        state.withLock { $0.model.spans(since: start) }
    }

    /// Waits until it has done so much more, or has ended.
    func awaitRequests(_ count: Int) {
        let start = mark().from
        let deadline = SystemTime().monotonic() + 60_000_000_000
        _ = state.wait(until: deadline) { $0.hasEnded || $0.model.mark().from >= start + count ? () : nil }
    }

    /// Ends it. - Returns: the model, and what it got instead of an answer, if anything.
    func end() -> (model: TortureModel, failure: String?) {
        state.change { $0.isEnding = true }
        thread.join()
        return state.withLock { ($0.model, $0.failure) }
    }
}

/// Reads a whole export.
func contents(ofExport uri: String) throws -> [UInt32] {
    let connection = try NBDConnection(uri: uri)
    let buffer = AlignedBuffer(byteCount: Int(connection.export.byteCount))
    try connection.read([ByteRange(offset: 0, count: connection.export.byteCount)], into: buffer.memory)
    return try TortureModel.contents(UnsafeRawBufferPointer(buffer.memory))
}

/// Reads a whole raw file.
func contents(ofFile path: String) throws -> [UInt32] {
    let file = try LinuxFileSystem().open(path, .read)
    let buffer = AlignedBuffer(byteCount: Int(try file.size()))
    try file.read(at: 0, into: buffer.memory)
    return try TortureModel.contents(UnsafeRawBufferPointer(buffer.memory))
}
