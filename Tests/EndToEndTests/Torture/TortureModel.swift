import TestSupport

/// What a guest did to a disk, one request after the other, and what may be read of it: on the living disk, after a
/// crash, and of a state that was frozen at some instant.
///
/// A block holds the number of the request that wrote it; 0 stands for zeros.
struct TortureModel: Sendable {
    static let blockBytes = 4096

    struct Request: Sendable {
        var blocks: Range<Int>
        /// What the blocks hold afterwards.
        var content: UInt32
        var isAnswered = false
    }

    /// Everything between two moments at which all that is on the disk is known.
    struct Epoch: Sendable {
        var base: [UInt32]
        var requests: [Request] = []
        /// So many requests outlive a crash.
        var durable = 0
    }

    /// A time in the guest's life: between so many answered and so many issued requests of an epoch.
    struct Span: Sendable {
        var epoch: Int
        var from: Int
        var to: Int
    }

    private(set) var epochs: [Epoch]
    private var nextContent: UInt32 = 1

    init(blockCount: Int) { epochs = [Epoch(base: [UInt32](repeating: 0, count: blockCount))] }

    var blockCount: Int { epochs[0].base.count }
    private var current: Int { epochs.count - 1 }
    private var answered: Int { epochs[current].requests.count(where: \.isAnswered) }

    // MARK: The guest's requests

    /// - Returns: what to write; 0: zeros.
    mutating func issue(_ blocks: Range<Int>, isZero: Bool) -> UInt32 {
        let content = isZero ? 0 : nextContent
        nextContent += 1
        epochs[current].requests.append(Request(blocks: blocks, content: content))
        return content
    }

    /// The last request that was issued has been answered.
    mutating func answer() { epochs[current].requests[epochs[current].requests.count - 1].isAnswered = true }

    /// A flush that began with all answered was answered.
    mutating func flushed() { epochs[current].durable = epochs[current].requests.count }

    /// Begins anew with what was found on the disk.
    mutating func begin(with found: [UInt32]) { epochs.append(Epoch(base: found)) }

    // MARK: Time

    /// Now: the start of something whose moment within the guest's life will matter.
    func mark() -> Span { Span(epoch: current, from: answered, to: epochs[current].requests.count) }

    /// From `start` to now.
    func spans(since start: Span) -> [Span] {
        (start.epoch...current).map { epoch in
            Span(epoch: epoch, from: epoch == start.epoch ? start.from : 0, to: epochs[epoch].requests.count)
        }
    }

    /// How many chunks of so many blocks were written to in those spans.
    func chunksTouched(in spans: [Span], blocksPerChunk: Int) -> Int {
        var chunks: Set<Int> = []
        for span in spans {
            for request in epochs[span.epoch].requests[span.from..<span.to] {
                for block in request.blocks { chunks.insert(block / blocksPerChunk) }
            }
        }
        return chunks.count
    }

    // MARK: What may be read

    /// The first block that holds what it can't after a crash, or, with `isExact`, on a disk that lived on.
    func firstWrong(_ found: [UInt32], isExact: Bool) -> String? {
        let epoch = epochs[current]
        var allowed = epoch.base.map { Set([$0]) }
        for (index, request) in epoch.requests.enumerated() {
            let isCertain = isExact ? request.isAnswered : index < epoch.durable
            for block in request.blocks {
                if isCertain { allowed[block] = [request.content] } else { allowed[block].insert(request.content) }
            }
        }
        for (block, content) in found.enumerated() where !allowed[block].contains(content) {
            return "block \(block) holds \(content) instead of one of \(allowed[block].sorted())"
        }
        return nil
    }

    /// Whether `found` is the disk at one instant of one of the spans: after some request, the next one in part.
    func isInstant(_ found: [UInt32], of spans: [Span]) -> Bool {
        spans.contains { isInstant(found, of: $0) }
    }

    private func isInstant(_ found: [UInt32], of span: Span) -> Bool {
        guard span.from <= span.to, found.count == blockCount else { return false }
        let epoch = epochs[span.epoch]
        var history = epoch.base.map { [(content: $0, from: -1)] }
        for (index, request) in epoch.requests.enumerated() {
            for block in request.blocks { history[block].append((request.content, index)) }
        }
        // For each number of requests that had ended: how many blocks agree with it.
        var steps = [Int](repeating: 0, count: span.to + 2)
        for (block, content) in found.enumerated() {
            var end = -1
            for (number, entry) in history[block].enumerated() where entry.content == content {
                // A request may have been under way, which counts as ended and as not.
                let first = max(entry.from, 0)
                let next = number + 1 < history[block].count ? history[block][number + 1].from : Int.max - 1
                let last = min(next, span.to)
                let start = max(first, end + 1)
                guard start <= last else { continue }
                steps[start] += 1
                steps[last + 1] -= 1
                end = last
            }
        }
        var agreeing = 0
        for instant in 0...span.to {
            agreeing += steps[instant]
            if instant >= span.from && agreeing == found.count { return true }
        }
        return false
    }

    // MARK: Bytes

    /// Fills a block. Its bytes do not compress, so that what is sent and stored can be counted.
    static func fill(_ memory: UnsafeMutableRawBufferPointer, content: UInt32, block: Int) {
        guard content != 0 else { return memory.initializeMemory(as: UInt8.self, repeating: 0).update(repeating: 0) }
        let name = UInt64(content) << 32 | UInt64(UInt32(truncatingIfNeeded: block))
        var random = SeededRandom(seed: name)
        memory.storeBytes(of: name, as: UInt64.self)
        for offset in stride(from: 8, to: blockBytes, by: 8) {
            memory.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
        }
    }

    /// - Returns: `nil` when the block holds what no request wrote there.
    static func content(of memory: UnsafeRawBufferPointer, block: Int) -> UInt32? {
        let name = memory.load(as: UInt64.self)
        if name == 0 { return memory.allSatisfy { $0 == 0 } ? 0 : nil }
        guard UInt32(truncatingIfNeeded: name) == UInt32(truncatingIfNeeded: block) else { return nil }
        var random = SeededRandom(seed: name)
        for offset in stride(from: 8, to: blockBytes, by: 8)
        where memory.load(fromByteOffset: offset, as: UInt64.self) != random.next() {
            return nil
        }
        return UInt32(name >> 32)
    }

    /// What a whole disk holds. - Throws: when a block is torn or another's.
    static func contents(_ bytes: UnsafeRawBufferPointer) throws -> [UInt32] {
        try (0..<bytes.count / blockBytes).map { block in
            let memory = UnsafeRawBufferPointer(rebasing: bytes[block * blockBytes..<(block + 1) * blockBytes])
            guard let content = content(of: memory, block: block) else {
                throw TortureFailure("block \(block) is torn or another block's")
            }
            return content
        }
    }
}

/// A promise that was not kept.
struct TortureFailure: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}
