import BlockIO
import ChangeTracking
import Codecs
import DiskImage
import Geometry
import LinuxSystem
@testable import Migration
import Synchronization
import SystemPackage
import Testing
import Transport

/// Disks that are plain files: what is tested is the migration, not the image format.
struct RawDisks: TargetDisks {
    let fs: any FileSystem

    func objection(to shape: TargetDiskShape) -> String? { nil }
    func create(_ shape: TargetDiskShape, in folder: String) throws(DiskError) {
        do throws(SystemError) {
            let image = try fs.open(folder + "/root.hds", OpenMode(writable: true, creation: .exclusive))
            try image.truncate(to: shape.sizeBytes)
            try image.synchronize()
            let descriptor = try fs.open(folder + "/DiskDescriptor.xml", OpenMode(writable: true, creation: .exclusive))
            try descriptor.writeBytes([60], at: 0)
            try descriptor.synchronize()
            try fs.synchronizeFolder(folder)
        } catch {
            throw DiskError(error, path: folder)
        }
    }
    func open(image path: String) throws(DiskError) -> any TargetDisk {
        do throws(SystemError) { return try RawDisk(fs.open(path, .update)) } catch {
            throw DiskError(error, path: path)
        }
    }
}

final class RawDisk: TargetDisk {
    let file: any StorageFile
    let byteCount: UInt64
    init(_ file: any StorageFile) throws(SystemError) {
        self.file = file
        byteCount = try file.size()
    }
    private func wrap<R>(_ body: () throws(SystemError) -> R) throws(DiskError) -> R {
        do throws(SystemError) { return try body() } catch { throw DiskError(error, path: "raw") }
    }
    func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) throws(DiskError) {
        try wrap { () throws(SystemError) in try file.read(at: offset, into: memory) }
    }
    func write(at offset: UInt64, from memory: UnsafeRawBufferPointer, durable: Bool) throws(DiskError) {
        try wrap { () throws(SystemError) in try file.write(at: offset, from: memory) }
    }
    func writeZeroes(_ range: ByteRange, mayDiscard: Bool, durable: Bool) throws(DiskError) {
        try wrap { () throws(SystemError) in
            if try !file.punch(offset: range.offset, count: range.count) {
                try file.writeBytes([UInt8](repeating: 0, count: Int(range.count)), at: range.offset)
            }
        }
    }
    func flush() throws(DiskError) { try wrap { () throws(SystemError) in try file.synchronize() } }
    func extents(in range: ByteRange, limit: Int) throws(DiskError) -> [DiskExtent] {
        try wrap { () throws(SystemError) in
            guard let data = try file.nextData(from: range.offset), data.offset < range.end else {
                return [DiskExtent(range: range, isAllocated: false, isZero: true)]
            }
            let run = ByteRange(offset: data.offset, count: data.count).intersection(range)
            let gap = ByteRange(offset: range.offset, count: run.offset - range.offset)
            let found = DiskExtent(range: run, isAllocated: true, isZero: false)
            return gap.isEmpty ? [found] : [DiskExtent(range: gap, isAllocated: false, isZero: true), found]
        }
    }
    func close() throws(DiskError) { try flush() }
}

/// A running guest's disk in memory. `onLook` plays the guest: it is called whenever the dirty map is taken.
final class ScriptedSource: MigrationSource {
    struct State {
        var bytes: [UInt8]
        var map: DirtyBitmap?
        var isPaused = false
        /// Held without a deadline.
        var isReleasing = false
        var isReleased = false
        var isRetired = false
        var resumes = 0
        var readBytes: UInt64 = 0
        /// Fails the release, as a server whose pause has run out.
        var expires = false
    }
    let state: Mutex<State>
    let byteCount: UInt64
    let hole: UInt64 = 32 << 10
    let onLook: Mutex<(@Sendable (ScriptedSource) -> Void)?> = Mutex(nil)
    let onRelease: Mutex<(@Sendable () -> Void)?> = Mutex(nil)

    init(_ bytes: [UInt8]) {
        byteCount = UInt64(bytes.count)
        state = Mutex(State(bytes: bytes))
    }

    /// The guest's write. - Returns: whether it was let through.
    @discardableResult func guestWrites(_ bytes: [UInt8], at offset: Int) -> Bool {
        state.withLock { state in
            guard !state.isPaused, !state.isReleasing, !state.isReleased else { return false }
            state.bytes.replaceSubrange(offset..<offset + bytes.count, with: bytes)
            state.map?.mark(ByteRange(offset: UInt64(offset), count: UInt64(bytes.count)))
            return true
        }
    }
    var content: [UInt8] { state.withLock { $0.bytes } }

    /// A resize. - Returns: whether it was let through.
    func grows() -> Bool { state.withLock { $0.map == nil } }

    func read(_ ranges: [ByteRange], into memory: UnsafeMutableRawBufferPointer) throws(MigrationError) {
        state.withLock { state in
            var position = 0
            for range in ranges {
                UnsafeMutableRawBufferPointer(rebasing: memory[position..<position + Int(range.count)])
                    .copyBytes(from: state.bytes[Int(range.offset)..<Int(range.end)])
                position += Int(range.count)
                state.readBytes += range.count
            }
        }
    }
    func dataRuns(in range: ByteRange) throws(MigrationError) -> (runs: [ByteRange], coveredTo: UInt64) {
        // Like clusters of 32 KiB; a few at a time.
        state.withLock { state in
            var runs: [ByteRange] = []
            var position = range.offset
            while position < range.end, runs.count < 5 {
                let end = min((position / hole + 1) * hole, range.end)
                if state.bytes[Int(position)..<Int(end)].contains(where: { $0 != 0 }) {
                    if let last = runs.last, last.end == position {
                        runs[runs.count - 1] = ByteRange(offset: last.offset, count: end - last.offset)
                    } else {
                        runs.append(ByteRange(offset: position, count: end - position))
                    }
                }
                position = end
            }
            return (runs, position)
        }
    }
    func flush() throws(MigrationError) {}
    func startTracking(granuleBytes: UInt64) throws(MigrationError) {
        state.withLock { $0.map = DirtyBitmap(byteCount: byteCount, granuleBytes: granuleBytes) }
    }
    func takeDirty(from offset: UInt64) throws(MigrationError) -> (runs: [ByteRange], coveredTo: UInt64) {
        onLook.withLock { $0 }?(self)
        return state.withLock { state in
            state.map?.take(in: ByteRange(offset: offset, count: byteCount - offset), limit: 3) ?? ([], byteCount)
        }
    }
    func dirtyBytes() throws(MigrationError) -> UInt64 { state.withLock { $0.map?.dirtyBytes ?? 0 } }
    func stopTracking() { state.withLock { $0.map = nil } }
    func pause(deadlineMilliseconds: UInt64) throws(MigrationError) -> Bool {
        state.withLock { $0.isPaused = true }
        return true
    }
    func resume() {
        state.withLock {
            $0.isPaused = false
            $0.isReleasing = false
            $0.resumes += 1
        }
    }
    func release() throws(MigrationError) {
        try state.withLock { state throws(MigrationError) in
            if state.expires {
                state.isPaused = false
                throw MigrationError(.expired, "the pause ended by itself")
            }
            state.isReleasing = true
        }
        onRelease.withLock { $0 }?()
    }
    func confirmRelease() {
        state.withLock { state in
            state.isReleased = state.isReleased || state.isReleasing
            state.isReleasing = false
        }
    }
    func retire() throws(MigrationError) { state.withLock { $0.isRetired = true } }
}

/// Counts stops and starts.
final class CountingGuest: GuestControl, TargetGuest {
    struct State {
        var isRunning = true
        var starts = 0
        var failsToStop = false
        /// How many starts fail, here and there.
        var failingStarts = 0
        var failsToRestart = false
        var hasHook = false
        var attempts: [Int] = []
        var commands: [String?] = []
        var refusesCommands = false
        var failure = "the start hook failed"
    }
    let state = Mutex(State())
    /// What a start takes its time with.
    let onStart: Mutex<(@Sendable () -> Void)?> = Mutex(nil)
    func settle() {}
    func stopNote() -> GuestStopNote? {
        state.withLock { $0.hasHook } ? GuestStopNote(mountpoint: "/srv/one") : nil
    }
    func objection(to command: String) -> String? {
        state.withLock { $0.refusesCommands } ? "runs no commands of a peer" : nil
    }
    func stop() throws(MigrationError) {
        try state.withLock { state throws(MigrationError) in
            if state.failsToStop { throw MigrationError(.guest, "the stop hook failed") }
            state.isRunning = false
        }
    }
    func restart() throws(MigrationError) {
        try state.withLock { state throws(MigrationError) in
            if state.failsToRestart { throw MigrationError(.guest, "the start hook failed") }
            state.isRunning = true
        }
    }
    func start(folder: String, command: String?, attempt: Int) throws(MigrationError) {
        state.withLock {
            $0.starts += 1
            $0.attempts.append(attempt)
            $0.commands.append(command)
        }
        onStart.withLock { $0 }?()
        try state.withLock { state throws(MigrationError) in
            guard state.failingStarts > 0 else { return }
            state.failingStarts -= 1
            throw MigrationError(.guest, state.failure)
        }
    }
}

/// Cuts the connection after so many messages of either side.
final class Cutter: Sendable {
    let left: Mutex<Int?>
    init(after count: Int?) { left = Mutex(count) }
    /// - Returns: whether the message gets through.
    func pass() -> Bool {
        left.withLock { left in
            guard let count = left else { return true }
            guard count > 0 else { return false }
            left = count - 1
            return true
        }
    }
    var isCut: Bool { left.withLock { $0 == 0 } }
}

final class CutPeer: MessagePeer {
    let peer: any MessagePeer
    let stream: MemoryStream
    let cutter: Cutter
    init(_ peer: any MessagePeer, _ stream: MemoryStream, _ cutter: Cutter) {
        self.peer = peer
        self.stream = stream
        self.cutter = cutter
    }
    func send(_ message: Message) throws(TransportError) {
        guard cutter.pass() else {
            stream.close()
            throw TransportError(.closed, "the link was cut")
        }
        try peer.send(message)
    }
    func receive() throws(TransportError) -> Message? { try peer.receive() }
    func fail(code: String, message: String) { peer.fail(code: code, message: message) }
    func close() { peer.close() }
}

/// Bytes with holes, runs and noise.
func sampleDisk(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var state = seed
    var bytes = [UInt8](repeating: 0, count: count)
    var offset = 0
    while offset < count {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        let length = min(Int(state >> 40) % 150_000 + 512, count - offset)
        switch state >> 33 & 3 {
        case 0: break
        case 1: for index in offset..<offset + length { bytes[index] = UInt8(truncatingIfNeeded: index / 7) }
        default:
            for index in offset..<offset + length {
                state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                bytes[index] = UInt8(truncatingIfNeeded: state >> 56)
            }
        }
        offset += length
    }
    return bytes
}
