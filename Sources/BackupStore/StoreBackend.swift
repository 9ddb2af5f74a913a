public import Codecs

/// What a store consists of, besides its description.
public enum ObjectKind: UInt8, Hashable, Sendable, CaseIterable {
    /// Chunks and tree nodes, compressed.
    case pack = 1
    /// Where chunks and nodes are.
    case index = 2
    /// A restore point.
    case point = 3
}

/// What has to be known about a store before anything is put in or taken out.
public struct StoreInfo: Hashable, Sendable {
    public var uuid: String
    public var chunkBytes: UInt32
    public init(uuid: String, chunkBytes: UInt32) {
        self.uuid = uuid
        self.chunkBytes = chunkBytes
    }
}

public struct StoredObject: Hashable, Sendable {
    public var name: String
    public var byteCount: UInt64
    /// It is there, and can't be examined now: not even its size is known.
    public var isUnreadable: Bool
    public init(name: String, byteCount: UInt64, isUnreadable: Bool = false) {
        self.name = name
        self.byteCount = byteCount
        self.isUnreadable = isUnreadable
    }

    /// - Throws: `.io` when it can't be examined now.
    public func expectExamined(as kind: String) throws(StoreError) {
        if isUnreadable { throw StoreError(.io, "\(kind) \(name) can't be examined") }
    }
}

/// A run of bytes of a stored object.
public struct ObjectPiece: Hashable, Sendable {
    public var kind: ObjectKind
    public var name: String
    public var offset: UInt64
    public var count: Int
    public init(kind: ObjectKind, name: String, offset: UInt64, count: Int) {
        self.kind = kind
        self.name = name
        self.offset = offset
        self.count = count
    }
}

/// Where a chunk or a node is: in which frame of which pack, and where in the frame's plain bytes.
public struct Location: Hashable, Sendable {
    /// The pack's name.
    public var pack: Digest
    /// Offset of the frame in the pack.
    public var frameOffset: UInt32
    public var storedBytes: UInt32
    public var plainBytes: UInt32
    /// `false`: the stored bytes are the plain ones.
    public var isCompressed: Bool
    public var isNode: Bool
    /// Place in the frame's plain bytes.
    public var offset: UInt32
    public var length: UInt32

    public init(
        pack: Digest, frameOffset: UInt32, storedBytes: UInt32, plainBytes: UInt32, isCompressed: Bool, isNode: Bool,
        offset: UInt32, length: UInt32
    ) {
        self.pack = pack
        self.frameOffset = frameOffset
        self.storedBytes = storedBytes
        self.plainBytes = plainBytes
        self.isCompressed = isCompressed
        self.isNode = isNode
        self.offset = offset
        self.length = length
    }

    /// Whether its numbers can be: to be checked before they are used, whoever sent them.
    public var isSound: Bool {
        length > 0 && plainBytes <= UInt32(StoreLimits.frameMax) && offset < plainBytes && length <= plainBytes - offset
            && storedBytes > 0 && storedBytes <= UInt32(StoreLimits.readMax)
            && (isCompressed || storedBytes == plainBytes)
            && frameOffset >= UInt32(PackDirectory.headerBytes) && frameOffset < PackDirectory.packBytesMax
    }
}

/// An object on its way into a store. One thread at a time. Dropped without ``commit(name:)`` it leaves nothing but
/// what is whole of a pack.
public protocol ObjectUpload: AnyObject, Sendable {
    /// Adds bytes at the end. They may be buffered; a failure may show only later, in ``commit(name:)`` at the latest.
    func append(_ bytes: UnsafeRawBufferPointer) throws(StoreError)
    /// Makes the object durable, then visible under `name`. When there is one of that name already, its content is the
    /// same by construction, and it stays. What is committed is seen by every later call of this backend.
    func commit(name: String) throws(StoreError)
    /// Tells what the bytes of a pack appended last are: its next frame. Should the upload end without a commit, the
    /// frames told of are kept as a pack where that can be.
    func note(_ frame: PackFrame) throws(StoreError)
    func abandon()
}

extension ObjectUpload {
    public func note(_ frame: PackFrame) throws(StoreError) {}
}

/// A place for immutable objects: a folder, or a peer that has one. All calls block and may come from several threads.
///
/// Objects are never changed. Whoever commits a point has committed all it needs; the index is the store's own affair.
/// Implementations never trust the names they are given as paths: ``ObjectName/isValid(_:as:)``.
public protocol StoreBackend: AnyObject, Sendable {
    /// For people: the folder, or the peer's address.
    var address: String { get }
    var info: StoreInfo { get }

    /// For each id, whether it is in the store, and nothing is known against it: at most ``StoreLimits/batchMax`` ids,
    /// in any order; one round trip.
    func known(_ ids: [Digest]) throws(StoreError) -> [Bool]
    /// For each id where it is, or `nil`: at most ``StoreLimits/batchMax`` ids, in any order; one round trip.
    func locate(_ ids: [Digest]) throws(StoreError) -> [Location?]
    /// Reads all pieces, one after the other, into `memory`: one round trip.
    /// - Precondition: their counts add up to the memory's, and to at most ``StoreLimits/readMax``.
    /// - Throws: `.missing` when there is no such object, `.corrupt` when it is too short.
    func read(_ pieces: [ObjectPiece], into memory: UnsafeMutableRawBufferPointer) throws(StoreError)
    /// All visible objects of a kind, in the order of their names.
    func list(_ kind: ObjectKind) throws(StoreError) -> [StoredObject]
    func beginUpload(_ kind: ObjectKind) throws(StoreError) -> any ObjectUpload
    /// Text that changes when what is missing or damaged does; `nil` when nothing is, as far as that is known. Only for
    /// who adds to the store.
    func damage() throws(StoreError) -> String?
    /// Looks at these objects, which turned out to be wrong, anew: at most ``StoreLimits/batchMax``. What is damaged is
    /// as if it were not there from now on; what was answered before is of no account.
    func recheck(_ ids: [Digest]) throws(StoreError)
    /// Free bytes where the store is, or `nil` when that can't be told.
    func freeBytes() throws(StoreError) -> UInt64?
    /// Ends the use of the store; uploads that were not committed are gone.
    func close()
}

public enum StoreLimits {
    /// Ids in one look-up.
    public static let batchMax = 16384
    /// Bytes in one read: fits in one message between peers.
    public static let readMax = 3 << 20
    /// Plain bytes of a frame.
    public static let frameMax = 2 << 20
    /// Length of a restore point's file.
    public static let pointMax = 64 << 10
}

public enum ObjectName {
    /// Whether `name` can be that of an object: 64 lower-case hexadecimal digits, or for a point
    /// `YYYYMMDDTHHMMSSZ-xxxxxxxx`. Anything else might be a way out of the folder.
    public static func isValid(_ name: String, as kind: ObjectKind) -> Bool {
        let bytes = Array(name.utf8)
        switch kind {
        case .pack, .index: return bytes.count == 64 && bytes.allSatisfy(isHex)
        case .point:
            guard bytes.count == 25, bytes[8] == UInt8(ascii: "T"), bytes[15] == UInt8(ascii: "Z") else { return false }
            let digits = bytes[0..<8] + bytes[9..<15]
            return bytes[16] == UInt8(ascii: "-") && digits.allSatisfy { (48...57).contains($0) }
                && bytes[17...].allSatisfy(isHex)
        }
    }

    private static func isHex(_ byte: UInt8) -> Bool { (48...57).contains(byte) || (97...102).contains(byte) }
}

extension StoreBackend {
    public func damage() throws(StoreError) -> String? { nil }
    public func recheck(_ ids: [Digest]) throws(StoreError) {}

    /// All bytes of a small object.
    public func contents(_ kind: ObjectKind, _ name: String, byteCount: UInt64) throws(StoreError) -> [UInt8] {
        guard byteCount <= UInt64(StoreLimits.readMax) else {
            throw StoreError(.corrupt, "\(address): \(name) has \(byteCount) bytes, too many for what it should be")
        }
        var bytes = [UInt8](repeating: 0, count: Int(byteCount))
        let piece = ObjectPiece(kind: kind, name: name, offset: 0, count: bytes.count)
        var failure: StoreError?
        unsafe bytes.withUnsafeMutableBytes { memory in
            do throws(StoreError) { try unsafe read([piece], into: memory) } catch { failure = error }
        }
        if let failure { throw failure }
        return bytes
    }

    /// Puts a small object in whole.
    public func put(_ kind: ObjectKind, _ name: String, _ bytes: [UInt8]) throws(StoreError) {
        let upload = try beginUpload(kind)
        var failure: StoreError?
        unsafe bytes.withUnsafeBytes { memory in
            do throws(StoreError) { try unsafe upload.append(memory) } catch { failure = error }
        }
        if let failure {
            upload.abandon()
            throw failure
        }
        try upload.commit(name: name)
    }
}
