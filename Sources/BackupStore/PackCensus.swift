internal import BlockIO
public import Codecs
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// Which packs there are, and what is noted of them: the index counts only with this.
struct PackCensus {
    /// Sorted. For each TiB of content some 16,000 names of 32 bytes.
    private var listed: [Digest]
    /// Came later.
    private var later: Set<Digest> = []
    var damage: [Digest: PackDamage]

    init(listed: [Digest], damage: [Digest: PackDamage]) {
        self.listed = listed.sorted()
        self.damage = damage
    }

    func has(_ pack: Digest) -> Bool { place(pack) != nil || later.contains(pack) }

    /// Where it is among those that were listed.
    func place(_ pack: Digest) -> Int? {
        var (low, high) = (0, listed.count)
        while low < high {
            let middle = (low + high) / 2
            if listed[middle] < pack { low = middle + 1 } else { high = middle }
        }
        return low < listed.count && listed[low] == pack ? low : nil
    }

    var listedPacks: [Digest] { listed }

    /// With what came later among the listed.
    func consolidated() -> PackCensus {
        later.isEmpty ? self : PackCensus(listed: listed + later, damage: damage)
    }

    mutating func insert(_ pack: Digest) {
        if place(pack) == nil { later.insert(pack) }
    }
}

extension LocalStore {
    /// The census, taken when it is first asked for.
    func census() throws(StoreError) -> PackCensus {
        if let census = state.withLock({ $0.census }) { return census }
        let census = try freshCensus()
        return state.withLock { state in
            if let other = state.census { return other }
            state.census = census
            return census
        }
    }

    /// The packs that are there now, and the notes.
    func freshCensus() throws(StoreError) -> PackCensus {
        var packs: [Digest] = []
        for folder in try packFolders() {
            for name in try storing({ () throws(SystemError) in try fs.list(folder) }) {
                guard let pack = Digest(hex: name), Self.belongs(name, in: folder) else { continue }
                do throws(SystemError) {
                    if try fs.fileSize("\(folder)/\(name)") >= Self.packBytesMin { packs.append(pack) }
                } catch {
                    // It may be set aside meanwhile; what else is wrong with it shows when it is needed.
                    if error.errno != .noSuchFileOrDirectory { packs.append(pack) }
                }
            }
        }
        return PackCensus(listed: packs, damage: try loadNotes())
    }

    /// What is noted of the packs that are there.
    public func knownDamage() throws(StoreError) -> [Digest: PackDamage] { try census().damage }

    /// Text that is the same as long as the same is missing, noted as damaged, or taken out; `nil` when nothing is.
    /// Whoever builds on an older point of a store with such a text sees first whether the point is still whole.
    public func damage() throws(StoreError) -> String? {
        let census = try census()
        var lines: [String] = []
        for (pack, damage) in census.damage where census.has(pack) {
            lines.append("\(pack) \(damage.isWhole ? "all" : "\(damage.frames.sorted())")")
        }
        for pack in try formerPacks() where !census.has(pack) { lines.append("\(pack) missing") }
        // What no index names and no pack holds leaves no other trace.
        for point in try lackingPoints().keys {
            let path = try path(.point, point)
            guard try storing({ () throws(SystemError) in try fs.exists(path) }) else { continue }
            lines.append("point \(point) lacking")
        }
        // What an index file named that was taken out may never have been there.
        for name in try indexesAside() { lines.append("index \(name) aside") }
        // What an index file names that can't be used may not be there either. Others write and merge files meanwhile.
        func listed() throws(StoreError) -> Set<String> {
            Set(try storing { () throws(SystemError) in try fs.list("\(address)/index") })
        }
        let before = try listed()
        try reloadIndex()
        let segments = try preparedSegments()
        let unused = try before.intersection(listed()).subtracting(segments.map(\.name))
        for name in unused where ObjectName.isValid(name, as: .index) { lines.append("index \(name) unread") }
        for segment in segments {
            var number: UInt32 = 0
            try segment.forEachPack { pack in
                if segment.state(ofPack: number).contains(.absent) { lines.append("\(pack) missing") }
                number += 1
            }
        }
        guard !lines.isEmpty else { return nil }
        return Digest.hash(Array(Set(lines).sorted().joined(separator: "\n").utf8)).description
    }
}
