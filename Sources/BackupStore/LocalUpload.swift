internal import BlockIO
internal import Codecs
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

extension LocalStore {
    public func beginUpload(_ kind: ObjectKind) throws(StoreError) -> any ObjectUpload {
        guard let session else { throw StoreError(.invalid, "store \(address) was opened to read only") }
        let path = try session.nextPath()
        let file = try storing { () throws(SystemError) in
            try fs.open(path, OpenMode(writable: true, creation: .exclusive))
        }
        return LocalUpload(store: self, kind: kind, path: path, file: file)
    }
}

/// A file below `tmp`, until it is renamed.
private final class LocalUpload: ObjectUpload {
    private let store: LocalStore
    private let kind: ObjectKind
    private let path: String
    private let file: any StorageFile
    private struct State {
        var byteCount: UInt64 = 0
        var isOpen = true
    }
    private let state = Mutex(State())

    init(store: LocalStore, kind: ObjectKind, path: String, file: any StorageFile) {
        self.store = store
        self.kind = kind
        self.path = path
        self.file = file
    }

    deinit { abandon() }

    func append(_ bytes: UnsafeRawBufferPointer) throws(StoreError) {
        let offset = state.withLock { state -> UInt64? in
            guard state.isOpen else { return nil }
            defer { state.byteCount += UInt64(bytes.count) }
            return state.byteCount
        }
        guard let offset else { throw StoreError(.invalid, "the upload of a \(kind) has ended") }
        do throws(SystemError) { try unsafe file.write(at: offset, from: bytes) } catch {
            abandon()
            throw StoreError(error)
        }
    }

    func abandon() {
        let wasOpen = state.withLock { state in
            defer { state.isOpen = false }
            return state.isOpen
        }
        // What can't be removed now is removed by the next writer.
        if wasOpen { try? store.fs.remove(path) }
    }

    func commit(name: String) throws(StoreError) {
        do throws(StoreError) { try makeVisible(name) } catch {
            abandon()
            throw error
        }
        if kind == .index { try store.added(index: name) }
    }

    private func makeVisible(_ name: String) throws(StoreError) {
        let size = state.withLock { $0.isOpen ? $0.byteCount : nil }
        guard let size else { throw StoreError(.invalid, "the upload of a \(kind) has ended") }
        let target = try store.path(kind, name)
        try check(name, size)
        let folder = folderPart(of: target)
        let fs = store.fs
        try storing { () throws(SystemError) in
            try file.synchronize()
            if kind == .pack { try store.makeDurable(folder: folder) }
            // The same content, put there by another writer, stays; but whether its name is durable is not known.
            if try !fs.exists(target) {
                try fs.rename(path, to: target)
                state.withLock { $0.isOpen = false }
            }
            try fs.synchronizeFolder(folder)
        }
        abandon()
    }

    /// Whether the content is what the name stands for: a store takes nothing on trust from a peer.
    private func check(_ name: String, _ size: UInt64) throws(StoreError) {
        func refuse(_ what: String) -> StoreError {
            StoreError(.corrupt, "the uploaded \(kind) \(name) is refused: \(what)")
        }
        func parsed<R>(_ body: () throws(FieldError) -> R) throws(StoreError) -> R {
            do throws(FieldError) { return try body() } catch { throw refuse(error.message) }
        }
        switch kind {
        case .pack:
            let trailerBytes = PackDirectory.trailerBytes
            guard let digest = Digest(hex: name), size > UInt64(PackDirectory.headerBytes + trailerBytes) else {
                throw refuse("it is too short")
            }
            let trailer = try bytes(at: size - UInt64(trailerBytes), trailerBytes)
            let place = try parsed { () throws(FieldError) in
                try PackDirectory.parseTrailer(trailer, packBytes: size)
            }
            let header = try bytes(at: 0, PackDirectory.headerBytes)
            let directory = try bytes(at: place.offset, place.count)
            _ = try parsed { () throws(FieldError) in
                try PackDirectory.parse(
                    header: header, directory: directory, trailer: trailer, packBytes: size, name: digest)
            }
        case .index:
            let hash = StreamHash(prefix: IndexTrailer.namePrefix)
            var offset: UInt64 = 0
            while offset < size {
                let part = try bytes(at: offset, Int(min(size - offset, 1 << 18)))
                hash.update(part)
                offset += UInt64(part.count)
            }
            guard hash.finish().description == name else { throw refuse("its content is not what its name stands for") }
        case .point:
            guard size <= UInt64(StoreLimits.pointMax) else { throw refuse("it is too long") }
            _ = try RestorePoint(parsing: try bytes(at: 0, Int(size)), id: name)
        }
    }

    private func bytes(at offset: UInt64, _ count: Int) throws(StoreError) -> [UInt8] {
        try storing { () throws(SystemError) in try file.readBytes(at: offset, count: count) }
    }
}
