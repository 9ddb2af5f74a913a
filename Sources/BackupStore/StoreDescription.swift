public import BlockIO
internal import ChunkTree
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// The file that makes a folder a store.
struct StoreDescription: Hashable, Sendable {
    static let fileName = "godwit-store"
    static let heading = "godwit-store 1"

    var uuid: String
    var chunkBytes: UInt32

    func encoded() -> [UInt8] {
        var text = RecordText(heading: Self.heading)
        text.set("uuid", uuid)
        text.set("chunk-bytes", UInt64(chunkBytes))
        text.set("hash", "sha256")
        text.set("needs", "")
        return text.encoded()
    }

    init(uuid: String, chunkBytes: UInt32) {
        self.uuid = uuid
        self.chunkBytes = chunkBytes
    }

    init(parsing bytes: [UInt8], of address: String) throws(StoreError) {
        let text = try RecordText(parsing: bytes, heading: Self.heading, in: "the description of store \(address)")
        let needs = try text.value("needs")
        guard needs.isEmpty, try text.value("hash") == "sha256" else {
            throw StoreError(.unsupported, "store \(address) needs features this version does not have: \(needs)")
        }
        uuid = try text.value("uuid")
        chunkBytes = UInt32(clamping: try text.number("chunk-bytes"))
        guard TreeShape.chunkBytesRange.contains(chunkBytes), chunkBytes.isPowerOfTwo, !uuid.isEmpty else {
            throw StoreError(
                .corrupt, "the description of store \(address) has chunks of \(chunkBytes) bytes, which cannot be")
        }
    }
}

extension LocalStore {
    /// The store that a path, which need not exist, is in or is; `nil` when it is in none. Nothing but the store's own
    /// has a place there.
    public static func store(holding path: String, in fs: any FileSystem) throws(StoreError) -> String? {
        try storing { () throws(SystemError) in
            // From the last part that exists: its real place counts, not the way by which it was named.
            var folder = path
            var resolved: String?
            while resolved == nil {
                do throws(SystemError) { resolved = try fs.resolve(folder) } catch {
                    guard error.errno == .noSuchFileOrDirectory || error.errno == .notDirectory else { throw error }
                    let above = folderPart(of: folder)
                    guard !above.isSame(as: folder) else { return nil }
                    folder = above
                }
            }
            guard var place = resolved else { return nil }
            while true {
                if try fs.exists(PathText.join(place, StoreDescription.fileName)) { return place }
                let above = folderPart(of: place)
                guard above != place else { return nil }
                place = above
            }
        }
    }
}
