public import BlockIO
import Geometry
public import LinuxSystem
import Synchronization
public import SystemPackage

/// A file system in memory with a volatile cache, which can lose its power or fail at any call.
///
/// Writes are durable after their file's ``StorageFile/synchronize()``, names after their folder's
/// ``FileSystem/synchronizeFolder(_:)``, nothing is before. ``afterPowerCut(_:)`` shows what a new start would find.
/// Relative paths start at its root; it has no symbolic links.
public final class SimulatedFileSystem: FileSystem {
    /// What every call throws once the power is off: no error a real file system has.
    public static let powerCut = Errno(rawValue: 133)

    /// Asked before each call, on the thread that makes it: the place for a scheduler to let others go first, and to
    /// say what goes wrong. Subjects are paths, with more behind a blank.
    public typealias Observer = @Sendable (_ call: FaultPlan.Call, _ subject: String) -> FaultPlan.Effect?

    let world: Mutex<SimulatedWorld>
    /// In a structure, since a closure by itself is wrapped anew each time that a generic lock gives it out.
    private struct Watch: Sendable {
        var observer: Observer?
        var waiting: (@Sendable () -> Void)?
    }
    private let watch = Mutex(Watch())

    /// - Parameters:
    ///   - capacityBytes: how much fits; `nil`: any amount.
    ///   - directAlignment: what files opened for direct I/O must be aligned to, and are checked for; 1: there is none.
    public convenience init(capacityBytes: UInt64? = nil, directAlignment: Int = 4096) {
        let pages = capacityBytes.map { Int($0 / UInt64(SimulatedContent.pageBytes)) }
        self.init(world: SimulatedWorld(capacityPages: pages, directAlignment: directAlignment))
    }

    private init(world: SimulatedWorld) { self.world = Mutex(world) }

    // MARK: Faults

    /// What goes wrong from now on; counting begins anew.
    public func setPlan(_ plan: FaultPlan?) {
        world.withLock { world in
            world.plan = plan
            world.planCount = 0
        }
    }

    /// - Parameter waiting: lets others go on, for who waits for a lock; without it nobody waits.
    public func setObserver(_ observer: Observer?, waiting: (@Sendable () -> Void)? = nil) {
        watch.withLock { $0 = Watch(observer: observer, waiting: waiting) }
    }

    /// Asks the observer, then does the call.
    func perform<R>(
        _ call: FaultPlan.Call, _ subject: String, _ body: (inout SimulatedWorld) throws(SystemError) -> R
    ) throws(SystemError) -> R {
        let asked = watch.withLock { $0 }.observer?(call, subject)
        if call == .look, case .fail(let errno) = asked {
            throw SystemError(errno: errno, operation: "examine", subject: subject)
        }
        return try world.withLock { world throws(SystemError) in
            world.asked = asked
            defer { world.asked = nil }
            return try body(&world)
        }
    }

    /// How much fits from now on; what is over stays.
    public func setCapacity(_ bytes: UInt64?) {
        world.withLock { $0.capacityPages = bytes.map { Int($0 / UInt64(SimulatedContent.pageBytes)) } }
    }

    /// Whether the plan's power cut has come.
    public var isStopped: Bool { world.withLock { $0.isStopped } }
    /// How often each call was made.
    public var counts: [FaultPlan.Call: Int] { world.withLock { $0.counts } }
    /// How many calls that change something were made: the numbers worth stopping at.
    public var changeCount: Int { counts.filter { FaultPlan.Call.changes.contains($0.key) }.values.reduce(0, +) }
    public var usedBytes: UInt64 { world.withLock { UInt64($0.usedPages * SimulatedContent.pageBytes) } }

    /// How often the cache of a file was dropped, by the path that it was opened by.
    public var cacheDrops: [String: Int] { world.withLock { $0.cacheDrops } }

    /// From now on keeps a line for each call, for the report of a failed test.
    public func trace() { world.withLock { $0.isTraced = true } }
    public var history: [String] { world.withLock { $0.history } }

    /// The file system that a new start finds when the power goes now. All later calls on this one fail.
    public func afterPowerCut(_ survival: Survival) -> SimulatedFileSystem {
        let next = world.withLock { world in
            world.isStopped = true
            return world.afterPowerCut(survival)
        }
        return SimulatedFileSystem(world: next)
    }

    /// A copy of what is there now, as if all of it were durable: to begin many runs at one state. This one goes on.
    public func duplicate() -> SimulatedFileSystem {
        SimulatedFileSystem(world: world.withLock { $0.afterPowerCut(.everything) })
    }

    // MARK: FileSystem

    public func open(_ path: String, _ mode: OpenMode) throws(SystemError) -> any StorageFile {
        let (node, alignment) = try perform(mode.creation == .never ? .look : .create, path) {
            world throws(SystemError) in
            (try world.open(path, mode), mode.direct ? world.directAlignment : 1)
        }
        return SimulatedFile(self, node: node, path: path, isWritable: mode.writable, alignment: alignment)
    }

    public func rename(_ source: String, to target: String) throws(SystemError) {
        try rename(source, to: target, replaces: true)
    }

    public func renameExclusively(_ source: String, to target: String) throws(SystemError) {
        try rename(source, to: target, replaces: false)
    }

    private func rename(_ source: String, to target: String, replaces: Bool) throws(SystemError) {
        try perform(.rename, "\(source) to \(target)") { world throws(SystemError) in
            let subject = "\(source) to \(target)"
            let node = try world.require(source, "rename")
            let from = try world.place(source, "rename")
            let to = try world.place(target, "rename")
            let replaced = world.folder(to.folder)?.live[to.name]
            if replaced != nil, !replaces {
                throw SystemError(errno: .fileExists, operation: "rename", subject: subject)
            }
            if let replaced, replaced != node {
                switch (world.folder(node), world.folder(replaced)) {
                case (nil, .some): throw SystemError(errno: .isDirectory, operation: "rename", subject: subject)
                case (.some, nil): throw SystemError(errno: .notDirectory, operation: "rename", subject: subject)
                case (.some, .some(let folder)) where !folder.live.isEmpty:
                    throw SystemError(errno: .directoryNotEmpty, operation: "rename", subject: subject)
                default: break
                }
            }
            let stops = try world.enterWhole(.rename, subject)
            if replaced != node {
                world.edit([
                    .init(folder: from.folder, name: from.name, node: nil),
                    .init(folder: to.folder, name: to.name, node: node),
                ])
                if let replaced { world.releaseSpace(of: replaced) }
            }
            try world.leave(stops, .rename, subject)
        }
    }

    public func remove(_ path: String) throws(SystemError) { try remove(path, .remove) }
    public func removeFolder(_ path: String) throws(SystemError) { try remove(path, .removeFolder) }

    private func remove(_ path: String, _ call: FaultPlan.Call) throws(SystemError) {
        try perform(call, path) { world throws(SystemError) in
            let node = try world.require(path, call.rawValue)
            let place = try world.place(path, call.rawValue)
            switch (world.folder(node), call) {
            case (.some(let folder), .removeFolder):
                guard folder.live.isEmpty else {
                    throw SystemError(errno: .directoryNotEmpty, operation: "remove folder", subject: path)
                }
            case (.some, _): throw SystemError(errno: .isDirectory, operation: "remove", subject: path)
            case (nil, .removeFolder):
                throw SystemError(errno: .notDirectory, operation: "remove folder", subject: path)
            case (nil, _): break
            }
            let stops = try world.enterWhole(call, path)
            world.edit([.init(folder: place.folder, name: place.name, node: nil)])
            world.releaseSpace(of: node)
            try world.leave(stops, call, path)
        }
    }

    public func synchronizeFolder(_ path: String) throws(SystemError) {
        try perform(.synchronizeFolder, path) { world throws(SystemError) in
            let node = try world.require(path, "synchronize folder")
            guard world.folder(node) != nil else {
                throw SystemError(errno: .notDirectory, operation: "synchronize folder", subject: path)
            }
            let stops = try world.enterWhole(.synchronizeFolder, path)
            try world.leave(stops, .synchronizeFolder, path)
            world.makeNamesDurable(node)
        }
    }

    public func createFolder(_ path: String) throws(SystemError) {
        try perform(.createFolder, path) { world throws(SystemError) in
            guard try world.find(path, "create folder") == nil else {
                throw SystemError(errno: .fileExists, operation: "create folder", subject: path)
            }
            let place = try world.place(path, "create folder")
            let stops = try world.enterWhole(.createFolder, path)
            let node = world.add(.folder(.init()))
            world.edit([.init(folder: place.folder, name: place.name, node: node)])
            try world.leave(stops, .createFolder, path)
        }
    }

    public func exists(_ path: String) throws(SystemError) -> Bool {
        try perform(.look, path) { world throws(SystemError) in try world.find(path, "examine") != nil }
    }

    public func isFolder(_ path: String) throws(SystemError) -> Bool {
        try perform(.look, path) { world throws(SystemError) in
            guard let node = try world.find(path, "examine") else { return false }
            return world.folder(node) != nil
        }
    }

    public func list(_ path: String) throws(SystemError) -> [String] {
        try perform(.look, path) { world throws(SystemError) in
            guard let folder = world.folder(try world.require(path, "list")) else {
                throw SystemError(errno: .notDirectory, operation: "list", subject: path)
            }
            return folder.live.keys.sorted()
        }
    }

    public func space(at path: String) throws(SystemError) -> SpaceInfo {
        try perform(.look, path) { world throws(SystemError) in
            _ = try world.require(path, "examine the file system of")
            let total = world.capacityPages ?? 1 << 38
            let unit = UInt64(SimulatedContent.pageBytes)
            return SpaceInfo(
                freeBytes: UInt64(max(0, total - world.usedPages)) * unit, totalBytes: UInt64(total) * unit,
                typeMagic: 0x0102_1994)
        }
    }

    /// Waits where an observer lets others go on, else for other threads, but not for ever: a test that waits for
    /// itself fails with EDEADLK.
    public func lock(_ path: String, wait: Bool) throws(SystemError) -> (any HeldLock)? {
        let deadline = SystemTime().monotonic() + Self.lockWaitNanoseconds
        while true {
            let lease = try perform(.look, path) { world throws(SystemError) in
                let node = try world.open(path, OpenMode(writable: true, creation: .ifMissing), countsHandle: false)
                return world.takeLease(of: node, .exclusive) ? node : nil
            }
            if let lease { return SimulatedLease(self, node: lease, .exclusive) }
            guard wait else { return nil }
            if let waiting = watch.withLock({ $0 }).waiting {
                waiting()
                continue
            }
            guard SystemTime().monotonic() < deadline else {
                throw SystemError(errno: .deadlock, operation: "lock", subject: path)
            }
            pauseThread(nanoseconds: 1_000_000)
        }
    }

    private static let lockWaitNanoseconds: UInt64 = 5_000_000_000

    public func lease(_ path: String, _ kind: LeaseKind) throws(SystemError) -> LeaseAnswer {
        if let lease = try takeLease(path, kind) { return .held(lease) }
        return .refused([NamedProcess(process: 1, name: "simulated")])
    }

    /// A folder's node has no other lease.
    public func claim(_ folder: String) throws(SystemError) -> (any HeldClaim)? { try takeLease(folder, .exclusive) }

    private func takeLease(_ path: String, _ kind: LeaseKind) throws(SystemError) -> SimulatedLease? {
        let node = try perform(.look, path) { world throws(SystemError) in
            let node = try world.require(path, "lease")
            return world.takeLease(of: node, kind) ? node : nil
        }
        return node.map { SimulatedLease(self, node: $0, kind) }
    }

    public func identity(of path: String) throws(SystemError) -> FileIdentity? {
        try world.withLock { world throws(SystemError) in
            try world.find(path, "examine").map { FileIdentity(device: 0, inode: UInt64($0)) }
        }
    }

    public func resolve(_ path: String) throws(SystemError) -> String {
        try world.withLock { world throws(SystemError) in _ = try world.require(path, "resolve") }
        return "/" + SimulatedWorld.components(path).joined(separator: "/")
    }
}

private final class SimulatedLease: HeldClaim {
    private let owner: SimulatedFileSystem
    private let node: Int
    private let kind: LeaseKind
    var file: FileIdentity { FileIdentity(device: 0, inode: UInt64(node)) }
    init(_ owner: SimulatedFileSystem, node: Int, _ kind: LeaseKind) {
        self.owner = owner
        self.node = node
        self.kind = kind
    }
    func has(_ name: String) throws(SystemError) -> Bool {
        try owner.world.withLock { world throws(SystemError) in
            try world.requirePower("examine", name)
            return world.folder(node)?.live[name] != nil
        }
    }
    deinit { owner.world.withLock { world in world.endLease(of: node, kind) } }
}

extension SimulatedWorld {
    mutating func open(_ path: String, _ mode: OpenMode, countsHandle: Bool = true) throws(SystemError) -> Int {
        if let node = try find(path, "open") {
            guard mode.creation != .exclusive else {
                throw SystemError(errno: .fileExists, operation: "open", subject: path)
            }
            guard folder(node) == nil else { throw SystemError(errno: .isDirectory, operation: "open", subject: path) }
            if countsHandle { withFile(node) { $0.handles += 1 } }
            if mode.creation == .replace, file(node).live.size > 0 {
                let stops = try enterWhole(.truncate, path)
                change(node, .truncate(0))
                try leave(stops, .truncate, path)
            }
            return node
        }
        guard mode.creation != .never else {
            throw SystemError(errno: .noSuchFileOrDirectory, operation: "open", subject: path)
        }
        let place = try place(path, "open")
        let stops = try enterWhole(.create, path)
        let node = add(.file(File()))
        edit([.init(folder: place.folder, name: place.name, node: node)])
        if countsHandle { withFile(node) { $0.handles += 1 } }
        try leave(stops, .create, path)
        return node
    }
}
