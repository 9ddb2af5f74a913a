internal import Geometry
internal import Synchronization

/// What a pass has to copy, asked of the source bit by bit.
final class CopyWorkList: Sendable {
    /// Where a pass begins.
    enum Kind: Sendable {
        /// All that may hold data.
        case everything
        /// What is dirty; it is clean from then on.
        case dirty
    }
    private struct State {
        var cutter: WorkCutter
        var position: UInt64 = 0
        var isFlushed = false
    }
    private let source: any MigrationSource
    private let kind: Kind
    private let chunkBytes: UInt64
    private let state: Mutex<State>
    /// Dirty runs from here on may be discarded space: it is asked for instead of read.
    private static let longRunBytes: UInt64 = 16 << 20

    init(_ kind: Kind, of source: any MigrationSource, chunkBytes: UInt64) {
        self.kind = kind
        self.source = source
        self.chunkBytes = chunkBytes
        state = Mutex(State(cutter: WorkCutter()))
    }

    func next() throws(MigrationError) -> CopyWork? {
        try state.withLock { state throws(MigrationError) in
            while true {
                if let work = state.cutter.next() { return work }
                if state.position < source.byteCount {
                    state.position = try extend(&state.cutter, from: state.position)
                } else if !state.isFlushed {
                    state.cutter.flush()
                    state.isFlushed = true
                } else {
                    return nil
                }
            }
        }
    }

    /// - Returns: up to where the work is known now.
    private func extend(_ cutter: inout WorkCutter, from position: UInt64) throws(MigrationError) -> UInt64 {
        switch kind {
        case .everything:
            return try addData(in: ByteRange(offset: position, count: source.byteCount - position), to: &cutter)
        case .dirty:
            let (runs, covered) = try source.takeDirty(from: position)
            for run in runs {
                guard run.count >= Self.longRunBytes else {
                    cutter.add(run)
                    continue
                }
                var next = run.offset
                while next < run.end {
                    next = try addData(in: ByteRange(offset: next, count: run.end - next), to: &cutter)
                }
            }
            guard covered > position else {
                throw MigrationError(.source, "the dirty map of the source does not go on")
            }
            return covered
        }
    }

    /// Data runs of whole chunks, and zeros between them. - Returns: up to where.
    private func addData(in range: ByteRange, to cutter: inout WorkCutter) throws(MigrationError) -> UInt64 {
        let (runs, covered) = try source.dataRuns(in: range)
        // Only whole chunks are dealt with, so that a chunk with data and without is one with data.
        var end = covered >= range.end ? range.end : covered / chunkBytes * chunkBytes
        if end <= range.offset {
            end = min(range.offset / chunkBytes * chunkBytes + chunkBytes, range.end)
            cutter.add(ByteRange(offset: range.offset, count: end - range.offset))
            return end
        }
        var position = range.offset
        for run in runs where run.offset < end {
            let wide = run.alignedOutward(to: chunkBytes)
            let start = max(wide.offset, position)
            let stop = min(wide.end, end)
            guard start < stop else { continue }
            if start > position { cutter.addZeros(ByteRange(offset: position, count: start - position)) }
            cutter.add(ByteRange(offset: start, count: stop - start))
            position = stop
        }
        if end > position { cutter.addZeros(ByteRange(offset: position, count: end - position)) }
        return end
    }
}

/// Cuts runs into work of a bounded size.
struct WorkCutter {
    private var ready: [CopyWork] = []
    private var batch: [ByteRange] = []
    private var batchBytes: UInt64 = 0
    /// Ranges of one batch, at most: each may be a request of its own at the source, or be read with the gap before it.
    private static let rangesMax = 512

    /// - Parameter range: of whole chunks.
    mutating func add(_ range: ByteRange) {
        var rest = range
        while !rest.isEmpty {
            if batch.count >= Self.rangesMax || batchBytes >= CopyStages.batchBytes { flush() }
            // Batches hold a whole number of chunks of any size.
            let taken = ByteRange(offset: rest.offset, count: min(rest.count, CopyStages.batchBytes - batchBytes))
            batch.append(taken)
            batchBytes += taken.count
            rest = ByteRange(offset: taken.end, count: rest.end - taken.end)
        }
    }

    mutating func addZeros(_ range: ByteRange) {
        flush()
        ready.append(.zeros(range))
    }

    mutating func flush() {
        if !batch.isEmpty { ready.append(.read(batch)) }
        batch = []
        batchBytes = 0
    }

    /// Work in order; `nil` when more has to be added (or ``flush()``ed) first.
    mutating func next() -> CopyWork? { ready.isEmpty ? nil : ready.removeFirst() }
}
