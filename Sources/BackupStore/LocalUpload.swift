internal import BlockIO
internal import ChunkTree
internal import Codecs
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

extension LocalStore {
    public func beginUpload(_ kind: ObjectKind) throws(StoreError) -> any ObjectUpload {
        guard kind != .index else {
            throw StoreError(
                .unsupported,
                "store \(address) makes its index itself: the godwit that sends one is too old to add to it, upgrade it"
            )
        }
        return try beginFile(kind)
    }

    /// As ``beginUpload(_:)``, for every kind.
    func beginFile(_ kind: ObjectKind) throws(StoreError) -> LocalUpload {
        guard let session else { throw StoreError(.invalid, "store \(address) was opened to read only") }
        let path = try session.nextPath()
        let file = try storing { () throws(SystemError) in
            try fs.open(path, OpenMode(writable: true, creation: .exclusive))
        }
        return LocalUpload(store: self, kind: kind, path: path, file: file)
    }

    /// Gives a synchronised file its name, durably. Where there is an object of that name already, it stays if it is
    /// whole, and is replaced otherwise.
    func show(
        _ path: String, as kind: ObjectKind, _ name: String, _ file: any StorageFile, _ size: UInt64
    ) throws(StoreError) {
        let target = try self.path(kind, name)
        let folder = folderPart(of: target)
        if kind == .pack { try storing { () throws(SystemError) in try makeDurable(folder: folder) } }
        var isThere = try isPresent(target)
        // A repair may be about to take out what is there.
        let replacing = isThere && kind == .pack ? try lockReplacing() : nil
        defer { withExtendedLifetime(replacing) {} }
        if replacing != nil { isThere = try isPresent(target) }
        let isWhole = isThere ? try isSame(target, file, size) : false
        // The name of a point is short enough to be met on purpose: another one that is whole stays.
        if kind == .point, isThere, !isWhole, let bytes = try? fs.contents(of: target, limit: StoreLimits.pointMax),
            (try? RestorePoint(parsing: bytes, id: name)) != nil
        {
            throw StoreError(.exists, "store \(address) has another restore point \(name)")
        }
        // What was made before this is in the store that is there now; what comes after it fails where that goes.
        try expectInPlace()
        try storing { () throws(SystemError) in
            if isWhole {
                // Put there by another writer; but whether its name is durable is not known.
                try fs.remove(path)
            } else {
                try fs.rename(path, to: target)
            }
            try fs.synchronizeFolder(folder)
        }
        // What is known against it is of what it has replaced, also when that went before, or of a medium that reads it
        // by now.
        if kind == .pack, let pack = Digest(hex: name) {
            if isThere || replacing != nil { forgetOpen(pack: name) }
            let hasNote = try hasNote(of: pack)
            if isThere || replacing != nil || hasNote { try forgetDamage(of: pack) }
        }
    }

    /// One that can't be examined is there.
    private func isPresent(_ path: String) throws(StoreError) -> Bool {
        do throws(SystemError) { return try fs.exists(path) } catch {
            try expectOneFileOnly(error)
            return true
        }
    }

    /// Held by who puts a pack in the place of one that is there, and by who takes a damaged one out.
    func lockReplacing() throws(StoreError) -> any HeldLock {
        let lock = try storing { () throws(SystemError) in try fs.lock("\(address)/tmp/replacing", wait: true) }
        guard let lock else { throw StoreError(.io, "cannot lock \(address)/tmp/replacing") }
        return lock
    }

    /// Whether what is at `path` is, byte by byte, what `file` has.
    private func isSame(_ path: String, _ file: any StorageFile, _ size: UInt64) throws(StoreError) -> Bool {
        do throws(SystemError) {
            let other = try fs.open(path, .read)
            guard try other.size() == size else { return false }
            var offset: UInt64 = 0
            while offset < size {
                let count = Int(min(size - offset, 1 << 18))
                guard try other.readBytes(at: offset, count: count) == file.readBytes(at: offset, count: count) else {
                    return false
                }
                offset += UInt64(count)
            }
            return true
        } catch {
            // What can't be read is as good as not there.
            try expectOneFileOnly(error)
            return false
        }
    }
}

/// A file below `tmp`, until it is renamed.
final class LocalUpload: ObjectUpload {
    private let store: LocalStore
    private let kind: ObjectKind
    private let path: String
    private let file: any StorageFile
    private struct State {
        var byteCount: UInt64 = 0
        var isOpen = true
        var entries: (any StorageFile)?
        var entryBytes: UInt64 = 0
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
        guard let offset else { throw ended }
        do throws(SystemError) { try unsafe file.write(at: offset, from: bytes) } catch {
            abandon()
            throw StoreError(error)
        }
    }

    private var ended: StoreError { StoreError(.invalid, "the upload of a \(kind) has ended") }

    func note(_ frame: PackFrame) throws(StoreError) {
        guard kind == .pack, state.withLock({ $0.isOpen }) else { throw ended }
        var entry: [UInt8] = []
        frame.append(to: &entry)
        do throws(SystemError) {
            var place = state.withLock { ($0.entries, $0.entryBytes) }
            let isRoom = place.1 + UInt64(entry.count) <= UInt64(PackDirectory.bytesMax)
            guard isRoom else { throw SystemError(errno: .fileTooLarge, operation: "add to", subject: path) }
            let entries: any StorageFile
            if let open = place.0 {
                entries = open
            } else {
                let mode = OpenMode(writable: true, creation: .exclusive)
                entries = try store.fs.open(PartialPack.entriesPath(of: path), mode)
            }
            try entries.writeBytes(entry, at: place.1)
            place = (entries, place.1 + UInt64(entry.count))
            state.withLock { ($0.entries, $0.entryBytes) = place }
        } catch {
            abandon()
            throw StoreError(error)
        }
    }

    /// Keeps the frames that were told of; without any, nothing is left.
    func abandon() {
        let (wasOpen, hasFrames) = state.withLock { state in
            defer { state.isOpen = false }
            return (state.isOpen, state.entries != nil)
        }
        guard wasOpen else { return }
        // What can't be finished, or removed, now is by the next writer.
        if hasFrames {
            _ = try? store.finishPartial(path)
        } else {
            try? store.fs.remove(path)
        }
    }

    /// What was uploaded is nothing that a store takes, or may not be on the disk.
    private func discard() {
        state.withLock { $0.isOpen = false }
        try? store.fs.remove(path)
        try? store.fs.remove(PartialPack.entriesPath(of: path))
    }

    func commit(name: String) throws(StoreError) {
        let size = state.withLock { $0.isOpen ? $0.byteCount : nil }
        guard let size else { throw ended }
        do throws(StoreError) {
            let content = try check(name, size)
            do throws(SystemError) { try file.synchronize() } catch {
                // Nobody can tell what of it has reached the disk, and no later call tells of it again: nothing of it
                // is kept.
                discard()
                throw StoreError(error)
            }
            // A point comes after the index that it needs, and what was answered for it must still hold.
            if case .point(let point) = content {
                try store.whileReady(for: point) { () throws(StoreError) in
                    try store.show(path, as: kind, name, file, size)
                }
            } else {
                try store.show(path, as: kind, name, file, size)
            }
            let hasEntries = state.withLock { state in
                defer { state.isOpen = false }
                return state.entries != nil
            }
            if hasEntries { try storing { () throws(SystemError) in try removeEntries() } }
            if case .pack(let directory) = content, let digest = Digest(hex: name) {
                try store.accept(digest, directory)
            }
        } catch {
            if error.code == .corrupt || error.code == .invalid { discard() } else { abandon() }
            throw error
        }
    }

    private func removeEntries() throws(SystemError) {
        do throws(SystemError) { try store.fs.remove(PartialPack.entriesPath(of: path)) } catch {
            guard error.errno == .noSuchFileOrDirectory else { throw error }
        }
    }

    private enum Content {
        case pack(PackDirectory)
        case index
        case point(RestorePoint)
    }

    /// Whether the content is what the name stands for: a store takes nothing on trust from a peer.
    private func check(_ name: String, _ size: UInt64) throws(StoreError) -> Content {
        func refuse(_ what: String) -> StoreError {
            StoreError(.corrupt, "the uploaded \(kind) \(name) is refused: \(what)")
        }
        guard ObjectName.isValid(name, as: kind) else { throw refuse("that cannot be its name") }
        switch kind {
        case .pack: return .pack(try checkPack(Digest(hex: name), size, refuse))
        case .index:
            // Made here.
            return .index
        case .point:
            guard size <= UInt64(StoreLimits.pointMax) else { throw refuse("it is too long") }
            let point = try RestorePoint(parsing: try bytes(at: 0, Int(size)), id: name)
            guard point.content.root.shape.chunkBytes == store.info.chunkBytes else {
                throw refuse("it has another chunk size than the store")
            }
            return .point(point)
        }
    }

    private func checkPack(
        _ name: Digest?, _ size: UInt64, _ refuse: (String) -> StoreError
    ) throws(StoreError) -> PackDirectory {
        let trailerBytes = PackDirectory.trailerBytes
        guard let name, size > UInt64(PackDirectory.headerBytes + trailerBytes) else { throw refuse("it is too short") }
        let trailer = try bytes(at: size - UInt64(trailerBytes), trailerBytes)
        func parsed<R>(_ body: () throws(FieldError) -> R) throws(StoreError) -> R {
            do throws(FieldError) { return try body() } catch { throw refuse(error.message) }
        }
        let place = try parsed { () throws(FieldError) in try PackDirectory.parseTrailer(trailer, packBytes: size) }
        let header = try bytes(at: 0, PackDirectory.headerBytes)
        let encoded = try bytes(at: place.offset, place.count)
        let directory = try parsed { () throws(FieldError) in
            try PackDirectory.parse(header: header, directory: encoded, trailer: trailer, packBytes: size, name: name)
        }
        // What this process has packed itself it need not unpack again.
        guard store.isServed else { return directory }
        let check = PackFileCheck()
        for frame in directory.frames {
            if let problem = try check.problem(frame, in: file) {
                throw refuse("the frame at byte \(frame.offset) is not what its directory says: \(problem)")
            }
        }
        return directory
    }

    private func bytes(at offset: UInt64, _ count: Int) throws(StoreError) -> [UInt8] {
        try storing { () throws(SystemError) in try file.readBytes(at: offset, count: count) }
    }
}
