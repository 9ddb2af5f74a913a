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

    init(_ bytes: [UInt8]) {
        byteCount = UInt64(bytes.count)
        state = Mutex(State(bytes: bytes))
    }

    /// The guest's write. - Returns: whether it was let through.
    @discardableResult func guestWrites(_ bytes: [UInt8], at offset: Int) -> Bool {
        state.withLock { state in
            guard !state.isPaused, !state.isReleased else { return false }
            state.bytes.replaceSubrange(offset..<offset + bytes.count, with: bytes)
            state.map?.mark(ByteRange(offset: UInt64(offset), count: UInt64(bytes.count)))
            return true
        }
    }
    var content: [UInt8] { state.withLock { $0.bytes } }

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
    func pause(deadlineMilliseconds: UInt64) throws(MigrationError) { state.withLock { $0.isPaused = true } }
    func resume() {
        state.withLock {
            $0.isPaused = false
            $0.resumes += 1
        }
    }
    func release() throws(MigrationError) {
        try state.withLock { state throws(MigrationError) in
            if state.expires {
                state.isPaused = false
                throw MigrationError(.expired, "the pause ended by itself")
            }
            state.isReleased = true
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
    }
    let state = Mutex(State())
    func settle() {}
    func stop() throws(MigrationError) {
        try state.withLock { state throws(MigrationError) in
            if state.failsToStop { throw MigrationError(.guest, "the stop hook failed") }
            state.isRunning = false
        }
    }
    func restart() throws(MigrationError) { state.withLock { $0.isRunning = true } }
    func start(folder: String, command: String?) throws(MigrationError) { state.withLock { $0.starts += 1 } }
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

/// A target host: each connection is served by a thread of its own.
final class TargetHost: Sendable {
    let fs: any FileSystem
    let guest = CountingGuest()
    let folder: String
    let cutter: Mutex<Cutter>
    private let threads = Mutex<[OwnThread]>([])

    let disks: any TargetDisks

    init(fs: any FileSystem, folder: String, cutAfter count: Int? = nil, disks: (any TargetDisks)? = nil) {
        self.fs = fs
        self.disks = disks ?? RawDisks(fs: fs)
        self.folder = folder
        cutter = Mutex(Cutter(after: count))
    }

    var target: MigrationTarget {
        MigrationTarget(name: "there:\(folder)", folder: folder) { () throws(TransportError) in try self.connect() }
    }

    func connect() throws(TransportError) -> any MessagePeer {
        let cutter = self.cutter.withLock { $0 }
        guard !cutter.isCut else { throw TransportError(.unreachable, "the target is out of reach") }
        let (ours, theirs) = MemoryStream.pair()
        let receiver = MigrationReceiver(fs: fs, disks: disks, guest: guest)
        do throws(SystemError) {
            let thread = try OwnThread(name: "target") {
                guard let channel = try? MessageChannel(stream: theirs, peerName: "the source") else { return }
                let peer = CutPeer(channel, theirs, cutter)
                do throws(TransportError) {
                    guard let first = try peer.receive() else { return }
                    let request = try ServiceRequest(parsing: first)
                    try receiver.serve(peer, folder: request.path)
                } catch {}
                peer.close()
            }
            threads.withLock { $0.append(thread) }
        } catch {
            throw TransportError(.system, error.description)
        }
        return CutPeer(try MessageChannel(stream: ours, peerName: "the target"), ours, cutter)
    }

    /// Waits until every connection has ended.
    func settle() {
        let all = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in all { thread.join() }
    }
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
