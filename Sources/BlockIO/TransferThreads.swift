internal import LinuxSystem
internal import Synchronization

/// Where there is no io_uring: a few threads, started when first needed, that help a caller with his batch.
final class TransferThreads: Sendable {
    static let shared = TransferThreads()
    private static let threadsMax = 4
    /// Batches that wait for help; a caller whose batch finds no room does it by himself.
    private static let waitingMax = 64

    private struct State {
        var waiting: [Batch] = []
        var threads = 0
        var idle = 0
    }
    private let state = Monitor(State())

    /// Does all transfers, on this thread and on those that are free.
    func perform(_ transfers: [Transfer], _ body: @escaping (Transfer) throws(SystemError) -> Void) throws(SystemError)
    {
        let batch = unsafe Batch(transfers, body)
        offer(batch, helpers: unsafe min(transfers.count - 1, Self.threadsMax))
        batch.work()
        withdraw(batch)
        try batch.finish()
    }

    private func offer(_ batch: Batch, helpers: Int) {
        let isStarting = state.change { state in
            guard state.waiting.count + helpers <= Self.waitingMax else { return false }
            state.waiting += Array(repeating: batch, count: helpers)
            guard state.idle < state.waiting.count, state.threads < Self.threadsMax else { return false }
            state.threads += 1
            return true
        }
        guard isStarting else { return }
        // Lives as long as the process. Where it can't be started the others, or the callers alone, do the work.
        let thread = try? OwnThread(name: "transfers") { [self] in run() }
        if thread == nil { state.change { $0.threads -= 1 } }
    }

    private func withdraw(_ batch: Batch) {
        state.withLock { $0.waiting.removeAll { $0 === batch } }
    }

    private func run() {
        while true {
            state.withLock { $0.idle += 1 }
            let batch = state.wait { state in state.waiting.isEmpty ? nil : state.waiting.removeFirst() }
            state.withLock { $0.idle -= 1 }
            batch?.work()
        }
    }

    /// A caller's batch. It outlives none of its transfers' memory: the caller waits until no helper is in one.
    @safe private final class Batch: @unchecked Sendable {
        // @unchecked: transfers and body are constant and shared for reading; the rest is guarded by the monitor.
        private let transfers: [Transfer]
        private let body: (Transfer) throws(SystemError) -> Void
        private struct Progress {
            var next = 0
            var ended = 0
            var failure: SystemError?
        }
        private let progress = Monitor(Progress())

        init(_ transfers: [Transfer], _ body: @escaping (Transfer) throws(SystemError) -> Void) {
            unsafe self.transfers = transfers
            unsafe self.body = body
        }

        /// Takes transfers and does them until none is left.
        func work() {
            let count = unsafe transfers.count
            while let index = progress.withLock({ progress -> Int? in
                guard progress.next < count else { return nil }
                progress.next += 1
                return progress.next - 1
            }) {
                var failure: SystemError?
                do throws(SystemError) { try unsafe body(transfers[index]) } catch { failure = error }
                progress.change { progress in
                    progress.ended += 1
                    progress.failure = progress.failure ?? failure
                }
            }
        }

        /// Waits until all transfers have ended.
        func finish() throws(SystemError) {
            let count = unsafe transfers.count
            let failure: SystemError?? = progress.wait { $0.ended == count ? .some($0.failure) : nil }
            if let failure = failure ?? nil { throw failure }
        }
    }
}
