public import ChunkTree
internal import Codecs
internal import Geometry

/// One state of one disk, whole: what a backup leaves and a restore takes.
public struct RestorePoint: Hashable, Sendable {
    /// Name in the store, for people to type: `20250131T235959Z-1a2b3c4d`.
    public private(set) var id: String
    public var content: Content

    public struct Content: Hashable, Sendable {
        /// Identity of the disk, the same for all its points.
        public var disk: String
        /// What people call the disk.
        public var name: String
        /// When the state was frozen: nanoseconds since 1970-01-01 UTC.
        public var time: UInt64
        public var root: TreeRoot
        /// The point this one was made from, if any. Only told: nothing of it is needed.
        public var parent: String?
        /// GUID of the frozen state in the disk's descriptor.
        public var snapshot: String
        /// Figures of the backup, for people and graphs.
        public var statistics: [String: UInt64]

        public init(
            disk: String, name: String, time: UInt64, root: TreeRoot, parent: String?, snapshot: String,
            statistics: [String: UInt64] = [:]
        ) {
            self.disk = disk
            self.name = name
            self.time = time
            self.root = root
            self.parent = parent
            self.snapshot = snapshot
            self.statistics = statistics
        }
    }

    static let heading = "godwit-point 1"

    /// Clocks of two hosts differ by less.
    static let aheadMax: UInt64 = 86_400_000_000_000

    /// Whether its time can't be when it was made: it is of a clock that was ahead, or of somebody who made it up.
    public func isFromFuture(at now: UInt64) -> Bool { content.time > now && content.time - now > Self.aheadMax }

    public init(_ content: Content) {
        self.content = content
        id = Self.id(of: Self.encode(content), time: content.time)
    }

    /// The file's bytes.
    public func encoded() -> [UInt8] { Self.encode(content) }

    private static func encode(_ content: Content) -> [UInt8] {
        var text = RecordText(heading: heading)
        text.set("disk", content.disk)
        text.set("name", content.name)
        text.set("time", content.time)
        text.set("bytes", content.root.shape.byteCount)
        text.set("chunk-bytes", UInt64(content.root.shape.chunkBytes))
        text.set("top", content.root.top.description)
        text.set("root", content.root.digest.description)
        if let parent = content.parent { text.set("parent", parent) }
        text.set("snapshot", content.snapshot)
        for (key, value) in content.statistics.sorted(by: { $0.key < $1.key }) { text.set("stat." + key, value) }
        return text.encoded()
    }

    private static func id(of bytes: [UInt8], time: UInt64) -> String {
        UTCTime.compact(nanoseconds: time) + "-" + Digest.hash(bytes).description.prefix(8)
    }

    /// Parses the file of point `id`, whose name must be that of its content.
    public init(parsing bytes: [UInt8], id: String) throws(StoreError) {
        let place = "restore point \(id)"
        let text = try RecordText(parsing: bytes, heading: Self.heading, in: place)
        guard
            let shape = TreeShape(
                checking: try text.number("bytes"), chunkBytes: UInt32(clamping: try text.number("chunk-bytes")))
        else { throw StoreError(.corrupt, "\(place) has a size or chunk size that cannot be") }
        let root = TreeRoot(top: try text.digest("top"), shape: shape)
        guard root.digest == (try text.digest("root")) else {
            throw StoreError(.corrupt, "\(place) is damaged: its root digest does not match its tree")
        }
        var statistics: [String: UInt64] = [:]
        for (key, value) in text.fields {
            if let name = key.rest(after: "stat.") { statistics[String(name)] = UInt64(value) }
        }
        content = Content(
            disk: try text.value("disk"), name: try text.value("name"), time: try text.number("time"), root: root,
            parent: text.optionalValue("parent"), snapshot: try text.value("snapshot"), statistics: statistics)
        self.id = Self.id(of: bytes, time: content.time)
        guard self.id == id else { throw StoreError(.corrupt, "\(place) has the content of \(self.id)") }
    }
}

/// Calendar dates, without a library.
enum UTCTime {
    /// `20250131T235959Z`.
    static func compact(nanoseconds: UInt64) -> String {
        let seconds = Int(nanoseconds / 1_000_000_000)
        let (days, rest) = (seconds / 86400, seconds % 86400)
        // Days to a civil date, counted in eras of 400 years that begin on 1 March.
        let shifted = days + 719_468
        let era = shifted / 146_097
        let dayOfEra = shifted % 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let monthFromMarch = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
        let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
        let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
        let date = pad(year, 4) + pad(month, 2) + pad(day, 2)
        return date + "T" + pad(rest / 3600, 2) + pad(rest / 60 % 60, 2) + pad(rest % 60, 2) + "Z"
    }

    private static func pad(_ number: Int, _ width: Int) -> String {
        let text = String(number)
        return String(repeating: "0", count: max(0, width - text.count)) + text
    }
}
