public import BlockIO
public import ChunkTree
internal import Codecs
internal import Geometry
public import LinuxSystem
internal import Synchronization
internal import SystemPackage

// Decisions of a store in a folder.
//
// - The index belongs to whoever keeps the store: it is made here, of the directories of packs that were checked here,
//   and never taken from a client. So a client can put in what is not wanted, but not void what others store.
// - The index is derived from the packs that are there. Packs that no index file names are taken up by the next
//   writer; entries whose pack is not there count for nothing. So what an interrupted backup has stored is used by the
//   next, and a pack that got lost is stored again.
// - What is known to be damaged (notes in `aside`) is read when there is nothing better, and never deduplicated
//   against.

/// A store in a folder, godwit-store(5).
public final class LocalStore: StoreBackend {
    /// The file that makes a folder a store.
    public static let markName = StoreDescription.fileName
    public let address: String
    public let info: StoreInfo
    let fs: any FileSystem
    /// Of its folder.
    private let identity: FileIdentity?
    /// `nil` when the store was opened to read only.
    let session: WriteSession?
    let options: Options
    let state = Mutex(State())
    let cache = PageCache()
    /// Index files are written by one thread of this process at a time.
    let indexing = Monitor(false)

    public struct Options: Sendable {
        /// Opened to add to: also takes up what writers left that live no more. Otherwise nothing is touched.
        public var writable = true
        /// What is put in comes from somebody else: it is looked at down to the last byte, and index files are merged
        /// only in ``tidy()``.
        public var isServed = false
        /// With that many packs, or entries, that no index file names, one is written.
        public var unindexedPacksMax = 8
        public var unindexedEntriesMax = 32768
        /// What the times of points that are put in are held against.
        public var clock: any TimeSource = SystemTime()
        public init() {}
    }
    var isServed: Bool { options.isServed }
    var now: UInt64 { options.clock.realtime() }

    struct State {
        var segments: [IndexSegment] = []
        var nextNumber: UInt64 = 0
        /// Packs that were read lately, the last used at the end.
        var open: [(name: String, file: any StorageFile, byteCount: UInt64)] = []
        /// Folders of packs whose names this process knows to be durable.
        var durableFolders: Set<String> = []
        /// Objects of packs that are durable and that no index file names yet, and how many packs these are.
        var recent: [Digest: Location] = [:]
        var recentPacks = 0
        /// Which packs there are, once somebody asked.
        var census: PackCensus?
        /// A look at all packs has been taken because of an index file that can't be used.
        var isFilledUp = false
        /// Index files that were found to be damaged, and are not used.
        var distrusted: Set<String> = []
        /// What lay aside when the store was opened: what its user was told of damage counts with it.
        var asideAtOpening = AsideContent()
        /// What lay aside when the first of the answers was given that count.
        var asideAtStart = AsideContent()
        /// What answers to the user were taken from, besides the segments that tell so themselves.
        var used: (packs: Set<Digest>, indexes: Set<String>) = ([], [])
    }
    private static let openMax = 32
    /// With more index files than this, the smaller ones are merged.
    static let segmentsMax = 8

    // MARK: Creating and opening

    /// Makes an empty store; the folder is created when it is missing.
    public static func create(
        at folder: String, uuid: String, chunkBytes: UInt32 = TreeShape.chunkBytesStandard, in fs: any FileSystem
    ) throws(StoreError) {
        guard TreeShape(checking: 0, chunkBytes: chunkBytes) != nil else {
            let range = TreeShape.chunkBytesRange
            throw StoreError(
                .invalid,
                "chunks of \(chunkBytes) bytes can't be: give a power of two from "
                    + "\(range.lowerBound) to \(range.upperBound)")
        }
        let description = StoreDescription(uuid: uuid, chunkBytes: chunkBytes)
        let parent = folderPart(of: folder)
        // Where there is one at the path itself, that is told below.
        let place = try storing { () throws(SystemError) in try fs.isFolder(folder) ? try fs.resolve(folder) : folder }
        if let other = try store(holding: folder, in: fs), !other.isSame(as: place) {
            throw StoreError(.invalid, "\(folder) is within the store \(other), where nothing else has a place")
        }
        guard try storing({ () throws(SystemError) in try fs.isFolder(parent) }) else {
            throw StoreError(
                .notAStore, "there is no folder \(parent) to make the store in: is its file system mounted?")
        }
        try storing { () throws(SystemError) in
            let isThere = try fs.isFolder(folder)
            if !isThere { try fs.createFolder(folder) }
            // Also when it is there: an attempt before this one may have made it and been cut off.
            do throws(SystemError) { try fs.synchronizeFolder(parent) } catch {
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

    /// Opens a store to add to, or to read only.
    public convenience init(opening folder: String, writable: Bool = true, in fs: any FileSystem) throws(StoreError) {
        var options = Options()
        options.writable = writable
        try self.init(opening: folder, options: options, in: fs)
    }

    public init(opening folder: String, options: Options, in fs: any FileSystem) throws(StoreError) {
        address = folder
        self.fs = fs
        self.options = options
        let path = "\(folder)/\(StoreDescription.fileName)"
        let bytes: [UInt8]
        do throws(SystemError) { bytes = try fs.contents(of: path, limit: 1 << 20) } catch {
            guard error.errno == .noSuchFileOrDirectory || error.errno == .notDirectory else { throw StoreError(error) }
            throw StoreError(
                .notAStore,
                "\(folder) is not a store: is its file system mounted? `godwit store init \(folder)` makes a new one")
        }
        let description = try StoreDescription(parsing: bytes, of: folder)
        info = StoreInfo(uuid: description.uuid, chunkBytes: description.chunkBytes)
        for name in Self.folders { try Self.expectOwnFolder("\(folder)/\(name)", fs) }
        session = options.writable ? try WriteSession(in: "\(folder)/tmp", fs) : nil
        // Not before: a folder that is mounted when it is first entered is another one until then.
        do throws(SystemError) { identity = try fs.identity(of: folder) } catch { throw StoreError(error) }
        if let session { try prepareToWrite(session) } else { try reloadIndex() }
    }

    private func prepareToWrite(_ session: WriteSession) throws(StoreError) {
        // What is put in must not outlive the store that it is in: whoever made that may have been cut off before the
        // end.
        try storing { () throws(SystemError) in try fs.synchronizeFolder(address) }
        let aside = try asideContent()
        state.withLock { ($0.asideAtOpening, $0.asideAtStart) = (aside, aside) }
        try reloadIndex()
        for left in session.left {
            for path in left.files where !path.ends(with: "." + PartialPack.suffix) { try finishPartial(path) }
            try left.remove()
        }
        try takeUpUnnamed()
    }

    public func close() {
        // What could not be indexed is taken up by the next writer.
        if session != nil { try? flushRecent() }
        state.withLock { $0 = State() }
        session?.end()
    }

    public func freeBytes() throws(StoreError) -> UInt64? {
        try storing { () throws(SystemError) in try fs.space(at: address).freeBytes }
    }

    // MARK: Names

    private static let folders = ["packs", "index", "points", "tmp", "aside"]

    /// A link in the place of a folder would have files made, and removed, elsewhere.
    private static func expectOwnFolder(_ path: String, _ fs: any FileSystem) throws(StoreError) {
        let isOwn = try storing { () throws(SystemError) in
            // One that is not there is missed, or made, when it is needed.
            guard try fs.isTaken(path) else { return true }
            guard try fs.isFolder(path) else { return false }
            return try liesThere(path, fs)
        }
        guard isOwn else {
            throw StoreError(
                .refused, "\(path) is a link, or no folder: a store's own folders lie in it, so put a folder there")
        }
    }

    /// Whether what is at `path` lies there itself: it is no link.
    private static func liesThere(_ path: String, _ fs: any FileSystem) throws(SystemError) -> Bool {
        let folder = try fs.resolve(folderPart(of: path))
        return try fs.resolve(path).isSame(as: PathText.join(folder, PathText.lastPart(of: path)))
    }

    /// What is put in by path would be put into another store that has this one's place by now: a disk that was changed
    /// under the mount point, or a store that was renamed.
    func expectInPlace() throws(StoreError) {
        guard let identity else { return }
        let now = try storing { () throws(SystemError) in try fs.identity(of: address) }
        guard now != identity else { return }
        throw StoreError(
            .io, "the folder \(address) is another one than when the store was opened: run it again on the right one")
    }

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
            guard try Self.liesThere(folder, fs) else {
                throw SystemError(errno: .tooManySymbolicLinkLevels, operation: "use", subject: folder)
            }
        }
        // Also when it is there: who made it may not be so far yet, or have failed.
        try fs.synchronizeFolder(folderPart(of: folder))
        state.withLock { _ = $0.durableFolders.insert(folder) }
    }

    /// The folders that hold packs. Whatever else is there is not ours.
    func packFolders() throws(StoreError) -> [String] {
        let names = try storing { () throws(SystemError) in try fs.list("\(address)/packs") }
        var folders: [String] = []
        for name in names where name.utf8.count == 2 {
            let path = "\(address)/packs/\(name)"
            guard try storing({ () throws(SystemError) in try fs.isFolder(path) }) else { continue }
            try Self.expectOwnFolder(path, fs)
            folders.append(path)
        }
        return folders
    }

    public func list(_ kind: ObjectKind) throws(StoreError) -> [StoredObject] {
        let folders: [String]
        switch kind {
        case .pack: folders = try packFolders()
        case .index: folders = ["\(address)/index"]
        case .point: folders = ["\(address)/points"]
        }
        var objects: [StoredObject] = []
        for folder in folders {
            for name in try storing({ () throws(SystemError) in try fs.list(folder) })
            where ObjectName.isValid(name, as: kind) && (kind != .pack || Self.belongs(name, in: folder)) {
                do throws(SystemError) {
                    objects.append(StoredObject(name: name, byteCount: try fs.fileSize("\(folder)/\(name)")))
                } catch {
                    // A merged index file, or a pack that is set aside, may go between the listing and the look.
                    guard error.errno != .noSuchFileOrDirectory else { continue }
                    try expectOneFileOnly(error)
                    objects.append(StoredObject(name: name, byteCount: 0, isUnreadable: true))
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

    /// What has the name of a pack may be another file by now.
    func forgetOpen(pack name: String) { state.withLock { state in state.open.removeAll { $0.name == name } } }

    func open(_ kind: ObjectKind, _ name: String) throws(StoreError) -> (any StorageFile, UInt64) {
        let found: (any StorageFile, UInt64)? = state.withLock { state in
            guard let place = state.open.lastIndex(where: { $0.name == name }) else { return nil }
            let entry = state.open.remove(at: place)
            state.open.append(entry)
            return (entry.file, entry.byteCount)
        }
        if let found { return found }
        let path = try path(kind, name)
        do throws(SystemError) {
            let file: any StorageFile
            do throws(SystemError) { file = try fs.open(path, .read) } catch {
                // Who began to read before it was set aside goes on; every object is checked on the way.
                guard kind == .pack, error.errno == .noSuchFileOrDirectory else { throw error }
                file = try fs.open(asidePath(pack: name), .read)
            }
            let size = try file.size()
            if kind == .pack {
                state.withLock { state in
                    if state.open.count >= Self.openMax { state.open.removeFirst() }
                    state.open.append((name, file, size))
                }
            }
            return (file, size)
        } catch {
            guard error.errno == .noSuchFileOrDirectory || error.errno == .notDirectory else { throw StoreError(error) }
            throw StoreError(.missing, "there is no \(kind) \(name) in store \(address)")
        }
    }
}

/// The folder part of a path.
func folderPart(of path: String) -> String {
    PathText.parent(of: path)
}
