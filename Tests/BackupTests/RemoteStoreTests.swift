import Backup
import BackupStore
import BlockIO
import ChunkTree
import Codecs
import LinuxSystem
import Synchronization
import TestSupport
import Testing
import Transport

/// A store in a folder, and the same store through a channel in this process.
final class RemotePair: Sendable {
    let folder: TemporaryFolder
    let local: LocalStore
    let remote: RemoteStore
    private let far: MemoryStream
    private let server: OwnThread

    init(writable: Bool = true, backend: ((LocalStore) -> any StoreBackend)? = nil) throws {
        folder = try TemporaryFolder()
        let fs = LinuxFileSystem()
        try LocalStore.create(at: folder.file("store"), uuid: "uuid-1", chunkBytes: 65536, in: fs)
        let local = try LocalStore(opening: folder.file("store"), writable: writable, in: fs)
        self.local = local
        let served = backend?(local) ?? local
        let (near, far) = MemoryStream.pair()
        self.far = far
        server = try OwnThread(name: "server") {
            guard let channel = try? MessageChannel(stream: far, peerName: "client") else { return }
            _ = try? channel.receive()
            do throws(TransportError) { try StoreService.serve(channel, served) } catch {
                if error.code == .protocolViolation { channel.fail(code: "protocolViolation", message: error.message) }
            }
            channel.close()
        }
        remote = try RemoteStore(
            peer: try MessageChannel(stream: near, peerName: "far"), folder: "store", address: "ssh://far/store")
    }

    /// Cuts the link, as a pulled cable does.
    func cut() { far.close() }

    func end() {
        remote.close()
        server.join()
        local.close()
    }

    /// Files below the store that a reader would take for objects.
    func visibleObjects() throws -> Int {
        try ObjectKind.allCases.reduce(0) { count, kind in try count + local.list(kind).count }
    }
}

/// A restore point's bytes and name: the simplest object that a store takes.
func anyPoint(_ number: UInt64) -> RestorePoint {
    let shape = TreeShape(byteCount: 1 << 20, chunkBytes: 65536)
    return RestorePoint(
        RestorePoint.Content(
            disk: "disk", name: "name", time: number * 1_000_000_000, root: TreeRoot(top: .zero, shape: shape),
            parent: nil,
            snapshot: "{0}"))
}

@Suite struct RemoteStoreTests {
    @Test func `an uploaded object is durable, listed and read back`() throws {
        let pair = try RemotePair()
        #expect(pair.remote.info == StoreInfo(uuid: "uuid-1", chunkBytes: 65536))
        let points = (1...40).map { anyPoint($0) }
        for point in points { try pair.remote.put(.point, point.id, point.encoded()) }
        #expect(try pair.remote.list(.point) == pair.local.list(.point))
        #expect(try pair.remote.list(.point).count == 40)
        for point in points {
            let size = UInt64(point.encoded().count)
            #expect(try pair.remote.contents(.point, point.id, byteCount: size) == point.encoded())
        }
        #expect(try pair.remote.freeBytes() != nil)
        pair.end()
    }

    @Test func `questions about ids are answered in their order`() throws {
        let pair = try RemotePair()
        let ids = (0..<StoreLimits.batchMax).map { Digest.hash([UInt8($0 & 255), UInt8($0 >> 8)]) }
        #expect(try pair.remote.known(ids) == [Bool](repeating: false, count: ids.count))
        #expect(try pair.remote.locate(ids).allSatisfy { $0 == nil })
        #expect(try pair.remote.known([]) == [])
        pair.end()
    }

    @Test func `a store's errors keep their code`() throws {
        let pair = try RemotePair()
        let missing = #expect(throws: StoreError.self) {
            try pair.remote.contents(.pack, String(repeating: "a", count: 64), byteCount: 10)
        }
        #expect(missing?.code == .missing)
        #expect(missing?.message.hasPrefix("ssh://far/store: ") == true)
        let invalid = #expect(throws: StoreError.self) {
            try pair.remote.contents(.pack, "../../etc/passwd", byteCount: 10)
        }
        #expect(invalid?.code == .invalid)
        let refused = #expect(throws: StoreError.self) {
            try pair.remote.put(.point, anyPoint(1).id, anyPoint(2).encoded())
        }
        #expect(refused?.code == .corrupt)
        // The conversation goes on.
        try pair.remote.put(.point, anyPoint(1).id, anyPoint(1).encoded())
        #expect(try pair.visibleObjects() == 1)
        pair.end()
    }

    @Test func `several threads use one connection at once`() throws {
        let pair = try RemotePair()
        let failures = Atomic(0)
        let threads = try (0..<4).map { thread in
            try OwnThread(name: "user") {
                for number in 0..<20 {
                    let point = anyPoint(UInt64(thread * 1000 + number))
                    do {
                        try pair.remote.put(.point, point.id, point.encoded())
                        let size = UInt64(point.encoded().count)
                        guard try pair.remote.contents(.point, point.id, byteCount: size) == point.encoded() else {
                            failures.add(1, ordering: .relaxed)
                            continue
                        }
                    } catch { failures.add(1, ordering: .relaxed) }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.load(ordering: .relaxed) == 0)
        #expect(try pair.remote.list(.point).count == 80)
        pair.end()
    }

    @Test func `a large upload flows, and nothing shows before its commit`() throws {
        let pair = try RemotePair()
        let upload = try pair.remote.beginUpload(.pack)
        let block = [UInt8](repeating: 7, count: 3 << 20)
        for _ in 0..<20 { try block.withUnsafeBytes { try upload.append($0) } }
        #expect(try pair.visibleObjects() == 0)
        // It is no pack, so the far side refuses it.
        let error = #expect(throws: StoreError.self) { try upload.commit(name: String(repeating: "b", count: 64)) }
        #expect(error?.code == .corrupt)
        #expect(try pair.visibleObjects() == 0)
        pair.end()
        #expect(try LinuxFileSystem().list(pair.folder.file("store/tmp")).allSatisfy { !$0.contains(".1") })
    }

    @Test func `an abandoned upload leaves nothing, and others go on`() throws {
        let pair = try RemotePair()
        for _ in 0..<100 {
            let upload = try pair.remote.beginUpload(.pack)
            try [UInt8](repeating: 1, count: 2 << 20).withUnsafeBytes { try upload.append($0) }
            upload.abandon()
        }
        try pair.remote.put(.point, anyPoint(1).id, anyPoint(1).encoded())
        #expect(try pair.visibleObjects() == 1)
        pair.end()
    }

    @Test func `a store that runs full says so before the commit`() throws {
        let pair = try RemotePair { FullStore($0, room: 4 << 20) }
        let upload = try pair.remote.beginUpload(.pack)
        let block = [UInt8](repeating: 7, count: 1 << 20)
        let error = #expect(throws: StoreError.self) {
            for _ in 0..<1000 { try block.withUnsafeBytes { try upload.append($0) } }
        }
        #expect(error?.code == .outOfSpace)
        #expect(try pair.remote.known([.zero]) == [false])
        pair.end()
    }

    @Test func `a cut link is an error for who waits and who comes later, and leaves nothing visible`() throws {
        let pair = try RemotePair()
        let upload = try pair.remote.beginUpload(.pack)
        try [UInt8](repeating: 1, count: 5 << 20).withUnsafeBytes { try upload.append($0) }
        pair.cut()
        let error = #expect(throws: StoreError.self) { try upload.commit(name: String(repeating: "c", count: 64)) }
        #expect(error?.code == .remote)
        #expect(throws: StoreError.self) { try pair.remote.known([.zero]) }
        #expect(throws: StoreError.self) { try pair.remote.beginUpload(.pack) }
        #expect(try pair.visibleObjects() == 0)
        pair.end()
    }

    @Test func `a store opened to read takes nothing`() throws {
        let pair = try RemotePair(writable: false)
        let error = #expect(throws: StoreError.self) {
            try pair.remote.put(.point, anyPoint(1).id, anyPoint(1).encoded())
        }
        #expect(error?.code == .invalid)
        #expect(try pair.remote.list(.point) == [])
        pair.end()
    }
}

/// A store whose disk is soon full.
final class FullStore: StoreBackend {
    private let base: any StoreBackend
    private let room: Atomic<Int>

    init(_ base: any StoreBackend, room: Int) {
        self.base = base
        self.room = Atomic(room)
    }

    var address: String { base.address }
    var info: StoreInfo { base.info }
    func known(_ ids: [Digest]) throws(StoreError) -> [Bool] { try base.known(ids) }
    func locate(_ ids: [Digest]) throws(StoreError) -> [Location?] { try base.locate(ids) }
    func read(_ pieces: [ObjectPiece], into memory: UnsafeMutableRawBufferPointer) throws(StoreError) {
        try base.read(pieces, into: memory)
    }
    func list(_ kind: ObjectKind) throws(StoreError) -> [StoredObject] { try base.list(kind) }
    func freeBytes() throws(StoreError) -> UInt64? { 0 }
    func close() { base.close() }

    func beginUpload(_ kind: ObjectKind) throws(StoreError) -> any ObjectUpload {
        Upload(try base.beginUpload(kind), self)
    }

    private final class Upload: ObjectUpload {
        private let base: any ObjectUpload
        private let store: FullStore

        init(_ base: any ObjectUpload, _ store: FullStore) {
            self.base = base
            self.store = store
        }

        func append(_ bytes: UnsafeRawBufferPointer) throws(StoreError) {
            guard store.room.subtract(bytes.count, ordering: .relaxed).newValue >= 0 else {
                throw StoreError(.outOfSpace, "no space left")
            }
            try base.append(bytes)
        }
        func commit(name: String) throws(StoreError) { try base.commit(name: name) }
        func abandon() { base.abandon() }
    }
}
