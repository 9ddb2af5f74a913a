public import BlockIO
public import ChunkTree
public import Codecs
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// A store in a folder, godwit-store(5).
public final class LocalStore: StoreBackend {
    /// The file that makes a folder a store.
    public static let markName = StoreDescription.fileName
    public let address: String
    public let info: StoreInfo
    let fs: any FileSystem
    /// `nil` when the store was opened to read only.
    let session: WriteSession?
    let state: Mutex<State>
    /// Index files that are damaged are an error for who adds to a store: to others they are as if they were not there.
    private let needsWholeIndex: Bool
    private let cache = PageCache()
    /// One merge of index files at a time in this process; more would only do the same work.
    private let merging = Mutex(false)

    struct State {
        var segments: [IndexSegment] = []
        var nextNumber: UInt64 = 0
        /// Packs that were read lately, the last used at the end.
        var open: [(name: String, file: any StorageFile, byteCount: UInt64)] = []
        /// Folders of packs whose names this process knows to be durable.
        var durableFolders: Set<String> = []
    }
    private static let openMax = 32
    /// With more index files than this, the smaller ones are merged.
    static let segmentsMax = 8

    // MARK: Creating and opening

    /// Makes an empty store; the folder is created when it is missing.
    public static func create(
        at folder: String, uuid: String, chunkBytes: UInt32 = TreeShape.chunkBytesStandard, in fs: any FileSystem
    ) throws(StoreError) {
        let description = StoreDescription(uuid: uuid, chunkBytes: chunkBytes)
        try storing { () throws(SystemError) in
            let isThere = try fs.isFolder(folder)
            if !isThere { try fs.createFolder(folder) }
            // Also when it is there: an attempt before this one may have made it and been cut off.
            do throws(SystemError) { try fs.synchronizeFolder(folderPart(of: folder)) } catch {
                guard isThere, error.errno == .permissionDenied else { throw error }
            }
        }
        let names = try storing { () throws(SystemError) in try fs.list(folder) }
        guard !names.contains(StoreDescription.fileName) else {
            throw StoreError(.exists, "there is a store in \(folder) already")
        }
        let own: Set = ["packs", "index", "points", "tmp", StoreDescription.fileName + ".tmp", "lost+found"]
        guard names.allSatisfy(own.contains) else {
            throw StoreError(.exists, "\(folder) is not empty: give a new or an empty folder")
        }
        try storing { () throws(SystemError) in
            for name in ["packs", "index", "points", "tmp"] where !names.contains(name) {
                try fs.createFolder("\(folder)/\(name)")
            }
            try fs.synchronizeFolder(folder)
            try fs.replaceContents(of: "\(folder)/\(StoreDescription.fileName)", with: description.encoded())
        }
    }

    /// Opens a store.
    /// - Parameters:
    ///   - writable: also removes what writers left behind that no longer live. A damaged index file is an error then.
    ///     Who only reads gets what the others name.
    ///   - isRepairing: for ``rebuildIndex(damaged:)``, which needs no index.
    public init(
        opening folder: String, writable: Bool = true, isRepairing: Bool = false, in fs: any FileSystem
    ) throws(StoreError) {
        address = folder
        self.fs = fs
        needsWholeIndex = writable && !isRepairing
        let path = "\(folder)/\(StoreDescription.fileName)"
        let bytes: [UInt8]
        do throws(SystemError) { bytes = try fs.contents(of: path, limit: 1 << 20) } catch {
            guard error.errno == .noSuchFileOrDirectory || error.errno == .notDirectory else { throw StoreError(error) }
            throw StoreError(.notAStore, "\(folder) is not a store: make one with `godwit store init \(folder)`")
        }
        let description = try StoreDescription(parsing: bytes, of: folder)
        info = StoreInfo(uuid: description.uuid, chunkBytes: description.chunkBytes)
        session = writable ? try WriteSession(in: "\(folder)/tmp", fs) : nil
        state = Mutex(State())
        // What is put in must not outlive the store that it is in: whoever made that may have been cut off before the
        // end.
        if writable { try storing { () throws(SystemError) in try fs.synchronizeFolder(folder) } }
        try reloadIndex()
    }

    public func close() {
        state.withLock { $0 = State() }
        session?.end()
    }

    public func freeBytes() throws(StoreError) -> UInt64? {
        try storing { () throws(SystemError) in try fs.space(at: address).freeBytes }
    }

    // MARK: Names

    /// Where an object is, or will be.
    func path(_ kind: ObjectKind, _ name: String) throws(StoreError) -> String {
        guard ObjectName.isValid(name, as: kind) else {
            throw StoreError(.invalid, "\"\(name.prefix(80))\" cannot be the name of a \(kind)")
        }
        switch kind {
        case .pack: return "\(address)/packs/\(name.prefix(2))/\(name)"
        case .index: return "\(address)/index/\(name)"
        case .point: return "\(address)/points/\(name)"
        }
    }

    /// Sees to it that a folder of packs is there, and durably so.
    func makeDurable(folder: String) throws(SystemError) {
        if state.withLock({ $0.durableFolders.contains(folder) }) { return }
        do throws(SystemError) { try fs.createFolder(folder) } catch {
            guard error.errno == .fileExists else { throw error }
        }
        // Also when it is there: who made it may not be so far yet, or have failed.
        try fs.synchronizeFolder(folderPart(of: folder))
        state.withLock { _ = $0.durableFolders.insert(folder) }
    }

    public func list(_ kind: ObjectKind) throws(StoreError) -> [StoredObject] {
        var folders: [String]
        switch kind {
        case .pack:
            folders = try storing { () throws(SystemError) in try fs.list("\(address)/packs") }.map {
                "\(address)/packs/\($0)"
            }
        case .index: folders = ["\(address)/index"]
        case .point: folders = ["\(address)/points"]
        }
        var objects: [StoredObject] = []
        for folder in folders {
            for name in try storing({ () throws(SystemError) in try fs.list(folder) })
            where ObjectName.isValid(name, as: kind) {
                do throws(SystemError) {
                    objects.append(StoredObject(name: name, byteCount: try fs.open("\(folder)/\(name)", .read).size()))
                } catch {
                    // A merged index file may go between the listing and the look.
                    guard kind == .index, error.errno == .noSuchFileOrDirectory else { throw StoreError(error) }
                }
            }
        }
        return objects
    }

    // MARK: Reading

    public func read(_ pieces: [ObjectPiece], into memory: UnsafeMutableRawBufferPointer) throws(StoreError) {
        var position = 0
        for piece in pieces {
            precondition(piece.count >= 0 && piece.count <= memory.count - position, "pieces fill the memory")
            let target = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[position..<position + piece.count])
            position += piece.count
            let (file, size) = try open(piece.kind, piece.name)
            let (end, overflow) = piece.offset.addingReportingOverflow(UInt64(piece.count))
            guard !overflow, end <= size else {
                throw StoreError(
                    .corrupt, "\(piece.kind) \(piece.name) is too short: it should have \(end) bytes and has \(size)")
            }
            do throws(SystemError) { try unsafe file.read(at: piece.offset, into: target) } catch {
                throw StoreError(error)
            }
        }
        precondition(position == memory.count, "pieces fill the memory")
    }

    private func open(_ kind: ObjectKind, _ name: String) throws(StoreError) -> (any StorageFile, UInt64) {
        let found: (any StorageFile, UInt64)? = state.withLock { state in
            guard let place = state.open.lastIndex(where: { $0.name == name }) else { return nil }
            let entry = state.open.remove(at: place)
            state.open.append(entry)
            return (entry.file, entry.byteCount)
        }
        if let found { return found }
        let path = try path(kind, name)
        do throws(SystemError) {
            let file = try fs.open(path, .read)
            let size = try file.size()
            if kind == .pack {
                state.withLock { state in
                    if state.open.count >= Self.openMax { state.open.removeFirst() }
                    state.open.append((name, file, size))
                }
            }
            return (file, size)
        } catch {
            guard error.errno == .noSuchFileOrDirectory else { throw StoreError(error) }
            throw StoreError(.missing, "there is no \(kind) \(name) in store \(address)")
        }
    }

    // MARK: Index

    /// Opens index files that appeared, forgets those that went.
    func reloadIndex() throws(StoreError) {
        let names = try storing { () throws(SystemError) in try fs.list("\(address)/index") }
            .filter { ObjectName.isValid($0, as: .index) }
        var known: [String: IndexSegment] = [:]
        for segment in state.withLock({ $0.segments }) { known[segment.name] = segment }
        var segments: [IndexSegment] = []
        for name in names {
            if let segment = known[name] {
                segments.append(segment)
                continue
            }
            do throws(StoreError) { segments.append(try openSegment(name)) } catch {
                // Another writer merged it away since the listing; what it had is in a file that is listed next time.
                guard error.code == .missing || (error.code == .corrupt && !needsWholeIndex) else { throw error }
            }
        }
        // What an index file names is not put in again, so its name must be durable: whoever put it there may have
        // been cut off before it saw to that.
        if session != nil, segments.contains(where: { known[$0.name] == nil }) {
            try storing { () throws(SystemError) in try fs.synchronizeFolder("\(address)/index") }
        }
        segments.sort { $0.trailer.entryCount > $1.trailer.entryCount }
        state.withLock { $0.segments = segments }
    }

    private func openSegment(_ name: String) throws(StoreError) -> IndexSegment {
        let number = state.withLock { state in
            state.nextNumber += 1
            return state.nextNumber
        }
        return try IndexSegment(opening: "\(address)/index/\(name)", name: name, number: number, cache: cache, in: fs)
    }

    /// Takes all index files out of use, until ``reloadIndex()``.
    func forgetIndex() { state.withLock { $0.segments = [] } }

    var segments: [IndexSegment] { state.withLock { $0.segments } }

    public func known(_ ids: [Digest]) throws(StoreError) -> [Bool] {
        var result = [Bool](repeating: false, count: ids.count)
        let segments = segments
        guard !segments.isEmpty else { return result }
        // In order of identity, so that neighbours meet in one page.
        for place in ids.indices.sorted(by: { ids[$0] < ids[$1] }) {
            for segment in segments where try segment.find(ids[place]) != nil {
                result[place] = true
                break
            }
        }
        return result
    }

    public func locate(_ ids: [Digest]) throws(StoreError) -> [Location?] {
        var result = [Location?](repeating: nil, count: ids.count)
        var missing = Array(ids.indices)
        for isReloaded in [false, true] {
            if isReloaded { try reloadIndex() }
            let segments = segments
            var left: [Int] = []
            for place in missing.sorted(by: { ids[$0] < ids[$1] }) {
                for segment in segments {
                    guard let entry = try segment.find(ids[place]) else { continue }
                    result[place] = try segment.location(of: entry)
                    break
                }
                if result[place] == nil { left.append(place) }
            }
            missing = left
            if missing.isEmpty { break }
        }
        return result
    }

    /// Takes a new index file into use, and merges when there are many.
    func added(index name: String) throws(StoreError) {
        if !segments.contains(where: { $0.name == name }) {
            let segment = try openSegment(name)
            state.withLock { $0.segments.append(segment) }
        }
        guard segments.count > Self.segmentsMax else { return }
        let isMine = merging.withLock { busy in
            defer { busy = true }
            return !busy
        }
        guard isMine else { return }
        defer { merging.withLock { $0 = false } }
        do throws(StoreError) { try mergeIndex() } catch {
            // Merging only saves look-ups: what there is stays right without it.
            guard error.code == .outOfSpace else { throw error }
        }
    }
}

/// The folder part of a path.
func folderPart(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
}
