public import BlockIO
internal import FoundationEssentials
internal import LinuxSystem
internal import SystemPackage

/// What a disk's folder remembers of its backups: which frozen state each store has, so that the next backup there
/// reads only what changed. Losing it costs one full read.
public struct DiskMarks: Codable, Hashable, Sendable {
    public struct Mark: Codable, Hashable, Sendable {
        /// The restore point in the store.
        public var point: String
        /// GUID of the frozen state that it holds.
        public var snapshot: String
        /// When, in nanoseconds since 1970.
        public var time: UInt64
        public init(point: String, snapshot: String, time: UInt64) {
            self.point = point
            self.snapshot = snapshot
            self.time = time
        }
    }

    /// Identity of the disk in all stores.
    public var disk: String
    /// By the store's UUID.
    public var stores: [String: Mark] = [:]
    /// States that were frozen for a backup and are not needed any more (or never became a mark): to be merged.
    public var retired: [String] = []

    public static let fileName = "godwit-marks.json"

    public init(disk: String) { self.disk = disk }

    /// States that some store's next backup counts from.
    public var needed: Set<String> { Set(stores.values.map(\.snapshot)) }

    /// Records that `snapshot` is going to be frozen, or was: should the backup not end, it is to be merged.
    public mutating func began(_ snapshot: String) {
        if !retired.contains(snapshot) { retired.append(snapshot) }
    }

    /// Records that a store has `mark` now.
    public mutating func finished(_ mark: Mark, store: String) {
        let old = stores.updateValue(mark, forKey: store)
        if let old, !retired.contains(old.snapshot) { retired.append(old.snapshot) }
        let needed = needed
        retired.removeAll { needed.contains($0) }
    }

    /// Reads the marks of the disk in `folder`; new ones when there are none, or they can't be understood.
    public static func load(folder: String, in fs: any FileSystem) throws(BackupError) -> DiskMarks {
        let path = "\(folder)/\(fileName)"
        let bytes: [UInt8]
        do throws(SystemError) { bytes = try fs.contents(of: path, limit: 1 << 20) } catch {
            guard error.errno == .noSuchFileOrDirectory else { throw BackupError(.io, error.description) }
            return DiskMarks(disk: newUUID())
        }
        let marks = try? JSONDecoder().decode(DiskMarks.self, from: Data(bytes))
        return marks ?? DiskMarks(disk: newUUID())
    }

    /// Durable when it returns.
    public func store(folder: String, in fs: any FileSystem) throws(BackupError) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(self) else { throw BackupError(.invalid, "the marks cannot be encoded") }
        try onHost { () throws(SystemError) in
            try fs.replaceContents(of: "\(folder)/\(Self.fileName)", with: [UInt8](data) + [10])
        }
    }
}

/// A random UUID.
public func newUUID() -> String { UUID().uuidString.lowercased() }
