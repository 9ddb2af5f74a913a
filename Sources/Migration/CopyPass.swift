internal import DeltaStream
internal import Geometry
internal import LinuxSystem

/// One pass over some of the disk: all its data, or what is dirty.
///
/// Three threads: one reads, one hashes and compresses, and the caller's sends. What is between them is bounded, so the
/// slowest sets the pace and memory stays small. With `usesThreads` off the caller does it all, in a fixed order.
struct CopyPass {
    let stages: CopyStages
    let usesThreads: Bool
    private static let waitingBatches = 2
    private static let waitingItems = 8

    /// - Parameters:
    ///   - next: the work, piece by piece; `nil` at the end. Called by another thread than the caller's.
    ///   - send: puts one item into the stream, on the caller's thread.
    func run(
        next: @escaping @Sendable () throws(MigrationError) -> CopyWork?,
        send: (CopyItem) throws(MigrationError) -> Void
    ) throws(MigrationError) {
        guard usesThreads else { return try runInline(next: next, send: send) }
        let batches = HandoffQueue<Read>(limit: Self.waitingBatches)
        let items = HandoffQueue<CopyItem>(limit: Self.waitingItems)
        let stages = self.stages
        var threads: [OwnThread] = []
        // Nobody is left behind with the stages in hand, whatever happened.
        defer {
            items.cancel()
            batches.cancel()
            for thread in threads { thread.join() }
        }
        do throws(SystemError) {
            threads.append(try OwnThread(name: "migrate-read") { Self.readAll(stages, next, into: batches) })
            threads.append(try OwnThread(name: "migrate-hash") { Self.processAll(stages, batches, into: items) })
        } catch {
            throw MigrationError(.source, error.description)
        }
        while let item = try items.take() { try send(item) }
    }

    private enum Read: Sendable {
        case batch(CopyStages.Batch)
        case zeros(ByteRange)
    }

    private static func readAll(
        _ stages: CopyStages, _ next: () throws(MigrationError) -> CopyWork?, into batches: HandoffQueue<Read>
    ) {
        do throws(MigrationError) {
            while let work = try next() {
                let read: Read =
                    switch work {
                    case .read(let ranges): .batch(try stages.read(ranges))
                    case .zeros(let range): .zeros(range)
                    }
                guard batches.put(read) else { return }
            }
            batches.finish()
        } catch {
            batches.fail(error)
        }
    }

    private static func processAll(
        _ stages: CopyStages, _ batches: HandoffQueue<Read>, into items: HandoffQueue<CopyItem>
    ) {
        do throws(MigrationError) {
            while let read = try batches.take() {
                switch read {
                case .batch(let batch): try stages.process(batch) { items.put($0) }
                case .zeros(let range): try stages.clear(range) { items.put($0) }
                }
            }
            items.finish()
        } catch {
            batches.cancel()
            items.fail(error)
        }
    }

    private func runInline(
        next: () throws(MigrationError) -> CopyWork?, send: (CopyItem) throws(MigrationError) -> Void
    ) throws(MigrationError) {
        while let work = try next() {
            var items: [CopyItem] = []
            let collect = { (item: CopyItem) -> Bool in
                items.append(item)
                return true
            }
            switch work {
            case .read(let ranges): try stages.process(try stages.read(ranges), collect)
            case .zeros(let range): try stages.clear(range, collect)
            }
            for item in items { try send(item) }
        }
    }
}
