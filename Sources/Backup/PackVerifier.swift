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
        /// By pack the offsets of its damaged frames; `.max` stands for all of it.
        var damagedPacks: [Digest: Set<UInt32>] = [:]
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
    private let monitor = Monitor(State())

    init(store: any StoreBackend, packs: [StoredObject], isQuick: Bool) {
        self.store = store
        self.packs = packs
        self.isQuick = isQuick
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
        let decompressor = Decompressor()
        let stored = AlignedBuffer(byteCount: StoreLimits.readMax)
        let plain = AlignedBuffer(byteCount: StoreLimits.frameMax)
        while let pack = next() {
            do throws(StoreError) {
                try verify(pack, decompressor, stored, plain)
            } catch {
                report(pack.name, frame: .max, error)
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

    private func report(_ pack: String, frame: UInt32, _ error: StoreError) {
        monitor.change { state in
            guard error.code == .corrupt || error.code == .missing || error.code == .unsupported || error.code == .io
            else {
                state.isStopped = true
                if state.result.failure == nil { state.result.failure = error }
                return
            }
            state.result.problemCount += 1
            if state.result.problems.count < VerifyReport.problemsMax { state.result.problems.append(error.message) }
            if let name = Digest(hex: pack) { state.result.damagedPacks[name, default: []].insert(frame) }
        }
    }

    private func verify(
        _ pack: StoredObject, _ decompressor: borrowing Decompressor, _ stored: AlignedBuffer, _ plain: AlignedBuffer
    ) throws(StoreError) {
        let directory = try store.packDirectory(pack.name, byteCount: pack.byteCount)
        for frame in directory.frames {
            if monitor.withLock({ $0.isStopped }) { return }
            let memory = unsafe UnsafeMutableRawBufferPointer(rebasing: stored.memory[..<Int(frame.storedBytes)])
            let piece = ObjectPiece(kind: .pack, name: pack.name, offset: UInt64(frame.offset), count: memory.count)
            var damage: String?
            do throws(StoreError) {
                try unsafe store.read([piece], into: memory)
                damage = unsafe check(frame, UnsafeRawBufferPointer(memory), decompressor, plain)
            } catch {
                // A place that cannot be read does not hide the others.
                guard error.code == .io else { throw error }
                damage = error.message
            }
            if let damage {
                let place = "the frame at byte \(frame.offset) of pack \(pack.name) in store \(store.address)"
                report(pack.name, frame: frame.offset, StoreError(.corrupt, "\(place) is damaged: \(damage)"))
            }
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

    /// - Returns: what is wrong with a frame.
    private func check(
        _ frame: PackFrame, _ stored: UnsafeRawBufferPointer, _ decompressor: borrowing Decompressor,
        _ plain: AlignedBuffer
    ) -> String? {
        guard unsafe crc32c(0, stored) == frame.checksum else { return "its checksum does not match" }
        if isQuick { return nil }
        var bytes = unsafe stored
        if frame.isCompressed {
            let target = unsafe UnsafeMutableRawBufferPointer(rebasing: plain.memory[..<Int(frame.plainBytes)])
            guard unsafe decompressor.decompress(stored, into: target) == target.count else {
                return "it does not decompress"
            }
            unsafe bytes = UnsafeRawBufferPointer(target)
        }
        var offset = 0
        for object in frame.objects {
            let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + Int(object.length)])
            offset += Int(object.length)
            let id = unsafe frame.isNodes ? TreeNode.id(ofEncoded: [UInt8](part)) : ChunkID.of(part)
            guard id == object.id else {
                return "\(frame.isNodes ? "node" : "chunk") \(object.id) in it is not what was stored"
            }
        }
        return nil
    }
}
