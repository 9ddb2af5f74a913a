import BlockIO
import ChangeTracking
import Geometry
import LinuxSystem
import Synchronization
import TestSupport
import Testing

@testable import DiskImage

/// A file system whose files hold a write back until they are told to let it go.
private final class HoldingFileSystem: FileSystem {
    struct State {
        var isHolding = false
        var isHeld = false
    }
    let below = LinuxFileSystem()
    let state = Monitor(State())

    private final class File: StorageFile {
        let below: any StorageFile
        let owner: HoldingFileSystem
        init(_ below: any StorageFile, _ owner: HoldingFileSystem) {
            self.below = below
            self.owner = owner
        }
        var alignment: Int { below.alignment }
        func identity() throws(SystemError) -> FileIdentity { try below.identity() }
        func size() throws(SystemError) -> UInt64 { try below.size() }
        func allocatedBytes() throws(SystemError) -> UInt64 { try below.allocatedBytes() }
        func perform(_ transfers: [Transfer]) throws(SystemError) {
            if transfers.contains(where: { $0.operation == .write }) {
                owner.state.change { if $0.isHolding { $0.isHeld = true } }
                owner.state.await { state -> Void? in state.isHolding ? nil : () }
            }
            try below.perform(transfers)
        }
        func synchronize() throws(SystemError) { try below.synchronize() }
        func truncate(to size: UInt64) throws(SystemError) { try below.truncate(to: size) }
        func reserve(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
            try below.reserve(offset: offset, count: count)
        }
        func zero(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
            try below.zero(offset: offset, count: count)
        }
        func punch(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
            try below.punch(offset: offset, count: count)
        }
        func nextData(from offset: UInt64) throws(SystemError) -> (offset: UInt64, count: UInt64)? {
            try below.nextData(from: offset)
        }
        func unwrittenRanges(in range: ByteRange) throws(SystemError) -> [ByteRange]? {
            try below.unwrittenRanges(in: range)
        }
    }

    func open(_ path: String, _ mode: OpenMode) throws(SystemError) -> any StorageFile {
        File(try below.open(path, mode), self)
    }
    func rename(_ source: String, to target: String) throws(SystemError) { try below.rename(source, to: target) }
    func remove(_ path: String) throws(SystemError) { try below.remove(path) }
    func synchronizeFolder(_ path: String) throws(SystemError) { try below.synchronizeFolder(path) }
    func createFolder(_ path: String) throws(SystemError) { try below.createFolder(path) }
    func removeFolder(_ path: String) throws(SystemError) { try below.removeFolder(path) }
    func exists(_ path: String) throws(SystemError) -> Bool { try below.exists(path) }
    func isFolder(_ path: String) throws(SystemError) -> Bool { try below.isFolder(path) }
    func list(_ path: String) throws(SystemError) -> [String] { try below.list(path) }
    func space(at path: String) throws(SystemError) -> SpaceInfo { try below.space(at: path) }
    func lock(_ path: String, wait: Bool) throws(SystemError) -> (any HeldLock)? { try below.lock(path, wait: wait) }
    func lease(_ path: String, _ kind: LeaseKind) throws(SystemError) -> LeaseAnswer { try below.lease(path, kind) }
    func claim(_ folder: String) throws(SystemError) -> (any HeldClaim)? { try below.claim(folder) }
    func identity(of path: String) throws(SystemError) -> FileIdentity? { try below.identity(of: path) }
    func resolve(_ path: String) throws(SystemError) -> String { try below.resolve(path) }
}

@Suite struct HeldWriteTests {
    @Test("a write is marked once it has happened, so that no round leaves it out", .timeLimit(.minutes(1)))
    func marks() throws {
        let folder = try TemporaryFolder()
        let fs = HoldingFileSystem()
        let path = folder.file("disk")
        try createDisk(at: path, options: CreateOptions(byteCount: 8 << 20), in: LinuxFileSystem())
        let disk = try Disk.open(path, in: fs)
        let old = [UInt8](repeating: 1, count: 4096)
        try old.withUnsafeBytes { try disk.write(at: 0, from: $0) }
        let tracker = try disk.startTracking()
        fs.state.change { $0.isHolding = true }
        let writer = try OwnThread(name: "held write") {
            try? [UInt8](repeating: 2, count: 4096).withUnsafeBytes { try disk.write(at: 0, from: $0) }
        }
        fs.state.await { state -> Void? in state.isHeld ? () : nil }
        let all = ByteRange(offset: 0, count: 8 << 20)
        // Whoever takes now and reads has the old bytes.
        _ = tracker.take(in: all, limit: 10)
        fs.state.change { $0.isHolding = false }
        writer.join()
        #expect(tracker.take(in: all, limit: 10).runs == [ByteRange(offset: 0, count: 65536)])
        disk.stopTracking(tracker)
        try disk.close()
    }
}
