import Backup
import DiskImage
import TestSupport

/// A disk in memory whose clusters know in which state they were written last: what a host backs up.
final class MemoryDisk: BackupSource, @unchecked Sendable {
    // @unchecked: under a scheduler one thread runs at a time.
    let clusterBytes: UInt64 = 8192
    private(set) var content: [UInt8]
    private var written: [Int]
    private var epoch = 1

    init(byteCount: Int) {
        content = Array(repeating: 0, count: byteCount)
        written = Array(repeating: 0, count: (byteCount + 8191) / 8192)
    }

    private init(_ other: MemoryDisk) {
        content = other.content
        written = other.written
        epoch = other.epoch
    }

    var byteCount: UInt64 { UInt64(content.count) }

    func write(_ bytes: [UInt8], at offset: Int) {
        let count = min(bytes.count, content.count - offset)
        guard count > 0 else { return }
        content.replaceSubrange(offset..<offset + count, with: bytes[..<count])
        for cluster in offset / 8192...(offset + count - 1) / 8192 { written[cluster] = epoch }
    }

    /// What stands still from now on. - Returns: its name, and it.
    func freeze() -> (name: String, state: MemoryDisk) {
        defer { epoch += 1 }
        return ("state-\(epoch)", MemoryDisk(self))
    }

    func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(BackupError) {
        content.withUnsafeBytes { bytes in
            memory.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[Int(offset)..<Int(offset) + memory.count]))
        }
    }

    /// It is a copy that nobody changes.
    func checkUnchanged() {}

    func forEachChangedRun(since base: String?, _ body: (Range<UInt64>) throws(BackupError) -> Bool) throws(BackupError)
    {
        let after = base.flatMap { Int($0.dropFirst(6)) } ?? 0
        for cluster in written.indices where written[cluster] > after {
            guard try body(UInt64(cluster)..<UInt64(cluster + 1)) else { return }
        }
    }
}
