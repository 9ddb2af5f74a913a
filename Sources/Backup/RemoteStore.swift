public import BackupStore
public import Codecs
internal import LinuxSystem
public import Transport

/// A store at a peer, godwit-peer(5): each batch is one message there and one back, and several may be under way.
public final class RemoteStore: StoreBackend {
    public let address: String
    public var info: StoreInfo { opening.info }
    private let opening: StoreOpening
    let link: StoreLink

    /// Opens the store in the peer's `folder`.
    /// - Parameters:
    ///   - address: for messages to people.
    ///   - writable: otherwise nothing at the peer is touched.
    public init(peer: any MessagePeer, folder: String, address: String, writable: Bool = true) throws(StoreError) {
        self.address = address
        do throws(TransportError) {
            let request = ServiceRequest(service: StoreMessage.service, path: folder, isReadOnly: !writable)
            let opened = try peer.open(request)
            opening = try StoreOpening(parsing: opened.payload)
            link = try StoreLink(peer: peer, address: address)
        } catch {
            peer.close()
            guard error.peerCode == StoreError.Code.notAStore.rawValue else { throw error.asStoreError(address) }
            throw StoreError(
                .notAStore,
                "\(address) is not a store: is its file system mounted there? `godwit store init \(address)` makes a "
                    + "new one")
        }
        guard !writable || opening.version >= StoreMessage.version else {
            throw StoreError(
                .unsupported,
                "the godwit at \(address) is too old to be added to: it leaves the making of the index to others; "
                    + "upgrade it there")
        }
    }

    /// Makes an empty store in the peer's `folder`, and ends the conversation.
    public static func create(
        peer: any MessagePeer, folder: String, address: String, uuid: String, chunkBytes: UInt32
    ) throws(StoreError) {
        defer { peer.close() }
        do throws(TransportError) {
            _ = try peer.open(ServiceRequest(service: StoreMessage.creationService, path: folder, isReadOnly: false))
            var writer = PayloadWriter()
            writer.put(text: uuid)
            writer.put(chunkBytes)
            try peer.send(Message(kind: StoreMessage.create, id: 1, payload: writer.bytes))
            let answer = try peer.receive()
            if let answer, answer.kind == ServiceFailure.kind { throw try ServiceFailure(parsing: answer).error }
            guard answer?.kind == StoreMessage.reply else {
                throw TransportError(.protocolViolation, "the peer did not answer the request for a new store")
            }
        } catch {
            throw error.asStoreError(address)
        }
    }

    deinit { link.close() }

    public func close() { link.close() }

    public func known(_ ids: [Digest]) throws(StoreError) -> [Bool] {
        precondition(ids.count <= StoreLimits.batchMax, "a batch has at most \(StoreLimits.batchMax) ids")
        var writer = PayloadWriter()
        writer.put(digests: ids)
        var reader = PayloadReader(try link.call(StoreMessage.known, writer.bytes))
        return try link.parse { () throws(TransportError) in
            let flags = try reader.raw("known ids", count: ids.count)
            try reader.finish()
            return flags.map { $0 != 0 }
        }
    }

    public func locate(_ ids: [Digest]) throws(StoreError) -> [Location?] {
        precondition(ids.count <= StoreLimits.batchMax, "a batch has at most \(StoreLimits.batchMax) ids")
        var writer = PayloadWriter()
        writer.put(digests: ids)
        var reader = PayloadReader(try link.call(StoreMessage.locate, writer.bytes))
        return try link.parse { () throws(TransportError) in
            var locations: [Location?] = []
            locations.reserveCapacity(ids.count)
            for _ in ids { locations.append(try reader.location()) }
            try reader.finish()
            return locations
        }
    }

    public func read(_ pieces: [ObjectPiece], into memory: UnsafeMutableRawBufferPointer) throws(StoreError) {
        guard memory.count <= StoreLimits.readMax else {
            throw StoreError(.invalid, "one read is at most \(StoreLimits.readMax) bytes, not \(memory.count)")
        }
        precondition(pieces.reduce(0) { $0 + $1.count } == memory.count, "pieces fill the memory")
        guard memory.count > 0 else { return }
        var writer = PayloadWriter()
        writer.put(pieces: pieces)
        let bytes = try link.call(StoreMessage.read, writer.bytes)
        guard bytes.count == memory.count else {
            throw StoreError(
                .remote, "\(address): the peer answered a read of \(memory.count) bytes with \(bytes.count)")
        }
        unsafe bytes.withUnsafeBytes { unsafe memory.copyMemory(from: $0) }
    }

    public func list(_ kind: ObjectKind) throws(StoreError) -> [StoredObject] {
        var writer = PayloadWriter()
        writer.put(kind.rawValue)
        var objects: [StoredObject] = []
        for part in try link.callForParts(StoreMessage.list, writer.bytes) {
            var reader = PayloadReader(part)
            objects += try link.parse { () throws(TransportError) in
                var objects: [StoredObject] = []
                for _ in 0..<(try reader.count("objects", each: 10)) {
                    let name = try reader.text("name")
                    let size = try reader.next("size", as: UInt64.self)
                    let isUnreadable = size == StoreMessage.unreadableSize
                    objects.append(
                        StoredObject(name: name, byteCount: isUnreadable ? 0 : size, isUnreadable: isUnreadable))
                }
                try reader.finish()
                return objects
            }
        }
        // A name is used as a path by nobody here, but what can't be one was not listed by a store.
        guard objects.allSatisfy({ ObjectName.isValid($0.name, as: kind) }) else {
            throw StoreError(.remote, "\(address): the peer listed a \(kind) of an impossible name")
        }
        return objects
    }

    public func freeBytes() throws(StoreError) -> UInt64? {
        var reader = PayloadReader(try link.call(StoreMessage.freeBytes, []))
        let count: UInt64 = try link.parse { () throws(TransportError) in try reader.next("free bytes") }
        return count == .max ? nil : count
    }

    public func damage() throws(StoreError) -> String? { opening.damage.isEmpty ? nil : opening.damage }

    public func recheck(_ ids: [Digest]) throws(StoreError) {
        var writer = PayloadWriter()
        writer.put(digests: ids)
        _ = try link.call(StoreMessage.recheck, writer.bytes)
    }

    public func beginUpload(_ kind: ObjectKind) throws(StoreError) -> any ObjectUpload {
        try RemoteUpload(kind, link: link)
    }
}

extension TransportError {
    /// As the store's error; a peer's own error keeps its code.
    func asStoreError(_ address: String) -> StoreError {
        let code = peerCode.map { StoreError.Code(rawValue: $0) ?? .refused }
        return StoreError(code ?? .remote, "\(address): \(message)")
    }
}
