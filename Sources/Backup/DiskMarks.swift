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
        /// What the store said of its damage when the point was found, or made, whole; see ``StoreBackend/damage()``.
        public var damage: String?
        public init(point: String, snapshot: String, time: UInt64, damage: String? = nil) {
            self.point = point
            self.snapshot = snapshot
            self.time = time
            self.damage = damage
        }
    }

    /// Identity of the disk in all stores.
    public var disk: String
    /// By the store's UUID.
    public var stores: [String: Mark] = [:]
    /// States that were frozen for a backup and are not needed any more (or never became a mark): to be merged.
    public var retired: [String] = []
    /// Where the folder was when a backup was made last: a copy of it is another disk.
    public var folder: String?
    /// Set while disks are being frozen: the states that there were before. What is there besides, should nobody get
    /// to record it, is told of, and is not ours to drop.
    public var statesBefore: [String]?

    public static let fileName = "godwit-marks.json"
    private static let byteCountMax = 1 << 20
    /// Each keeps a state of the disk from being merged; more stores than this are some that were there once.
    private static let storesMax = 16

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
        while stores.count > Self.storesMax {
            let others = stores.filter { $0.key != store }
            guard let oldest = others.min(by: { ($0.value.time, $0.key) < ($1.value.time, $1.key) }) else { break }
            stores[oldest.key] = nil
            if !retired.contains(oldest.value.snapshot) { retired.append(oldest.value.snapshot) }
        }
        let needed = needed
        retired.removeAll { needed.contains($0) }
    }

    /// What was found in a disk's folder.
    public struct Found: Sendable {
        public var marks: DiskMarks
        /// What is to be told of them.
        public var remarks: [String] = []
    }

    /// Reads the marks of the disk in `folder`; new ones when there are none. Marks that can't be understood are kept
    /// under another name, and told of; marks that can't be read are an error.
    /// - Parameter folder: resolved.
    public static func load(folder: String, in fs: any FileSystem) throws(BackupError) -> Found {
        let path = "\(folder)/\(fileName)"
        let bytes: [UInt8]
        do throws(SystemError) { bytes = try fs.contents(of: path, limit: byteCountMax) } catch {
            guard error.errno == .noSuchFileOrDirectory else { throw BackupError(.io, error.description) }
            return Found(marks: DiskMarks(disk: newUUID()))
        }
        if let marks = try? JSONDecoder().decode(DiskMarks.self, from: Data(bytes)) { return Found(marks: marks) }
        let kept = path + unreadableSuffix
        try onHost { () throws(SystemError) in try fs.rename(path, to: kept) }
        return Found(
            marks: DiskMarks(disk: newUUID()),
            remarks: [
                "\(path) can't be understood and is kept as \(kept): the disk is read in whole and has a new "
                    + "identity in the stores; snapshots of earlier backups may have stayed, see `godwit snapshot list`"
            ])
    }

    static let unreadableSuffix = ".unreadable"

    /// The identity of the disk in `folder`, as its marks have it; `nil` when they are not there, or can't be
    /// understood. Nothing is changed.
    public static func identity(in folder: String, _ fs: any FileSystem) throws(BackupError) -> String? {
        let bytes: [UInt8]
        do throws(SystemError) { bytes = try fs.contents(of: "\(folder)/\(fileName)", limit: byteCountMax) } catch {
            guard [.noSuchFileOrDirectory, .notDirectory, .fileTooLarge].contains(error.errno) else {
                throw BackupError(.io, error.description)
            }
            return nil
        }
        return (try? JSONDecoder().decode(DiskMarks.self, from: Data(bytes)))?.disk
    }

    /// Forgets what the next backups would build on: a state that they count from is not what it was any more.
    public mutating func forgetBases() {
        retired = Array(Set(retired + stores.values.map(\.snapshot))).sorted()
        stores = [:]
    }

    /// Gives a copy of a disk's folder an identity of its own, and forgets what it has of the original's backups.
    /// - Returns: what is to be told.
    public mutating func separate(from original: String) -> String {
        disk = newUUID()
        forgetBases()
        folder = nil
        return "it is a copy of \(original): the disk is read in whole and has an identity of its own in the stores"
    }

    /// Durable when it returns.
    public func store(folder: String, in fs: any FileSystem) throws(BackupError) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
        guard let data = try? encoder.encode(self), data.count < Self.byteCountMax else {
            throw BackupError(.invalid, "the marks of \(folder) cannot be encoded")
        }
        try onHost { () throws(SystemError) in
            try fs.replaceContents(of: "\(folder)/\(Self.fileName)", with: [UInt8](data) + [10])
        }
    }
}

/// A random UUID.
public func newUUID() -> String { UUID().uuidString.lowercased() }
