internal import BlockIO
internal import ChunkTree
public import Codecs
internal import LinuxSystem

/// Checks the frames of packs: their checksums, that they unpack, and that each object in them is what its identity
/// stands for. One thread at a time; memory for one frame.
public struct FrameCheck: ~Copyable {
    private let decompressor = Decompressor()
    private let plain = AlignedBuffer(byteCount: StoreLimits.frameMax)

    public init() {}

    /// - Parameters:
    ///   - stored: the frame's bytes, as many as its directory says.
    ///   - isQuick: only the checksum.
    /// - Returns: what is wrong with it, or `nil`.
    public func problem(_ frame: PackFrame, _ stored: UnsafeRawBufferPointer, isQuick: Bool = false) -> String? {
        guard unsafe crc32c(0, stored) == frame.checksum else { return "its checksum does not match" }
        if isQuick { return nil }
        guard let bytes = unsafe plainBytes(frame, stored) else { return "it does not unpack" }
        var offset = 0
        for object in frame.objects {
            let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + Int(object.length)])
            offset += Int(object.length)
            guard unsafe Self.isObject(object.id, part, isNode: frame.isNodes) else {
                return "\(frame.isNodes ? "node" : "chunk") \(object.id) in it is not what was stored"
            }
        }
        return nil
    }

    /// Whether the object at `place` is what its identity stands for.
    /// - Parameter stored: the stored bytes of its frame.
    public func isWhole(_ id: Digest, at place: Location, _ stored: UnsafeRawBufferPointer) -> Bool {
        unsafe !wholeObjects([(id, place)], stored).isEmpty
    }

    /// The objects of one frame that are what they should be, whatever its checksum says.
    /// - Parameter places: of its objects.
    func wholeObjects(
        _ places: [(id: Digest, place: Location)], _ stored: UnsafeRawBufferPointer
    ) -> [(id: Digest, bytes: [UInt8])] {
        guard let first = places.first?.place, first.isSound,
            let bytes = unsafe plainBytes(PackFrame(holding: first), stored)
        else { return [] }
        var whole: [(id: Digest, bytes: [UInt8])] = []
        for (id, place) in places where place.isSound && place.plainBytes == first.plainBytes {
            let part = unsafe UnsafeRawBufferPointer(
                rebasing: bytes[Int(place.offset)..<Int(place.offset) + Int(place.length)])
            if unsafe Self.isObject(id, part, isNode: place.isNode) { whole.append((id, unsafe [UInt8](part))) }
        }
        return whole
    }

    private static func isObject(_ id: Digest, _ bytes: UnsafeRawBufferPointer, isNode: Bool) -> Bool {
        unsafe (isNode ? TreeNode.id(ofEncoded: [UInt8](bytes)) : ChunkID.of(bytes)) == id
    }

    /// The plain bytes, as many as the frame speaks of; valid until the next call.
    private func plainBytes(_ frame: PackFrame, _ stored: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
        guard frame.isCompressed else {
            guard stored.count == Int(frame.plainBytes) else { return nil }
            return unsafe stored
        }
        guard Int(frame.plainBytes) <= StoreLimits.frameMax else { return nil }
        let target = unsafe UnsafeMutableRawBufferPointer(rebasing: plain.memory[..<Int(frame.plainBytes)])
        guard unsafe decompressor.decompress(stored, into: target) == target.count else { return nil }
        return UnsafeRawBufferPointer(target)
    }
}

/// Reads the frames of one file one after the other and checks them.
struct PackFileCheck: ~Copyable {
    private let check = FrameCheck()
    private let stored = AlignedBuffer(byteCount: StoreLimits.readMax)

    /// - Parameter isQuick: only the checksum.
    /// - Returns: what is wrong with the frame, or `nil`.
    func problem(
        _ frame: PackFrame, in file: any StorageFile, isQuick: Bool = false
    ) throws(StoreError) -> String? {
        let memory = unsafe try read(frame, file)
        return unsafe check.problem(frame, memory, isQuick: isQuick)
    }

    func wholeObjects(
        _ places: [(id: Digest, place: Location)], in file: any StorageFile
    ) throws(StoreError) -> [(id: Digest, bytes: [UInt8])] {
        guard let first = places.first?.place, first.isSound else { return [] }
        let memory = unsafe try read(PackFrame(holding: first), file)
        return unsafe check.wholeObjects(places, memory)
    }

    func isWhole(_ id: Digest, at place: Location, in file: any StorageFile) throws(StoreError) -> Bool {
        try !wholeObjects([(id, place)], in: file).isEmpty
    }

    /// The frame's stored bytes; valid until the next call.
    func read(_ frame: PackFrame, _ file: any StorageFile) throws(StoreError) -> UnsafeRawBufferPointer {
        let memory = unsafe UnsafeMutableRawBufferPointer(rebasing: stored.memory[..<Int(frame.storedBytes)])
        do throws(SystemError) { try unsafe file.read(at: UInt64(frame.offset), into: memory) } catch {
            throw StoreError(error)
        }
        return UnsafeRawBufferPointer(memory)
    }
}

extension PackFrame {
    /// The frame that an object is in, as far as the object's place tells.
    fileprivate init(holding place: Location) {
        self.init(
            offset: place.frameOffset, storedBytes: place.storedBytes, plainBytes: place.plainBytes, checksum: 0,
            isCompressed: place.isCompressed, isNodes: place.isNode, objects: [])
    }
}
