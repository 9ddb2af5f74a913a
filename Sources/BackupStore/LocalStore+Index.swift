internal import BlockIO
public import Codecs
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

extension LocalStore {
    var segments: [IndexSegment] { state.withLock { $0.segments } }

    // MARK: Index files

    /// Opens index files that appeared, forgets those that went. One that can't be read is as if it were not there.
    func reloadIndex() throws(StoreError) {
        let names = try storing { () throws(SystemError) in try fs.list("\(address)/index") }
            .filter { ObjectName.isValid($0, as: .index) }
        var known: [String: IndexSegment] = [:]
        let (current, distrusted) = state.withLock { ($0.segments, $0.distrusted) }
        for segment in current { known[segment.name] = segment }
        var opened: [IndexSegment] = []
        for name in names where known[name] == nil && !distrusted.contains(name) {
            do throws(StoreError) { opened.append(try openSegment(name)) } catch {
                // Another writer merged it away since the listing, or it is damaged, or can't be read: the packs that
                // only it names are taken up by the next writer.
                guard [.missing, .corrupt, .unsupported, .io].contains(error.code) else { throw error }
                if error.code == .io { try checkAlive() }
            }
        }
        // What an index file names is not put in again, so its name must be durable: whoever put it there may have
        // been cut off before it saw to that.
        if session != nil, !opened.isEmpty {
            try storing { () throws(SystemError) in try fs.synchronizeFolder("\(address)/index") }
        }
        let listed = Set(names)
        let gone = known.values.filter { !listed.contains($0.name) }
        try remember(gone)
        state.withLock { state in
            let goneNames = Set(gone.map(\.name))
            state.segments.removeAll { goneNames.contains($0.name) }
            for segment in opened where !state.segments.contains(where: { $0.name == segment.name }) {
                state.segments.append(segment)
            }
            state.segments.sort { $0.trailer.entryCount > $1.trailer.entryCount }
        }
    }

    /// Keeps in mind what was answered from segments that are not used any more.
    func remember(_ gone: [IndexSegment]) throws(StoreError) {
        for segment in gone where segment.isUsed {
            let packs = try segment.usedPacks()
            state.withLock { state in
                state.used.packs.formUnion(packs)
                state.used.indexes.insert(segment.name)
            }
        }
    }

    func openSegment(_ name: String) throws(StoreError) -> IndexSegment {
        let number = state.withLock { state in
            state.nextNumber += 1
            return state.nextNumber
        }
        return try IndexSegment(opening: "\(address)/index/\(name)", name: name, number: number, cache: cache, in: fs)
    }

    /// No answer is taken from a segment any more that was found to be damaged.
    func distrust(_ segment: IndexSegment) {
        state.withLock { state in
            state.segments.removeAll { $0 === segment }
            state.isFilledUp = false
            state.distrusted.insert(segment.name)
        }
    }

    /// The segments, with what is known of their packs.
    func preparedSegments() throws(StoreError) -> [IndexSegment] {
        let all = segments
        guard !all.isEmpty else { return [] }
        let census = try census()
        var sound: [IndexSegment] = []
        for segment in all {
            do throws(StoreError) {
                if !segment.isPrepared {
                    // Another writer's packs may have come since the census.
                    var new: [Digest] = []
                    try segment.forEachPack { if !census.has($0) { new.append($0) } }
                    var found: [Digest] = []
                    for pack in new where try isThere(pack) { found.append(pack) }
                    let newest = state.withLock { state in
                        for pack in found { state.census?.insert(pack) }
                        return state.census
                    }
                    try segment.prepare(newest ?? census)
                }
                sound.append(segment)
            } catch {
                guard error.code == .corrupt || error.code == .io else { throw error }
                if error.code == .io { try checkAlive() }
                distrust(segment)
            }
        }
        return sound
    }

    /// Whether a pack is in its place; one that was taken out is not.
    public func isThere(_ pack: Digest) throws(StoreError) -> Bool {
        try hasPackBytes(try path(.pack, pack.description))
    }

    /// Whether there is a file with room for a pack. It may go at any moment. One that can't be examined is there: what
    /// becomes of it who reads it finds out.
    func hasPackBytes(_ path: String) throws(StoreError) -> Bool {
        do throws(SystemError) { return try fs.fileSize(path) >= Self.packBytesMin } catch {
            if [.noSuchFileOrDirectory, .notDirectory].contains(error.errno) { return false }
            try expectOneFileOnly(error)
            return true
        }
    }

    /// What is shorter is what the host's storage has left of a pack: as good as not there.
    static let packBytesMin = UInt64(PackDirectory.headerBytes + PackDirectory.trailerBytes) + 1

    // MARK: Look-ups

    /// A look-up that is ended by a page that is damaged, or can't be read, is one without a result; the file is not
    /// used any more.
    private func find(_ id: Digest, in segment: IndexSegment) throws(StoreError) -> IndexEntry? {
        do throws(StoreError) { return try segment.find(id) } catch {
            guard error.code == .corrupt || error.code == .io else { throw error }
            if error.code == .io { try checkAlive() }
            distrust(segment)
            return nil
        }
    }

    /// The same for where that is.
    private func location(of entry: IndexEntry, in segment: IndexSegment) throws(StoreError) -> Location? {
        do throws(StoreError) { return try segment.location(of: entry) } catch {
            guard error.code == .corrupt || error.code == .io else { throw error }
            if error.code == .io { try checkAlive() }
            distrust(segment)
            return nil
        }
    }

    /// Whether what an entry speaks of is there, and nothing is known against it.
    private func isUsable(_ entry: IndexEntry, _ segment: IndexSegment) throws(StoreError) -> Bool {
        let packState = segment.state(ofPack: entry.pack)
        if packState.contains(.absent) { return false }
        guard packState.contains(.isDamaged) || !packState.contains(.isLookedAt) else { return true }
        guard let place = try location(of: entry, in: segment) else { return false }
        if packState.contains(.isDamaged), try census().damage[place.pack]?.covers(place) == true { return false }
        if !packState.contains(.isLookedAt) {
            guard try isComplete(place.pack) else {
                // Noted or not: it is not looked at again for each of its objects.
                segment.mark(.absent, pack: entry.pack)
                return false
            }
            segment.mark(.isLookedAt, pack: entry.pack)
        }
        return true
    }

    /// Whether a pack ends as one does. The host's storage may have lost the end of one that it had called durable: it
    /// is noted as damaged then.
    private func isComplete(_ pack: Digest) throws(StoreError) -> Bool {
        let path = try path(.pack, pack.description)
        let isComplete: Bool
        do throws(SystemError) {
            isComplete = try Self.ending(of: try fs.open(path, .read)) != nil
        } catch {
            if error.errno == .noSuchFileOrDirectory { return false }
            // It may be read another time, whatever its file system says of it now.
            try expectOneFileOnly(error)
            return false
        }
        if !isComplete, session != nil { try note([pack: PackDamage(isWhole: true)]) }
        return isComplete
    }

    public func known(_ ids: [Digest]) throws(StoreError) -> [Bool] {
        var result = [Bool](repeating: false, count: ids.count)
        let recent = state.withLock { state in
            var hits: [Int] = []
            for place in ids.indices {
                guard let found = state.recent[ids[place]] else { continue }
                if state.census?.damage[found.pack]?.covers(found) == true { continue }
                state.used.packs.insert(found.pack)
                hits.append(place)
            }
            return hits
        }
        for place in recent { result[place] = true }
        let segments = try preparedSegments()
        guard !segments.isEmpty else { return result }
        // In order of identity, so that neighbours meet in one page.
        for place in ids.indices.sorted(by: { ids[$0] < ids[$1] }) where !result[place] {
            for segment in segments {
                guard let entry = try find(ids[place], in: segment), try isUsable(entry, segment) else { continue }
                segment.mark(.isUsed, pack: entry.pack)
                result[place] = true
                break
            }
        }
        return result
    }

    public func locate(_ ids: [Digest]) throws(StoreError) -> [Location?] {
        var result = [Location?](repeating: nil, count: ids.count)
        var doubtful = [Location?](repeating: nil, count: ids.count)
        var missing = Array(ids.indices)
        for attempt in 0..<3 {
            switch attempt {
            case 1: try reloadIndex()
            case 2: if try !fillUp() { continue }
            default: break
            }
            let segments = try preparedSegments()
            var left: [Int] = []
            for place in missing.sorted(by: { ids[$0] < ids[$1] }) {
                let recent = state.withLock { state -> (place: Location, isDamaged: Bool)? in
                    guard let found = state.recent[ids[place]] else { return nil }
                    return (found, state.census?.damage[found.pack]?.covers(found) == true)
                }
                if let recent {
                    guard recent.isDamaged else {
                        result[place] = recent.place
                        continue
                    }
                    doubtful[place] = recent.place
                }
                for segment in segments where result[place] == nil {
                    guard let entry = try find(ids[place], in: segment),
                        let location = try location(of: entry, in: segment)
                    else { continue }
                    if try isUsable(entry, segment) { result[place] = location } else { doubtful[place] = location }
                }
                if result[place] == nil { left.append(place) }
            }
            missing = left
            if missing.isEmpty { break }
        }
        // Better than nothing: who reads it checks it, and learns what it was that is damaged or not there.
        for place in missing { result[place] = doubtful[place] }
        return result
    }

    // MARK: Packs that no index file names

    /// Takes up a pack that is durable and visible.
    func accept(_ pack: Digest, _ directory: PackDirectory) throws(StoreError) {
        let isDue = state.withLock { state in
            let damage = state.census?.damage[pack]
            directory.forEachLocation(pack: pack) { id, location in
                // What is damaged does not take the place of what may be whole.
                if damage?.covers(location) == true, state.recent[id] != nil { return }
                state.recent[id] = location
            }
            state.recentPacks += 1
            state.census?.insert(pack)
            return state.recentPacks >= options.unindexedPacksMax
                || state.recent.count >= options.unindexedEntriesMax
        }
        if isDue { try flushRecent() }
    }

    /// Takes up all packs that no usable index file names: of writers that were cut off before they came to it, and of
    /// index files that are damaged. One whose directory is damaged is left out.
    /// - Parameter entriesMax: then no more are kept in memory; for who can't write an index.
    func takeUpUnnamed(entriesMax: Int = .max) throws(StoreError) {
        let segments = try preparedSegments()
        let census = try census().consolidated()
        let packs = census.listedPacks
        var isNamed = [Bool](repeating: false, count: packs.count)
        for segment in segments {
            try segment.forEachPack { if let place = census.place($0) { isNamed[place] = true } }
        }
        for pack in state.withLock({ Set($0.recent.values.map(\.pack)) }) {
            if let place = census.place(pack) { isNamed[place] = true }
        }
        for (pack, isNamed) in zip(packs, isNamed) where !isNamed {
            do throws(StoreError) {
                // Since the census it may have been taken out, with what could not be saved.
                guard try isThere(pack) else { continue }
                let (file, size) = try open(.pack, pack.description)
                _ = file
                let directory = try packDirectory(pack.description, byteCount: size)
                if session != nil {
                    // Who put it there may have been cut off before its name was durable.
                    let folder = "\(address)/packs/\(pack.description.prefix(2))"
                    try storing { () throws(SystemError) in
                        try makeDurable(folder: folder)
                        try fs.synchronizeFolder(folder)
                    }
                }
                try accept(pack, directory)
            } catch {
                guard [.corrupt, .missing, .unsupported, .io].contains(error.code) else { throw error }
                if error.code == .io, session != nil { try checkAlive() }
            }
            guard state.withLock({ $0.recent.count }) <= entriesMax else {
                throw StoreError(
                    .corrupt,
                    "the index of store \(address) is damaged, and the store is too large to do without: "
                        + "run `godwit store repair \(address)`")
            }
        }
    }

    /// - Throws: that error, unless it is one file's trouble only.
    func expectOneFileOnly(_ error: SystemError) throws(StoreError) {
        switch error.errno {
        case .noMemory, .tooManyOpenFiles, .tooManyOpenFilesInSystem, .permissionDenied: throw StoreError(error)
        default: try checkAlive()
        }
    }

    /// Whether the store's file system still answers: one file that can't be read is that file's trouble.
    func checkAlive() throws(StoreError) {
        _ = try storing { () throws(SystemError) in
            try fs.contents(of: "\(address)/\(StoreDescription.fileName)", limit: 1 << 20)
        }
    }

    /// Something is in no index file, which should not be: looks into the packs that none names, once.
    /// - Returns: whether it was done just now.
    private func fillUp() throws(StoreError) -> Bool {
        guard state.withLock({ $0.isFilledUp }) == false else { return false }
        state.withLock { $0.isFilledUp = true }
        try takeUpUnnamed(entriesMax: session == nil ? Self.fillUpMax : .max)
        return true
    }
    private static let servedSegmentsMax = 64
    /// Some 100 MB, for 64 GiB of content in chunks of 64 KiB.
    private static let fillUpMax = 1 << 20

    // MARK: Writing index files

    /// Runs `body` when no other thread of this process writes index files.
    func whileIndexing<R>(_ body: () throws(StoreError) -> R) throws(StoreError) -> R {
        _ = indexing.wait { isBusy -> Bool? in
            guard !isBusy else { return nil }
            isBusy = true
            return true
        }
        defer { indexing.change { $0 = false } }
        return try body()
    }

    /// Writes an index file of what none names yet.
    func flushRecent() throws(StoreError) {
        guard session != nil else { return }
        try whileIndexing { () throws(StoreError) in
            let (entries, packs) = state.withLock { ($0.recent, $0.recentPacks) }
            guard !entries.isEmpty else { return }
            try expectInPlace()
            // One that another process has taken out since is to be named by no index.
            var gone: Set<Digest> = []
            for pack in Set(entries.values.map(\.pack)) where try !isThere(pack) { gone.insert(pack) }
            try putIndex(entries.filter { !gone.contains($0.value.pack) }.map { ($0.key, $0.value) })
            state.withLock { state in
                for (id, place) in entries where state.recent[id] == place { state.recent[id] = nil }
                state.recentPacks -= packs
            }
        }
        // One that is served leaves it to others as long as it can: each file takes a descriptor.
        if !isServed || segments.count > Self.servedSegmentsMax { try tidy() }
    }

    /// Makes an index file of these objects durable and visible; their packs must be so already.
    func putIndex(_ entries: [(id: Digest, location: Location)]) throws(StoreError) {
        guard !entries.isEmpty else { return }
        try use(try writeIndex(entries))
    }

    /// Looks things up in an index file of ours from now on.
    func use(_ name: String) throws(StoreError) {
        guard let segment = try openOwnSegment(name) else { return try reloadIndex() }
        state.withLock { state in
            if !state.segments.contains(where: { $0.name == name }) { state.segments.append(segment) }
        }
    }

    /// Opens an index file that was just written. - Returns: `nil` when another writer has merged it into a file of its
    /// own by now.
    func openOwnSegment(_ name: String) throws(StoreError) -> IndexSegment? {
        do throws(StoreError) { return try openSegment(name) } catch {
            guard error.code == .missing else { throw error }
            return nil
        }
    }

    /// The same, without using it. - Returns: its name.
    func writeIndex(_ entries: [(id: Digest, location: Location)]) throws(StoreError) -> String {
        var writer = IndexWriter(upload: try beginFile(.index))
        for entry in entries.sorted(by: { $0.id < $1.id }) { try writer.add(entry.id, entry.location) }
        return try writer.finish().name
    }

    /// Packs went.
    func forgetCensus() {
        state.withLock { state in
            state.census = nil
            for segment in state.segments { segment.forgetPackStates() }
        }
    }

    /// Makes a point visible when what it needs is indexed and there, and what was answered still holds. Nothing is
    /// noted, or taken out, between the last look and `show`.
    func whileReady(for point: RestorePoint, show: () throws(StoreError) -> Void) throws(StoreError) {
        try expectTime(of: point)
        if state.withLock({ !$0.distrusted.isEmpty && !$0.isFilledUp }) {
            state.withLock { $0.isFilledUp = true }
            try takeUpUnnamed()
        }
        try flushRecent()
        var before = try asideContent()
        // Of what was found since the store was opened its user was not told: the base may lack something.
        var base = try isMoreAside() ? nil : try base(of: point)
        for _ in 0..<Self.looksMax {
            try expectWhole(point, base: base)
            let lock = try lockAside()
            defer { withExtendedLifetime(lock) {} }
            let now = try asideContent()
            if now == before {
                try expectAnswersHold()
                return try show()
            }
            // What was found meanwhile may be of any part.
            (before, base) = (now, nil)
        }
        throw StoreError(
            .busy,
            "store \(address) is being found damaged, or is being repaired: run it again, what was stored is used")
    }

    private static let looksMax = 4

    /// Merges index files when there are many.
    public func tidy() throws(StoreError) {
        guard session != nil, segments.count > Self.segmentsMax else { return }
        try whileIndexing { () throws(StoreError) in
            guard segments.count > Self.segmentsMax else { return }
            do throws(StoreError) { try mergeIndex() } catch {
                // Merging only saves look-ups: what there is stays right without it.
                guard [.outOfSpace, .corrupt, .io].contains(error.code) else { throw error }
            }
        }
    }
}
