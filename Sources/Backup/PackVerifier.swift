internal import BackupStore
internal import BlockIO
internal import ChunkTree
internal import Codecs
internal import LinuxSystem

/// Packs to be checked, and threads that take one each.
final class PackQueue: Sendable {
    struct Result {
        var bytesRead: UInt64 = 0
        var chunks: UInt64 = 0
        var nodes: UInt64 = 0
        var problems: [String] = []
        var problemCount = 0
        /// Of these, what could not be read and may be right.
        var unreadableCount = 0
        var damage: [Digest: PackDamage] = [:]
        /// Packs of which the index names something that they don't have.
        var misnamed: Set<Digest> = []
        var failure: StoreError?
    }
    private struct State {
        var next = 0
        var running = 0
        var isStopped = false
        var reported: UInt64 = 0
        var result = Result()
    }
    private let store: any StoreBackend
    private let packs: [StoredObject]
    private let isQuick: Bool
    private let audit: IndexAudit?
    private let monitor = Monitor(State())

    /// - Parameter audit: what the index says of the packs, to be compared.
    init(store: any StoreBackend, packs: [StoredObject], isQuick: Bool, audit: IndexAudit?) {
        self.store = store
        self.packs = packs
        self.isQuick = isQuick
        self.audit = audit
    }

    var result: Result { monitor.withLock { $0.result } }

    func stop() { monitor.change { $0.isStopped = true } }

    /// Waits for more to have been read. - Returns: bytes so far, or `nil` at the end.
    func waitForProgress() -> UInt64? {
        let answer: UInt64?? = monitor.wait { state -> UInt64?? in
            if state.result.bytesRead > state.reported {
                state.reported = state.result.bytesRead
                return state.reported
            }
            let isEnded = state.running == 0 && (state.isStopped || state.next == self.packs.count)
            return isEnded ? .some(nil) : nil
        }
        return answer ?? nil
    }

    func work() {
        let check = FrameCheck()
        let stored = AlignedBuffer(byteCount: StoreLimits.readMax)
        while let pack = next() {
            do throws(StoreError) {
                try verify(pack, check, stored)
            } catch {
                report(pack.name, PackDamage(isWhole: true), error)
            }
            monitor.change { $0.running -= 1 }
        }
    }

    private func next() -> StoredObject? {
        monitor.change { state in
            guard !state.isStopped, state.next < packs.count else { return nil }
            defer { state.next += 1 }
            state.running += 1
            return packs[state.next]
        }
    }

    private func report(_ pack: String, _ damage: PackDamage, _ error: StoreError) {
        monitor.change { state in
            // Set aside by a repair since the listing: what points need of it is looked up by itself.
            if error.code == .missing, damage.isWhole { return }
            guard [.corrupt, .missing, .unsupported, .io].contains(error.code) else {
                state.isStopped = true
                if state.result.failure == nil { state.result.failure = error }
                return
            }
            state.result.problemCount += 1
            if error.code == .io || error.code == .unsupported { state.result.unreadableCount += 1 }
            if state.result.problems.count < VerifyReport.problemsMax { state.result.problems.append(error.message) }
            guard let name = Digest(hex: pack) else { return }
            var all = state.result.damage[name] ?? PackDamage()
            all.frames.formUnion(damage.frames)
            all.isWhole = all.isWhole || damage.isWhole
            state.result.damage[name] = all
        }
    }

    /// Whether the index names nothing else in a pack than what is in it.
    private func compare(_ pack: String, _ directory: PackDirectory) throws(StoreError) {
        guard let audit, let name = Digest(hex: pack) else { return }
        let wrong = try audit.wrongEntries(name, directory)
        guard wrong > 0 else { return }
        monitor.change { state in
            state.result.misnamed.insert(name)
            state.result.problemCount += 1
            state.result.problems.append("the index names \(wrong) objects in pack \(pack) that are not there")
        }
    }

    private func verify(
        _ pack: StoredObject, _ check: borrowing FrameCheck, _ stored: AlignedBuffer
    ) throws(StoreError) {
        try pack.expectExamined(as: "pack")
        let directory = try store.packDirectory(pack.name, byteCount: pack.byteCount)
        try compare(pack.name, directory)
        for frame in directory.frames {
            if monitor.withLock({ $0.isStopped }) { return }
            let memory = unsafe UnsafeMutableRawBufferPointer(rebasing: stored.memory[..<Int(frame.storedBytes)])
            let piece = ObjectPiece(kind: .pack, name: pack.name, offset: UInt64(frame.offset), count: memory.count)
            let place = "the frame at byte \(frame.offset) of pack \(pack.name) in store \(store.address)"
            var problem: StoreError?
            do throws(StoreError) {
                try unsafe store.read([piece], into: memory)
                if let damage = unsafe check.problem(frame, UnsafeRawBufferPointer(memory), isQuick: isQuick) {
                    problem = StoreError(.corrupt, "\(place) is damaged: \(damage)")
                }
            } catch {
                // A place that cannot be read does not hide the others.
                guard error.code == .io else { throw error }
                problem = StoreError(.io, "\(place) cannot be read: \(error.message)")
            }
            if let problem { report(pack.name, PackDamage(frames: [frame.offset]), problem) }
            monitor.change { state in
                state.result.bytesRead += UInt64(frame.storedBytes)
                if frame.isNodes {
                    state.result.nodes += UInt64(frame.objects.count)
                } else {
                    state.result.chunks += UInt64(frame.objects.count)
                }
            }
        }
    }
}
