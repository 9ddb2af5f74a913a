internal import Geometry

/// Why a configuration file cannot be used, and where in it.
public struct ConfigurationError: Error, Hashable, Sendable, CustomStringConvertible {
    public var file: String
    /// From 1; 0 when the problem is not at a place in the file.
    public var line: UInt32
    public var column: UInt32
    public var message: String

    public init(file: String, line: UInt32, column: UInt32, message: String) {
        self.file = file
        self.line = line
        self.column = column
        self.message = message
    }

    public var description: String { line == 0 ? "\(file): \(message)" : "\(file):\(line):\(column): \(message)" }
}

/// What godwit.toml(5) says: the disks, stores, hooks and limits of a host. A key that is not known is an error, so
/// that a misspelt limit is not silently without effect.
public struct Configuration: Hashable, Sendable {
    public struct Store: Hashable, Sendable {
        public var name: String
        /// A folder or `ssh://[user@]host[:port]/folder`.
        public var location: String
    }

    public struct Disk: Hashable, Sendable {
        public var name: String
        /// The disk's folder.
        public var path: String
        /// The store of its backups, resolved: a location, not a name.
        public var store: String?
        /// Disks of one group are frozen at one instant.
        public var group: String?
        /// The file's hooks, with the disk's own in their place.
        public var hooks: [HookMoment: Hook]
    }

    public struct Limits: Hashable, Sendable {
        /// A freeze ends by itself after this time.
        public var freezeMilliseconds: UInt64 = 10_000
        public static let freezeMillisecondsMax: UInt64 = 300_000
        /// The longest standstill of a guest that a migration may plan for.
        public var downtimeMilliseconds: UInt64 = 300
        public init() {}
    }

    public var stores: [Store] = []
    public var disks: [Disk] = []
    /// Hooks of disks that have none of their own, and of disks that the file does not name.
    public var hooks: [HookMoment: Hook] = [:]
    public var limits = Limits()
    /// Who serves disks that are attached; `nil`: the driver where it is loaded.
    public var backend: DiskBackend?

    public static let defaultPath = "/etc/godwit/godwit.toml"
    /// Larger files are refused.
    public static let sizeMax = 1 << 20

    /// No disks, no stores, the default limits.
    public init() {}

    /// - Parameter file: the name to show in errors.
    public init(parsing text: String, file: String) throws(ConfigurationError) {
        let top = try TomlNode.parse(text, file: file)
        let table = try ConfigurationTable(top, in: "the file", file: file)
        try table.allow(["default-store", "backend", "store", "disk", "hooks", "limits"])

        stores = []
        for entry in try table.tables("store") {
            let store = try Self.store(entry)
            if stores.map(\.name).hasSame(as: store.name) {
                throw entry.error("there are two stores with the name \(store.name)")
            }
            stores.append(store)
        }
        hooks = try Self.hooks(table.table("hooks"), inheriting: [:])
        if let entry = try table.table("limits") {
            try entry.allow(["freeze", "max-downtime"])
            limits.freezeMilliseconds =
                try entry.duration("freeze", in: 100...Limits.freezeMillisecondsMax) ?? limits.freezeMilliseconds
            limits.downtimeMilliseconds =
                try entry.duration("max-downtime", in: 1...3_600_000) ?? limits.downtimeMilliseconds
        }
        if let text = try table.string("backend"), text != "auto" {
            guard let backend = DiskBackend(rawValue: text) else {
                throw table.error("backend is none of auto, kernel and user: \(text)", at: "backend")
            }
            self.backend = backend
        }
        let defaultStore = try table.string("default-store")
        if let defaultStore, location(of: defaultStore) == nil {
            throw table.error(
                "default-store names \(defaultStore), but no [[store]] has that name", at: "default-store")
        }
        for entry in try table.tables("disk") {
            let disk = try disk(entry, defaultStore: defaultStore)
            if disks.map(\.name).hasSame(as: disk.name) {
                throw entry.error("there are two disks with the name \(disk.name)")
            }
            disks.append(disk)
        }
    }

    /// The location of the store with this name.
    public func location(of store: String) -> String? { stores.first { $0.name.isSame(as: store) }?.location }

    /// The disk with this name or at this path (as written in the file, or resolved by the caller).
    public func disk(_ nameOrPath: String) -> Disk? {
        disks.first { $0.name.isSame(as: nameOrPath) } ?? disks.first { $0.path.isSame(as: nameOrPath) }
    }

    private static func store(_ entry: ConfigurationTable) throws(ConfigurationError) -> Store {
        try entry.allow(["name", "location"])
        let location = try entry.required("location")
        guard PathText.isAbsolute(location) || location.begins(with: "ssh://") else {
            throw entry.error("location is neither an absolute path nor ssh://…: \(location)", at: "location")
        }
        return Store(name: try entry.required("name"), location: location)
    }

    private func disk(_ entry: ConfigurationTable, defaultStore: String?) throws(ConfigurationError) -> Disk {
        try entry.allow(["name", "path", "store", "group", "hooks"])
        let path = try entry.required("path")
        guard PathText.isAbsolute(path) else { throw entry.error("path is not absolute: \(path)", at: "path") }
        let storeName = try entry.string("store") ?? defaultStore
        var location: String?
        if let storeName {
            location = self.location(of: storeName)
            guard location != nil else {
                throw entry.error("store names \(storeName), but no [[store]] has that name", at: "store")
            }
        }
        return Disk(
            name: try entry.required("name"), path: path, store: location, group: try entry.string("group"),
            hooks: try Self.hooks(entry.table("hooks"), inheriting: hooks))
    }

    private static func hooks(
        _ entry: ConfigurationTable?, inheriting base: [HookMoment: Hook]
    ) throws(ConfigurationError) -> [HookMoment: Hook] {
        guard let entry else { return base }
        try entry.allow(HookMoment.allCases.map(\.rawValue) + ["timeout"])
        var hooks = base
        for moment in HookMoment.allCases {
            if let command = try entry.string(moment.rawValue) { hooks[moment] = Hook(command: command) }
        }
        if let milliseconds = try entry.duration("timeout", in: 1000...3_600_000) {
            for moment in hooks.keys { hooks[moment]?.limitSeconds = milliseconds / 1000 }
        }
        return hooks
    }
}
