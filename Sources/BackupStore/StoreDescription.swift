internal import ChunkTree
internal import Geometry

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
