internal import BlockIO
public import Codecs
internal import Synchronization

/// What a store's index says of each pack, to be compared with what the packs say of themselves. Takes some bytes for
/// each pack that an index file names, whatever the number of entries.
public final class IndexAudit: Sendable {
    /// Of the entries of one index file that name one pack. Their order is not the directory's, so what is summed are
    /// hashes under a key that changes from run to run.
    struct Sum: Hashable {
        var count = 0
        var hashes: UInt64 = 0

        mutating func add(_ id: Digest, _ place: Location) {
            var hasher = Hasher()
            hasher.combine(id)
            hasher.combine(place)
            count += 1
            hashes &+= UInt64(bitPattern: Int64(hasher.finalize()))
        }
    }

    /// Entries of all index files.
    public let entryCount: UInt64
    private let segments: [IndexSegment]
    /// Damaged ones, whose good pages may be all that tells what lies in a damaged pack.
    private let damaged: [IndexSegment]
    private let sums: [Digest: [(segment: Int, sum: Sum)]]

    init(
        _ segments: [IndexSegment], damaged: [IndexSegment], _ sums: [Digest: [(segment: Int, sum: Sum)]],
        entryCount: UInt64
    ) {
        self.segments = segments
        self.damaged = damaged
        self.sums = sums
        self.entryCount = entryCount
    }

    /// The packs that the index names.
    public var packs: some Sequence<Digest> { sums.keys }
    public func names(_ pack: Digest) -> Bool { sums[pack] != nil }

    /// What the index names in a pack, for one whose directory is lost.
    func places(in pack: Digest) throws(StoreError) -> [(id: Digest, place: Location)] {
        var found: [Digest: Location] = [:]
        for (number, _) in sums[pack] ?? [] {
            let segment = segments[number]
            var own: UInt32?
            var next: UInt32 = 0
            try segment.forEachPack { name in
                if name == pack { own = next }
                next += 1
            }
            try segment.verify { (entry) throws(StoreError) in
                if entry.pack == own { found[entry.id] = entry.location(in: pack) }
                return true
            }
        }
        for segment in damaged { found.merge(Self.readablePlaces(in: pack, segment)) { sound, _ in sound } }
        // The same each time: in the order of before they would be a pack of the same name.
        return found.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }

    /// The pages that are whole by their checksums. Whoever uses a place compares what is there with its identity.
    private static func readablePlaces(in pack: Digest, _ segment: IndexSegment) -> [Digest: Location] {
        var found: [Digest: Location] = [:]
        var own: UInt32?
        var next: UInt32 = 0
        let isWhole: Void? = try? segment.forEachPack { name in
            if name == pack { own = next }
            next += 1
        }
        guard isWhole != nil, let own else { return [:] }
        for index in 0..<segment.trailer.pageCount {
            guard let page = try? segment.page(index) else { continue }
            for place in 0..<page.count {
                guard let entry = try? segment.entry(page, place, at: index), entry.pack == own else { continue }
                found[entry.id] = entry.location(in: pack)
            }
        }
        return found
    }

    /// How many entries name a place in `pack` at which its directory has something else.
    public func wrongEntries(_ pack: Digest, _ directory: PackDirectory) throws(StoreError) -> Int {
        guard let found = sums[pack] else { return 0 }
        var whole = Sum()
        var places: [Digest: [Location]] = [:]
        directory.forEachLocation(pack: pack) { id, place in
            places[id, default: []].append(place)
            whole.add(id, place)
        }
        var wrong = 0
        for (number, sum) in found where sum != whole {
            // Where another pack has it, too, only one of the places is in the file.
            let segment = segments[number]
            var right = 0
            for (id, own) in places {
                guard let entry = try segment.find(id) else { continue }
                let place = try segment.location(of: entry)
                if place.pack == pack, own.contains(place) { right += 1 }
            }
            wrong += sum.count - right
        }
        return wrong
    }
}

extension LocalStore {
    /// Reads every index file in whole. Those that are damaged are told of, and left out.
    /// - Parameter goesOn: asked now and then; `false` ends it.
    /// - Returns: `nil` when it was ended.
    public func auditIndex(
        damaged: (_ name: String, StoreError) -> Void, goesOn: () -> Bool = { true }
    ) throws(StoreError) -> IndexAudit? {
        var segments: [IndexSegment] = []
        var damagedSegments: [IndexSegment] = []
        var sums: [Digest: [(segment: Int, sum: IndexAudit.Sum)]] = [:]
        var entryCount: UInt64 = 0
        for object in try list(.index) {
            var opened: IndexSegment?
            do throws(StoreError) {
                let segment = try IndexSegment(
                    opening: try path(.index, object.name), name: object.name, number: UInt64.max, cache: PageCache(),
                    in: fs)
                opened = segment
                var packs: [Digest] = []
                try segment.forEachPack { packs.append($0) }
                var own = [IndexAudit.Sum](repeating: .init(), count: packs.count)
                var isEnded = false
                try segment.verify { (entry) throws(StoreError) in
                    let pack = Int(entry.pack)
                    own[pack].add(entry.id, entry.location(in: packs[pack]))
                    if own[pack].count % 256 == 0, !isEnded { isEnded = !goesOn() }
                    return !isEnded
                }
                if isEnded { return nil }
                for (pack, sum) in zip(packs, own) where sum.count > 0 {
                    sums[pack, default: []].append((segments.count, sum))
                    entryCount += UInt64(sum.count)
                }
                segments.append(segment)
            } catch {
                guard [.corrupt, .unsupported, .missing, .io].contains(error.code) else { throw error }
                // Merged away since the listing.
                if error.code == .missing { continue }
                if let opened { damagedSegments.append(opened) }
                damaged(object.name, error)
            }
        }
        return IndexAudit(segments, damaged: damagedSegments, sums, entryCount: entryCount)
    }
}
