internal import BlockIO
internal import DeviceControl
internal import Geometry
internal import LinuxSystem

/// The right to change a file of a disk that lies below its top: nobody reads it who relies on what it holds, in this
/// process or another. Whatever writes there, shortens or removes it takes this as a proof.
///
/// Readers of a frozen state hold shared leases (``SharedLeases``), so a change and a reader exclude each other for as
/// long as either lasts; the kernel ends a lease with its process.
public struct ExclusiveLease: ~Copyable, Sendable {
    let path: String
    private let fs: any FileSystem
    private var held: (any HeldLease)?
    /// When it was taken, on the monotonic clock.
    private var since: UInt64

    private init(path: String, fs: any FileSystem, held: (any HeldLease)?) {
        self.path = path
        self.fs = fs
        self.held = held
        since = SystemTime().monotonic()
    }

    /// - Parameter ownTop: of the device of the driver whose owner asks: that device reads the file, and may.
    /// - Throws: `.busy`, naming who reads it.
    static func take(
        _ path: String, in fs: any FileSystem, ownTop: String? = nil
    ) throws(DiskError) -> ExclusiveLease {
        switch try withPath(path, { () throws(SystemError) in try fs.lease(path, .exclusive) }) {
        case .held(let lease):
            try refuseIfRead(path, by: ownTop, in: fs)
            return ExclusiveLease(path: path, fs: fs, held: lease)
        case .refused(let holders): throw isRead(path, holders.list)
        }
    }

    /// - Returns: `nil` while somebody reads it.
    static func takeIfFree(_ path: String, in fs: any FileSystem) throws(DiskError) -> ExclusiveLease? {
        do throws(DiskError) { return try take(path, in: fs) } catch {
            guard error.code == .busy else { throw error }
            return nil
        }
    }

    /// For the file of a disk's top: its owner writes to it all the time, and nobody relies on what it holds.
    static func ofTop(_ path: String, in fs: any FileSystem) -> ExclusiveLease {
        ExclusiveLease(path: path, fs: fs, held: nil)
    }

    private static func isRead(_ path: String, _ reader: String) -> DiskError {
        DiskError(
            .busy,
            "\(path) is being read by \(reader), so it must not change: try again when that backup, migration, export "
                + "or read-only device has ended", path: path)
    }

    /// A device of the driver that is only read outlives the process that holds its leases.
    private static func refuseIfRead(_ path: String, by ownTop: String?, in fs: any FileSystem) throws(DiskError) {
        guard fs is LinuxFileSystem else { return }
        let stacks = try withPath(path) { () throws(SystemError) in try AttachedStack.all() }
        let other = stacks.first { stack in
            guard let top = stack.files.last, let ownTop, top.isSame(as: ownTop) else {
                return stack.files.hasSame(as: path)
            }
            return false
        }
        if let other { throw isRead(path, other.device.path) }
    }

    // MARK: Making room for readers

    private static let holdNanoseconds: UInt64 = 40_000_000
    private static let gapNanoseconds: UInt64 = 25_000_000

    /// Lets readers have the file in between, when it was held for a while: for work that can as well be done later.
    /// - Returns: whether it is held again; if not, a reader has come.
    mutating func letReadersIn() throws(SystemError) -> Bool {
        guard held != nil, SystemTime().monotonic() >= since + Self.holdNanoseconds else { return true }
        held = nil
        // Longer than a reader waits between two looks.
        let never = Monitor(())
        let _: Void? = never.wait(until: SystemTime().monotonic() + Self.gapNanoseconds) { _ in nil }
        guard case .held(let lease) = try fs.lease(path, .exclusive) else { return false }
        held = lease
        since = SystemTime().monotonic()
        return true
    }
}

/// Leases of files that are read: while they are held nobody changes what the files hold, as far as it is reached from
/// the state that is read.
struct SharedLeases: Sendable {
    private static let lookNanoseconds: UInt64 = 10_000_000
    /// How long somebody who is just changing a file is waited for, unless told otherwise.
    static let waitNanoseconds: UInt64 = 10_000_000_000

    let held: [any HeldLease]

    /// - Parameter waitNanoseconds: how long to wait for who changes one of the files.
    /// - Throws: `.busy`, naming who changes it.
    static func take(
        _ paths: [String], in fs: any FileSystem, waitNanoseconds: UInt64 = Self.waitNanoseconds
    ) throws(DiskError) -> SharedLeases {
        let deadline = SystemTime().monotonic() + waitNanoseconds
        let never = Monitor(())
        while true {
            var held: [any HeldLease] = []
            var refusal: (path: String, by: [NamedProcess])?
            for path in paths where refusal == nil {
                switch try withPath(path, { () throws(SystemError) in try fs.lease(path, .shared) }) {
                case .held(let lease): held.append(lease)
                case .refused(let holders): refusal = (path, holders)
                }
            }
            guard let refusal else { return SharedLeases(held: held) }
            // None is kept while waiting: two who wait must not wait for each other.
            held = []
            let now = SystemTime().monotonic()
            guard now < deadline else {
                throw DiskError(
                    .busy, "\(refusal.path) is being changed by \(refusal.by.list): try again when that has ended",
                    path: refusal.path)
            }
            let _: Void? = never.wait(until: min(deadline, now + Self.lookNanoseconds)) { _ in nil }
        }
    }
}

extension [NamedProcess] {
    fileprivate var list: String { isEmpty ? "another process" : map(\.description).joined(separator: ", ") }
}
