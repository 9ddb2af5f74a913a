internal import BlockIO
public import Codecs
internal import LinuxSystem

extension LocalStore {
    /// Reads every index file in whole. Problems are reported, one a file at least.
    /// - Parameter body: gets each entry: identity and pack.
    public func verifyIndex(
        _ body: (Digest, Location) throws(StoreError) -> Void, damaged: (StoreError) -> Void
    ) throws(StoreError) {
        for object in try list(.index) {
            do throws(StoreError) {
                let segment = try IndexSegment(
                    opening: try path(.index, object.name), name: object.name, number: UInt64.max, cache: PageCache(),
                    in: fs)
                try segment.verify { (entry) throws(StoreError) in try body(entry.id, try segment.location(of: entry)) }
            } catch {
                guard error.code == .corrupt || error.code == .unsupported || error.code == .missing else {
                    throw error
                }
                damaged(error)
            }
        }
    }

    /// Makes the index anew from the packs' directories; damaged packs are reported and left out.
    /// - Returns: how many objects it names.
    public func rebuildIndex(damaged: (StoreError) -> Void) throws(StoreError) -> UInt64 {
        let old = try storing { () throws(SystemError) in try fs.list("\(address)/index") }
        // None of the old files is looked at or merged from now on: one of them may be what is damaged.
        forgetIndex()
        var entries: [(id: Digest, location: Location)] = []
        var count: UInt64 = 0
        func flush() throws(StoreError) {
            guard !entries.isEmpty else { return }
            count += UInt64(entries.count)
            try putIndex(entries)
            entries.removeAll(keepingCapacity: true)
        }
        for object in try list(.pack) {
            do throws(StoreError) {
                guard let name = Digest(hex: object.name) else { continue }
                let directory = try packDirectory(object.name, byteCount: object.byteCount)
                directory.forEachLocation(pack: name) { id, location in entries.append((id, location)) }
            } catch {
                guard error.code == .corrupt else { throw error }
                damaged(error)
            }
            if entries.count >= 1 << 17 { try flush() }
        }
        try flush()
        let current = Set(segments.map(\.name))
        try storing { () throws(SystemError) in
            for name in old where ObjectName.isValid(name, as: .index) && !current.contains(name) {
                if try fs.exists("\(address)/index/\(name)") { try fs.remove("\(address)/index/\(name)") }
            }
            try fs.synchronizeFolder("\(address)/index")
        }
        return count
    }
}
