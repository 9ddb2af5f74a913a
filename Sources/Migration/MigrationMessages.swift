internal import Codecs
internal import FoundationEssentials

/// The kinds of messages of the service `migrate`, godwit-stream(5).
enum MigrationMessage {
    static let request: UInt16 = 512
    static let reply: UInt16 = 513
    static let stream: UInt16 = 514
    static let applied: UInt16 = 515
    static let leaves: UInt16 = 516

    /// Version of the messages. Hosts of different versions move no disks between them.
    static let version = 2
    /// Bytes of the stream that may be under way.
    static let windowBytes: UInt64 = 16 << 20
    /// Most leaves in one message.
    static let leavesMax = 4096
}

/// What the source asks of the target.
enum MigrationRequest: Codable, Hashable, Sendable {
    case check(MigrationOffer)
    /// `attempt`: made up for this beginning; what is prepared after it can only be committed by naming it.
    case begin(MigrationOffer, attempt: String)
    case sync
    case prepare
    case commit(MigrationCommit)
    case abort
    case ping
}

/// The one copy that the source has given the disk up for.
struct MigrationCommit: Codable, Hashable, Sendable {
    var identity: String
    var attempt: String
    /// Digest of the content.
    var root: String
    var sizeBytes: UInt64
    /// For the target's shell, after the disk is in place, if the target allows such.
    var startCommand: String?
}

/// The disk that is to come.
struct MigrationOffer: Codable, Hashable, Sendable {
    /// Of the source's disk: reruns have the same, so that they find what came over already.
    var identity: String
    var protocolVersion = MigrationMessage.version
    var sizeBytes: UInt64
    var clusterBytes: UInt64
    var imageVersion: Int
    /// What the source's images take up.
    var usedBytes: UInt64
    var chunkBytes: UInt32
    /// To be run by the target's shell at the end.
    var startCommand: String?
}

enum MigrationReply: Codable, Hashable, Sendable {
    /// Everything that is in the way; and what a partial copy takes up that can be gone on from.
    case checked(problems: [String], partialBytes: UInt64)
    case begun
    case synced(nanoseconds: UInt64)
    case prepared(root: String)
    /// The disk is the target's; how long putting it in place and starting the guest took. Once the guest was started
    /// no later commit starts it again.
    case active(nanoseconds: UInt64, startFailure: String?)
    case done
}

/// A request or a reply as a message's payload.
func encodeJSON(_ value: some Encodable) -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    // Plain structs of numbers and text always have a JSON form.
    guard let data = try? encoder.encode(value) else { preconditionFailure("a value without a JSON form") }
    return [UInt8](data)
}

func decodeJSON<T: Decodable>(_ type: T.Type, _ bytes: [UInt8]) -> T? {
    try? JSONDecoder().decode(type, from: Data(bytes))
}

/// Leaves of the target's tree, as in a message of that kind.
struct LeafRun: Hashable, Sendable {
    var first: UInt64
    var ids: [Digest]

    func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(8 + ids.count * Digest.byteCount)
        bytes.append(littleEndian: first)
        for id in ids { bytes += id.bytes }
        return bytes
    }

    init(first: UInt64, ids: [Digest]) {
        self.first = first
        self.ids = ids
    }

    /// `nil` unless there are 1 to 4096 whole leaves of a tree with `chunkCount`.
    init?(parsing bytes: [UInt8], chunkCount: UInt64) {
        let count = (bytes.count - 8) / Digest.byteCount
        guard bytes.count > 8, (bytes.count - 8) % Digest.byteCount == 0, count <= MigrationMessage.leavesMax else {
            return nil
        }
        let first = (0..<8).reduce(UInt64(0)) { $0 | UInt64(bytes[$1]) << UInt64(8 * $1) }
        guard first < chunkCount, UInt64(count) <= chunkCount - first else { return nil }
        self.first = first
        ids = unsafe bytes.withUnsafeBytes { memory in
            (0..<count).map { unsafe Digest(loading: memory, at: 8 + $0 * Digest.byteCount) }
        }
    }
}

/// The payload of ``MigrationMessage/applied``.
func encodeApplied(_ count: UInt64) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(littleEndian: count)
    return bytes
}

func decodeApplied(_ bytes: [UInt8]) -> UInt64? {
    guard bytes.count == 8 else { return nil }
    return (0..<8).reduce(UInt64(0)) { $0 | UInt64(bytes[$1]) << UInt64(8 * $1) }
}
