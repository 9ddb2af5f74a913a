public import BlockIO
public import Codecs
internal import Geometry
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

// The folder `aside` of a store: what is known to be damaged. It is made when it is first needed.
//
//     PACK.damage    which frames of a pack are damaged, noted when somebody found out
//     PACK.lost      a pack that the index named and that was not there: its entries were dropped
//     PACK.pack      a pack that was taken out by a repair, with all in it that could not be saved
//     INDEX.index    an index file that was taken out
//     POINT.point    a restore point that was taken out, as not all that it needs is there
//     POINT.lacking  not all that a restore point needs was there when it was last looked at: it is not built on

/// What of a pack is damaged, or can't be read.
public struct PackDamage: Hashable, Sendable {
    /// Offsets of frames.
    public var frames: Set<UInt32> = []
    /// No frame can be told from the others any more.
    public var isWhole = false

    public init(frames: Set<UInt32> = [], isWhole: Bool = false) {
        self.frames = frames
        self.isWhole = isWhole
    }

    public func covers(_ place: Location) -> Bool { isWhole || frames.contains(place.frameOffset) }

    static let heading = "godwit-damage 1"
    /// More are not told one by one.
    private static let framesMax = 4096

    mutating func formUnion(_ other: PackDamage) {
        frames.formUnion(other.frames)
        isWhole = isWhole || other.isWhole
    }

    /// - Parameter token: tells one time that it was noted from another.
    func encoded(token: [UInt8]) -> [UInt8] {
        var text = RecordText(heading: Self.heading)
        let isAll = isWhole || frames.count > Self.framesMax
        text.set("frames", isAll ? "all" : frames.sorted().map(String.init).joined(separator: ","))
        text.set("token", token.map { String($0) }.joined(separator: "."))
        return text.encoded()
    }

    init(parsing bytes: [UInt8]) throws(StoreError) {
        let text = try RecordText(parsing: bytes, heading: Self.heading, in: "a note of damage")
        let value = try text.value("frames")
        if value == "all" {
            isWhole = true
            return
        }
        for part in value.split(separator: ",", maxSplits: Self.framesMax) {
            guard let offset = UInt32(part) else { throw StoreError(.corrupt, "a note of damage names no frame") }
            frames.insert(offset)
        }
    }
}

/// What lies aside at one moment.
struct AsideContent: Equatable, Sendable {
    /// Notes are told apart by what they say; a second thing of one name by which file it is.
    var files: [String: FileIdentity] = [:]
    var notes: [Digest: PackDamage] = [:]

    /// What is there that was not before.
    func names(since before: AsideContent) -> [String] {
        files.filter { before.files[$0.key] != $0.value }.map(\.key)
    }
}

extension LocalStore {
    private static let noteSuffix = ".damage"
    private static let noteBytesMax = 1 << 16
    private static let lostSuffix = ".lost"
    private static let packSuffix = ".pack"
    private static let indexSuffix = ".index"
    private static let pointSuffix = ".point"
    private static let lackingSuffix = ".lacking"

    var asideFolder: String { "\(address)/aside" }
    func asidePath(pack name: String) -> String { "\(asideFolder)/\(name)\(Self.packSuffix)" }
    private func asidePath(index name: String) -> String { "\(asideFolder)/\(name)\(Self.indexSuffix)" }
    private func notePath(_ name: String) -> String { "\(asideFolder)/\(name)\(Self.noteSuffix)" }

    func asideNames() throws(StoreError) -> Set<String> {
        try storing { () throws(SystemError) in
            do throws(SystemError) { return Set(try fs.list(asideFolder)) } catch {
                guard error.errno == .noSuchFileOrDirectory || error.errno == .notDirectory else { throw error }
                return []
            }
        }
    }

    /// Held by who changes what lies aside, each time for a moment, and by who makes a point visible: so that the point
    /// comes either before the change or after a look at it. Taken after the lock of ``lockReplacing()``.
    func lockAside() throws(StoreError) -> any HeldLock {
        let lock = try storing { () throws(SystemError) in try fs.lock("\(address)/tmp/aside", wait: true) }
        guard let lock else { throw StoreError(.io, "cannot lock \(address)/tmp/aside") }
        return lock
    }

    private func makeAside() throws(SystemError) {
        do throws(SystemError) { try fs.createFolder(asideFolder) } catch {
            guard error.errno == .fileExists else { throw error }
        }
        try fs.synchronizeFolder(address)
    }

    /// What is noted, by pack. A note that can't be understood stands for the whole pack.
    func loadNotes() throws(StoreError) -> [Digest: PackDamage] {
        var notes: [Digest: PackDamage] = [:]
        for file in try asideNames() {
            guard let name = file.rest(before: Self.noteSuffix), let pack = Digest(hex: name) else { continue }
            switch noted(of: pack) {
            case .nothing: break
            case .damage(let damage): notes[pack] = damage
            case .unclear: notes[pack] = PackDamage(isWhole: true)
            case .unread(let error): throw StoreError(error)
            }
        }
        return notes
    }

    private enum Note {
        case nothing
        case damage(PackDamage)
        /// There is a note that can't be read or understood.
        case unclear
        /// It can't be read for now.
        case unread(SystemError)
    }

    private func noted(of pack: Digest) -> Note {
        do throws(SystemError) {
            let bytes = try fs.contents(of: notePath(pack.description), limit: Self.noteBytesMax)
            guard let damage = try? PackDamage(parsing: bytes) else { return .unclear }
            return .damage(damage)
        } catch {
            switch error.errno {
            case .noSuchFileOrDirectory, .notDirectory: return .nothing
            case .tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory: return .unread(error)
            default: return .unclear
            }
        }
    }

    func asideContent() throws(StoreError) -> AsideContent {
        var content = AsideContent(notes: try loadNotes())
        for name in try asideNames() where name.rest(before: Self.noteSuffix) == nil {
            content.files[name] = try storing { () throws(SystemError) in try fs.identity(of: "\(asideFolder)/\(name)")
            }
        }
        return content
    }

    /// Whether something was noted, or taken out, since the store was opened.
    func isMoreAside() throws(StoreError) -> Bool {
        let now = try asideContent()
        let before = state.withLock { $0.asideAtOpening }
        return !now.names(since: before).isEmpty || now.notes.contains { $0.value != before.notes[$0.key] }
    }

    /// Notes, durably, that parts of packs are damaged: nothing is deduplicated against them from now on.
    public func note(_ damage: [Digest: PackDamage]) throws(StoreError) {
        guard !damage.isEmpty else { return }
        let lock = try lockAside()
        defer { withExtendedLifetime(lock) {} }
        try storing { () throws(SystemError) in
            try makeAside()
            for (pack, found) in damage.sorted(by: { $0.key < $1.key }) {
                var all = found
                switch noted(of: pack) {
                case .nothing: break
                // Written anew also where it says so already: a repair that has seen it whole since believes this.
                case .damage(let old): all.formUnion(old)
                // It stands for the whole pack, which less must not take the place of.
                case .unclear: all.isWhole = true
                case .unread(let error): throw error
                }
                try fs.replaceContents(of: notePath(pack.description), with: all.encoded(token: randomBytes(8)))
            }
        }
        state.withLock { state in
            for (pack, found) in damage { state.census?.damage[pack, default: PackDamage()].formUnion(found) }
        }
        for segment in segments { try segment.noteDamage(of: Set(damage.keys)) }
    }

    /// Notes, durably, that packs are not there, before the index forgets them: what was built on them is not whole.
    func noteLost(_ packs: Set<Digest>) throws(StoreError) {
        guard !packs.isEmpty else { return }
        let lock = try lockAside()
        defer { withExtendedLifetime(lock) {} }
        try storing { () throws(SystemError) in
            try makeAside()
            // Anew, also where one was lost before: whoever looks knows it by that.
            for pack in packs.sorted() {
                try fs.replaceContents(of: "\(asideFolder)/\(pack)\(Self.lostSuffix)", with: [])
            }
        }
    }

    /// Packs that were there once.
    func formerPacks() throws(StoreError) -> Set<Digest> {
        var packs: Set<Digest> = []
        for name in try asideNames() {
            for suffix in [Self.lostSuffix, Self.packSuffix] {
                if let pack = name.rest(before: suffix).flatMap({ Digest(hex: $0) }) { packs.insert(pack) }
            }
        }
        return packs
    }

    /// Index files that were taken out.
    func indexesAside() throws(StoreError) -> [String] {
        try asideNames().compactMap { $0.rest(before: Self.indexSuffix).map(String.init) }
    }

    /// What stands for each time that something was noted of a pack.
    func noteMarks() throws(StoreError) -> [Digest: Digest] {
        var marks: [Digest: Digest] = [:]
        for file in try asideNames() {
            guard let name = file.rest(before: Self.noteSuffix).map(String.init), let pack = Digest(hex: name) else {
                continue
            }
            do throws(SystemError) {
                marks[pack] = Digest.hash(try fs.contents(of: notePath(name), limit: Self.noteBytesMax))
            } catch {
                switch error.errno {
                case .noSuchFileOrDirectory: continue
                case .tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory: throw StoreError(error)
                default: marks[pack] = .zero
                }
            }
        }
        return marks
    }

    /// Takes notes of packs back that were found to be whole, or that are not there any more.
    /// - Parameter marks: the ``noteMarks()`` from before that was found; what was noted since stays.
    func removeNotes(_ packs: [Digest], markedBefore marks: [Digest: Digest]? = nil) throws(StoreError) {
        let lock = try lockAside()
        defer { withExtendedLifetime(lock) {} }
        var packs = packs
        if let marks {
            let now = try noteMarks()
            packs.removeAll { now[$0] != marks[$0] }
        }
        try storing { () throws(SystemError) in
            for pack in packs where try fs.exists(notePath(pack.description)) {
                try fs.remove(notePath(pack.description))
            }
        }
    }

    func hasNote(of pack: Digest) throws(StoreError) -> Bool {
        try storing { () throws(SystemError) in try fs.exists(notePath(pack.description)) }
    }

    /// A pack that is whole has come in the place of one that may not have been.
    func forgetDamage(of pack: Digest) throws(StoreError) {
        try removeNotes([pack])
        state.withLock { _ = $0.census?.damage.removeValue(forKey: pack) }
    }

    /// Takes a pack out of the store. What of it is worth anything is durable elsewhere.
    /// - Returns: `false` when it is not there any more.
    func setAside(pack name: String) throws(StoreError) -> Bool {
        defer {
            forgetOpen(pack: name)
            // No index may name it: what is in it that was not saved is lost.
            state.withLock { state in state.recent = state.recent.filter { $0.value.pack.description != name } }
        }
        return try move(try path(.pack, name), to: asidePath(pack: name))
    }

    /// Takes an index file out of the store. - Returns: `false` when it is not there any more.
    func setAside(index name: String) throws(StoreError) -> Bool {
        try move("\(address)/index/\(name)", to: asidePath(index: name))
    }

    /// Takes a restore point out of the store. What it needs stays, so it can be put back.
    /// - Returns: `false` when it is not there any more.
    public func setAside(point name: String) throws(StoreError) -> Bool {
        try move(try path(.point, name), to: "\(asideFolder)/\(name)\(Self.pointSuffix)")
    }

    /// The points of which it is noted that they lack something, each with which note that is.
    public func lackingPoints() throws(StoreError) -> [String: FileIdentity] {
        var notes: [String: FileIdentity] = [:]
        for file in try asideNames() {
            guard let name = file.rest(before: Self.lackingSuffix).map(String.init),
                ObjectName.isValid(name, as: .point)
            else { continue }
            notes[name] = try storing { () throws(SystemError) in try fs.identity(of: "\(asideFolder)/\(file)") }
        }
        return notes
    }

    /// Notes, durably, which points lack something: whoever goes on from one sees to that first (``damage()``).
    /// - Parameters:
    ///   - whole: those that were looked at and lack nothing.
    ///   - notes: ``lackingPoints()`` from before they were looked at; what was noted since stays.
    public func note(
        lacking: [String], whole: [String], notedBefore notes: [String: FileIdentity]
    ) throws(StoreError) {
        // Most stores have neither.
        if lacking.isEmpty, try lackingPoints().isEmpty { return }
        let lock = try lockAside()
        defer { withExtendedLifetime(lock) {} }
        let now = try lackingPoints()
        let whole = Set(whole)
        try storing { () throws(SystemError) in
            if !lacking.isEmpty { try makeAside() }
            // Anew, also where it says so already: who has looked before believes this.
            for point in lacking {
                try fs.replaceContents(of: "\(asideFolder)/\(point)\(Self.lackingSuffix)", with: [])
            }
            for (point, note) in now where whole.contains(point) && notes[point] == note {
                try fs.remove("\(asideFolder)/\(point)\(Self.lackingSuffix)")
            }
        }
    }

    private func move(_ path: String, to target: String) throws(StoreError) -> Bool {
        let lock = try lockAside()
        defer { withExtendedLifetime(lock) {} }
        return try storing { () throws(SystemError) in
            try makeAside()
            do throws(SystemError) { try fs.rename(path, to: target) } catch {
                guard error.errno == .noSuchFileOrDirectory else { throw error }
                return false
            }
            try fs.synchronizeFolder(asideFolder)
            try fs.synchronizeFolder(folderPart(of: path))
            return true
        }
    }

    /// Whether an answer of this store to its user has become wrong since: somebody found damage in a pack, or a wrong
    /// index file, that it was taken from.
    func expectAnswersHold() throws(StoreError) {
        let now = try asideContent()
        let before = state.withLock { $0.asideAtStart }
        var packs: Set<Digest> = []
        var indexes: Set<String> = []
        // To a note that was there already something may have been added.
        for (pack, damage) in now.notes where damage != before.notes[pack] { packs.insert(pack) }
        for name in now.names(since: before) {
            for suffix in [Self.lostSuffix, Self.packSuffix] {
                if let pack = name.rest(before: suffix).flatMap({ Digest(hex: $0) }) { packs.insert(pack) }
            }
            if let index = name.rest(before: Self.indexSuffix) { indexes.insert(String(index)) }
        }
        guard !packs.isEmpty || !indexes.isEmpty else { return }
        let (segments, used) = state.withLock { ($0.segments, $0.used) }
        var isWrong = !used.packs.isDisjoint(with: packs) || !used.indexes.isDisjoint(with: indexes)
        for segment in segments where !isWrong && segment.isUsed {
            let usesPack = try segment.isUsed(forAnyOf: packs)
            isWrong = usesPack || indexes.contains(segment.name)
        }
        guard isWrong else { return }
        throw StoreError(
            .busy,
            "store \(address) was found damaged, or was repaired, while this was put in: run it again, what was stored "
                + "is used")
    }
}
