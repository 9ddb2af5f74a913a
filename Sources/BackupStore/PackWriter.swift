public import Codecs

/// Writes frames into packs, one pack at a time, through a backend. One thread at a time.
public final class PackWriter {
    /// A compressed frame, ready to be written.
    @unsafe public struct Frame {
        public var bytes: UnsafeRawBufferPointer
        public var plainBytes: Int
        public var isCompressed: Bool
        public var isNodes: Bool
        public var objects: [PackFrame.Object]
        public init(
            bytes: UnsafeRawBufferPointer, plainBytes: Int, isCompressed: Bool, isNodes: Bool,
            objects: [PackFrame.Object]
        ) {
            unsafe self.bytes = bytes
            unsafe self.plainBytes = plainBytes
            unsafe self.isCompressed = isCompressed
            unsafe self.isNodes = isNodes
            unsafe self.objects = objects
        }
    }

    private let backend: any StoreBackend
    private let packBytesTarget: Int
    private var upload: (any ObjectUpload)?
    private var directory = PackDirectory()
    private var end: UInt32 = 0
    private var objects = 0
    /// A pack is closed with that many objects, too: a directory is read in one piece.
    private static let objectsMax = 100_000
    private let completed: (Digest, PackDirectory) throws(StoreError) -> Void

    /// Bytes in all packs that were completed, their directories included.
    public private(set) var storedBytes: UInt64 = 0
    /// Of these, those that are not frames.
    public private(set) var directoryBytes: UInt64 = 0
    public private(set) var packs = 0

    /// - Parameters:
    ///   - packBytesTarget: a pack is closed once it has that many bytes of frames.
    ///   - completed: called after each pack is durable.
    public init(
        backend: any StoreBackend, packBytesTarget: Int = 64 << 20,
        completed: @escaping (Digest, PackDirectory) throws(StoreError) -> Void
    ) {
        precondition(packBytesTarget <= 1 << 30, "packs stay below 4 GiB")
        self.backend = backend
        self.packBytesTarget = packBytesTarget
        self.completed = completed
    }

    public func add(_ frame: Frame) throws(StoreError) {
        let upload: any ObjectUpload
        if let open = self.upload {
            upload = open
        } else {
            upload = try backend.beginUpload(.pack)
            self.upload = upload
            directory = PackDirectory()
            end = UInt32(PackDirectory.headerBytes)
            objects = 0
            try append(PackDirectory.header, to: upload)
        }
        try unsafe upload.append(frame.bytes)
        let entry = unsafe PackFrame(
            offset: end, storedBytes: UInt32(frame.bytes.count), plainBytes: UInt32(frame.plainBytes),
            checksum: crc32c(0, frame.bytes), isCompressed: frame.isCompressed, isNodes: frame.isNodes,
            objects: frame.objects)
        try upload.note(entry)
        directory.frames.append(entry)
        end += entry.storedBytes
        objects += entry.objects.count
        if Int(end) >= packBytesTarget || objects >= Self.objectsMax { try finishPack() }
    }

    /// Makes the pack that is being written durable, if there is one.
    public func finishPack() throws(StoreError) {
        guard let upload else { return }
        let ending = directory.ending(at: end)
        try append(ending.bytes, to: upload)
        try upload.commit(name: ending.name.description)
        self.upload = nil
        storedBytes += UInt64(end) + UInt64(ending.bytes.count)
        directoryBytes += UInt64(ending.bytes.count + PackDirectory.headerBytes)
        packs += 1
        try completed(ending.name, directory)
    }

    /// Ends the pack that is being written; what of it is whole is kept where that can be.
    public func abandon() {
        upload?.abandon()
        upload = nil
    }

    private func append(_ bytes: [UInt8], to upload: any ObjectUpload) throws(StoreError) {
        var failure: StoreError?
        unsafe bytes.withUnsafeBytes { memory in
            do throws(StoreError) { try unsafe upload.append(memory) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}
