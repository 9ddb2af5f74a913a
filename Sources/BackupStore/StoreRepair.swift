internal import BlockIO
internal import Codecs
internal import LinuxSystem
internal import Synchronization

// How a store is repaired, beside writers and readers:
//
//     0. packs that lie in the wrong folder are put in their places, those that are damaged with a note of it
//     1. every pack is read in whole; new index files are made of the directories of what is whole
//     2. what can be saved of damaged packs goes into new packs, and into the new index
//     3. damaged packs are set aside, unless a writer has put them in anew; wrong index files are set aside, and the
//        others, which the new ones replace, removed
//
// All that is made is durable before anything is taken away, and nothing is taken away that is not made again, so it
// may be killed at any point and be begun anew.
//
// Nobody merges index files meanwhile. A writer that has built on something that was taken away finds out before its
// point becomes visible (`expectAnswersHold`).

/// What a repair found and did.
public struct RepairReport: Codable, Hashable, Sendable {
    public var packs = 0
    public var bytesRead: UInt64 = 0
    /// Objects that the new index names.
    public var objects: UInt64 = 0
    /// Packs that no index file had named.
    public var packsTakenUp = 0
    /// Packs that were taken out, and how many objects of them were saved and how many are lost.
    public var packsSetAside: [String] = []
    public var objectsSaved: UInt64 = 0
    public var objectsLost: UInt64 = 0
    public var indexesSetAside: [String] = []
    /// Entries of index files that named what is not there.
    public var wrongEntries: UInt64 = 0
    /// What can't be read now, and was left where it is.
    public var unreadable: [String] = []
    /// What was wrong, a sentence each.
    public var problems: [String] = []
    public init() {}

    mutating func add(_ problem: String) { if problems.count < 1000 { problems.append(problem) } }
}

extension LocalStore {
    /// - Parameter progress: bytes of packs read and in all; `false` ends it, and nothing is taken away.
    /// - Returns: `nil` when it was ended.
    public func repair(progress: (UInt64, UInt64) -> Bool) throws(StoreError) -> RepairReport? {
        guard session != nil else { throw StoreError(.invalid, "store \(address) was opened to read only") }
        let lock = try storing { () throws(SystemError) in try fs.lock("\(address)/tmp/repairing", wait: false) }
        guard let lock else {
            throw StoreError(.busy, "another repair of store \(address) is running: wait for its end")
        }
        defer { withExtendedLifetime(lock) {} }
        let merging = try lockMerging(wait: true)
        defer { withExtendedLifetime(merging) {} }
        var repair = StoreRepairing(self)
        return try repair.run(progress) ? repair.report : nil
    }
}

private struct StoreRepairing {
    private let store: LocalStore
    private(set) var report = RepairReport()
    /// Index files that were there before, and those that were damaged.
    private var old: Set<String> = []
    private var wrong: Set<String> = []
    private var fresh: [IndexSegment] = []
    private var entries: [(id: Digest, location: Location)] = []
    private var bad: [BadPack] = []
    private var whole: [Digest] = []
    private var notesAtStart: [Digest: Digest] = [:]
    /// Packs that the index named and that are not there.
    private var lost: Set<Digest> = []
    private static let entriesMax = 1 << 17

    private struct BadPack {
        var name: String
        var directory: PackDirectory?
        var damage: PackDamage
        /// Objects of it that could not be saved.
        var lost: UInt64 = 0
        /// What is not saved of it is damaged, not only unreadable now.
        var isReadable = true
    }

    init(_ store: LocalStore) { self.store = store }

    mutating func run(_ progress: (UInt64, UInt64) -> Bool) throws(StoreError) -> Bool {
        for pack in try store.misplacedPacks() {
            guard let done = try store.place(pack) else { continue }
            report.add(done.text)
            if done.isUnreadable { report.unreadable.append(pack.path) }
        }
        notesAtStart = try store.noteMarks()
        // The index first: what is put in meanwhile is in no file of before that names it.
        old = Set(try store.list(.index).map(\.name))
        let packs = try store.list(.pack)
        let total = packs.reduce(UInt64(0)) { $0 &+ $1.byteCount }
        var problems: [(String, StoreError)] = []
        let audit = try store.auditIndex(damaged: { problems.append(($0, $1)) }) { progress(0, total) }
        guard let audit else { return false }
        for (name, error) in problems {
            report.add(error.message)
            if error.code == .io { report.unreadable.append("index \(name)") }
            wrong.insert(name)
        }
        let there = Set(packs.map(\.name))
        for pack in audit.packs where !there.contains(pack.description) {
            if try !store.isThere(pack) { lost.insert(pack) }
        }
        for pack in lost.sorted() { report.add("pack \(pack) is not there") }
        var done: UInt64 = 0
        for pack in packs {
            guard progress(done, total) else { return false }
            try look(at: pack, audit) { progress(done &+ $0, total) }
            done &+= pack.byteCount
        }
        report.packs = packs.count
        report.bytesRead = done
        guard progress(done, total) else { return false }
        try flush()
        for place in bad.indices { bad[place] = try saved(bad[place], audit) }
        try flush()
        try takeAway()
        return true
    }

    // MARK: Looking

    private mutating func look(
        at pack: StoredObject, _ audit: IndexAudit, _ progress: (UInt64) -> Bool
    ) throws(StoreError) {
        guard let name = Digest(hex: pack.name) else { return }
        var damage = PackDamage()
        var directory: PackDirectory?
        var isReadable = true
        store.forgetOpen(pack: pack.name)
        do throws(StoreError) {
            try pack.expectExamined(as: "pack")
            let found = try store.packDirectory(pack.name, byteCount: pack.byteCount)
            directory = found
            if !audit.names(name) { report.packsTakenUp += 1 }
            let wrongEntries = try audit.wrongEntries(name, found)
            if wrongEntries > 0 {
                report.wrongEntries += UInt64(wrongEntries)
                report.add("\(wrongEntries) entries of the index name what pack \(pack.name) does not have")
            }
            let (file, _) = try store.open(.pack, pack.name)
            let check = PackFileCheck()
            for frame in found.frames {
                do throws(StoreError) {
                    guard let problem = try check.problem(frame, in: file) else { continue }
                    report.add("the frame at byte \(frame.offset) of pack \(pack.name) is damaged: \(problem)")
                } catch {
                    guard error.code == .io else { throw error }
                    report.unreadable.append("the frame at byte \(frame.offset) of pack \(pack.name)")
                    report.add(error.message)
                }
                damage.frames.insert(frame.offset)
            }
            // What is whole in a damaged pack is named where it is saved to: the pack itself may be taken out.
            if damage == PackDamage() { found.forEachLocation(pack: name) { entries.append(($0, $1)) } }
        } catch {
            guard [.corrupt, .unsupported, .io, .missing].contains(error.code) else { throw error }
            if error.code == .missing { return }
            report.add(error.message)
            damage.isWhole = true
            // One of a later format is not ours to take out.
            if error.code == .io || error.code == .unsupported {
                report.unreadable.append("pack \(pack.name)")
                isReadable = false
            }
        }
        if damage == PackDamage() {
            whole.append(name)
        } else {
            bad.append(BadPack(name: pack.name, directory: directory, damage: damage, isReadable: isReadable))
        }
        if entries.count >= Self.entriesMax { try flush() }
    }

    /// Makes an index file of what was found; many are merged.
    private mutating func flush() throws(StoreError) {
        guard !entries.isEmpty else { return }
        if let segment = try store.openOwnSegment(store.writeIndex(entries)) { fresh.append(segment) }
        report.objects += UInt64(entries.count)
        entries.removeAll(keepingCapacity: true)
        guard fresh.count > LocalStore.segmentsMax else { return }
        let chosen = LocalStore.mergeable(fresh)
        guard chosen.count > 1, let merged = try store.merge(chosen, worth: { _ in .good }) else { return }
        let gone = Set(chosen.map(\.name)).subtracting([merged])
        if let segment = try store.openOwnSegment(merged) { fresh.append(segment) }
        fresh.removeAll { gone.contains($0.name) }
        // One that was there before is dealt with at the end.
        try store.removeIndexes(gone.subtracting(old))
    }

    // MARK: Saving

    /// Puts the objects of a damaged pack that are whole, and are nowhere else, into a new pack.
    /// - Returns: it, with what became of it.
    private mutating func saved(_ one: BadPack, _ audit: IndexAudit) throws(StoreError) -> BadPack {
        var one = one
        guard let name = Digest(hex: one.name) else { return one }
        var places: [(id: Digest, place: Location)] = []
        if let directory = one.directory {
            directory.forEachLocation(pack: name) { places.append(($0, $1)) }
        } else {
            places = try audit.places(in: name)
        }
        let frames = Dictionary(grouping: places, by: \.place.frameOffset).sorted { $0.key < $1.key }.map(\.value)
        var saved: [(id: Digest, location: Location)] = []
        let writer = PackWriter(backend: store) { pack, directory in
            directory.forEachLocation(pack: pack) { saved.append(($0, $1)) }
        }
        let check = PackFileCheck()
        do throws(StoreError) {
            let file: any StorageFile
            let size: UInt64
            do throws(StoreError) { (file, size) = try store.open(.pack, one.name) } catch {
                guard error.code == .io || error.code == .missing else { throw error }
                writer.abandon()
                one.isReadable = false
                return one
            }
            for frame in frames {
                var objects: [(id: Digest, bytes: [UInt8])] = []
                let place = frame[0].place
                if UInt64(place.frameOffset) + UInt64(place.storedBytes) <= size {
                    do throws(StoreError) { objects = try check.wholeObjects(frame, in: file) } catch {
                        guard error.code == .io else { throw error }
                        one.isReadable = false
                    }
                }
                one.lost += UInt64(frame.count - objects.count)
                try add(objects, isNodes: place.isNode, to: writer, butFrom: name)
            }
            try writer.finishPack()
        } catch {
            writer.abandon()
            throw error
        }
        report.objectsSaved += UInt64(saved.count)
        entries += saved
        if entries.count >= Self.entriesMax { try flush() }
        return one
    }

    private func add(
        _ objects: [(id: Digest, bytes: [UInt8])], isNodes: Bool, to writer: PackWriter, butFrom pack: Digest
    ) throws(StoreError) {
        var body: [UInt8] = []
        var needed: [PackFrame.Object] = []
        for (id, bytes) in objects where try !isNamed(id, but: pack) {
            // A frame takes no more: an index from outside may have objects that lie on one another.
            if needed.count == StoreLimits.batchMax || body.count + bytes.count > StoreLimits.frameMax {
                if !needed.isEmpty { try write(body, needed, isNodes: isNodes, to: writer) }
                (body, needed) = ([], [])
            }
            body += bytes
            needed.append(PackFrame.Object(id: id, length: UInt32(bytes.count)))
        }
        if !needed.isEmpty { try write(body, needed, isNodes: isNodes, to: writer) }
    }

    private func write(
        _ body: [UInt8], _ objects: [PackFrame.Object], isNodes: Bool, to writer: PackWriter
    ) throws(StoreError) {
        var failure: StoreError?
        unsafe body.withUnsafeBytes { memory in
            do throws(StoreError) {
                try unsafe writer.add(
                    PackWriter.Frame(
                        bytes: memory, plainBytes: memory.count, isCompressed: false, isNodes: isNodes,
                        objects: objects))
            } catch { failure = error }
        }
        if let failure { throw failure }
    }

    /// Whether the new index names an object at a place outside of a pack.
    private func isNamed(_ id: Digest, but pack: Digest) throws(StoreError) -> Bool {
        for segment in fresh {
            guard let entry = try segment.find(id) else { continue }
            if try segment.location(of: entry).pack != pack { return true }
        }
        return false
    }

    // MARK: Taking away

    private mutating func takeAway() throws(StoreError) {
        // A writer may have put one in since.
        for pack in lost { if try store.isThere(pack) { lost.remove(pack) } }
        try store.noteLost(lost)
        for one in bad { try takeAway(one) }
        try flush()
        let kept = Set(fresh.map(\.name))
        // Wrong entries are not told apart by file: then all files from before are set aside.
        let suspects = report.wrongEntries > 0 ? old : wrong
        for name in old.subtracting(kept).intersection(suspects).sorted() {
            if try store.setAside(index: name) { report.indexesSetAside.append(name) }
        }
        try store.removeIndexes(old.subtracting(kept).subtracting(suspects))
        // What was noted since the pack was read is newer than that.
        try store.removeNotes(whole, markedBefore: notesAtStart)
        store.forgetCensus()
        try store.reloadIndex()
    }

    private mutating func takeAway(_ one: BadPack) throws(StoreError) {
        guard let pack = Digest(hex: one.name) else { return }
        let lock = try store.lockReplacing()
        defer { withExtendedLifetime(lock) {} }
        // It was read long ago: a writer may have put it in anew since, and a point may need it.
        if let directory = try directoryOfWhole(pack) {
            directory.forEachLocation(pack: pack) { entries.append(($0, $1)) }
            whole.append(pack)
            return
        }
        report.objectsLost += one.lost
        guard one.isReadable else {
            // What is left in its place though it can't be read is not to be built on.
            return try store.note([pack: one.damage])
        }
        if try store.setAside(pack: one.name) { report.packsSetAside.append(one.name) }
        // Nothing may be said against the one that comes in its place.
        try store.removeNotes([pack])
    }

    /// - Returns: `nil` when the pack is not whole now.
    private func directoryOfWhole(_ pack: Digest) throws(StoreError) -> PackDirectory? {
        guard try store.isThere(pack) else { return nil }
        let name = pack.description
        store.forgetOpen(pack: name)
        do throws(StoreError) {
            let (file, size) = try store.open(.pack, name)
            let directory = try store.packDirectory(name, byteCount: size)
            let check = PackFileCheck()
            for frame in directory.frames where try check.problem(frame, in: file) != nil { return nil }
            return directory
        } catch {
            guard [.corrupt, .unsupported, .io, .missing].contains(error.code) else { throw error }
            return nil
        }
    }
}
