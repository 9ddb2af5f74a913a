import Backup
import DiskImage
import Foundation
import Synchronization
import TestSupport

/// A disk in memory with clusters that know in which state they were written last.
final class MemorySource: BackupSource {
    struct State {
        var bytes: [UInt8]
        /// By cluster the number of the state after which it was written; 0: never.
        var written: [Int]
        var epoch = 1
        var bytesRead = 0
        /// The state that is read has been dropped meanwhile.
        var isReplaced = false
    }
    let clusterBytes: UInt64
    let state: Mutex<State>

    init(byteCount: Int, clusterBytes: Int) {
        self.clusterBytes = UInt64(clusterBytes)
        let clusters = (byteCount + clusterBytes - 1) / clusterBytes
        state = Mutex(
            State(bytes: Array(repeating: 0, count: byteCount), written: Array(repeating: 0, count: clusters)))
    }

    var byteCount: UInt64 { UInt64(state.withLock { $0.bytes.count }) }
    var content: [UInt8] { state.withLock { $0.bytes } }

    func write(_ bytes: [UInt8], at offset: Int) {
        state.withLock { state in
            state.bytes.replaceSubrange(offset..<offset + bytes.count, with: bytes)
            for cluster in offset / Int(clusterBytes)...(offset + bytes.count - 1) / Int(clusterBytes) {
                state.written[cluster] = state.epoch
            }
        }
    }

    func grow(to byteCount: Int) {
        state.withLock { state in
            state.bytes += [UInt8](repeating: 0, count: byteCount - state.bytes.count)
            let clusters = (byteCount + Int(clusterBytes) - 1) / Int(clusterBytes)
            state.written += [Int](repeating: 0, count: clusters - state.written.count)
        }
    }

    /// Freezes: what is written from now on has changed since the returned state.
    func freeze() -> String {
        state.withLock { state in
            defer { state.epoch += 1 }
            return "state-\(state.epoch)"
        }
    }

    func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(BackupError) {
        state.withLock { state in
            state.bytesRead += memory.count
            state.bytes.withUnsafeBytes {
                memory.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[Int(offset)..<Int(offset) + memory.count]))
            }
        }
    }

    func checkUnchanged() throws(BackupError) {
        guard state.withLock({ $0.isReplaced }) else { return }
        throw BackupError(.disk(.notFound), "the state was dropped")
    }

    func forEachChangedRun(since base: String?, _ body: (Range<UInt64>) throws(BackupError) -> Bool) throws(BackupError)
    {
        let after = base.flatMap { Int($0.dropFirst(6)) } ?? 0
        let written = state.withLock { $0.written }
        var start: Int?
        for cluster in 0...written.count {
            let isChanged = cluster < written.count && written[cluster] > after
            if isChanged, start == nil { start = cluster }
            if !isChanged, let first = start {
                guard try body(UInt64(first)..<UInt64(cluster)) else { return }
                start = nil
            }
        }
    }
}
