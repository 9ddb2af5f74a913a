internal import BlockIO
internal import Codecs
internal import Geometry
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// One writer's unfinished files: they carry the session's name, which is locked as long as the writer lives.
final class WriteSession: Sendable {
    /// A session whose writer lives no more. Nobody else takes it while this is held.
    final class Left: Sendable {
        /// Its files, sorted; the lock's not among them.
        let files: [String]
        private let lockPath: String
        private let lock: any HeldLock
        private let fs: any FileSystem

        init(files: [String], lockPath: String, lock: any HeldLock, _ fs: any FileSystem) {
            self.files = files
            self.lockPath = lockPath
            self.lock = lock
            self.fs = fs
        }

        /// Removes what is still there of it.
        func remove() throws(StoreError) {
            try storing { () throws(SystemError) in
                for path in files where try fs.exists(path) { try fs.remove(path) }
                try fs.remove(lockPath)
            }
        }
    }

    private let folder: String
    private let name: String
    private let fs: any FileSystem
    private struct State {
        var lock: (any HeldLock)?
        var next = 0
    }
    private let state: Mutex<State>
    /// What writers left that live no more; the last file of a session goes with ``Left/remove()``.
    let left: [Left]

    /// The digits of a session's name, of which the first say on which host it was begun.
    private static let nameDigits = 16
    private static let hostDigits = 6

    /// Begins a session.
    init(in folder: String, _ fs: any FileSystem) throws(StoreError) {
        self.folder = folder
        self.fs = fs
        let host = Self.host
        name = host + randomBytes((Self.nameDigits - host.utf8.count) / 2).map(Self.hex).joined()
        let path = "\(folder)/\(name).lock"
        let lock: (any HeldLock)?
        do throws(SystemError) {
            // Under this lock nobody mistakes a session that is just beginning for a dead one.
            let sessions = try fs.lock("\(folder)/sessions", wait: true)
            left = try Self.leftBehind(folder, fs)
            lock = try fs.lock(path, wait: false)
            _ = sessions
        } catch { throw StoreError(error) }
        guard let lock else { throw StoreError(.io, "cannot lock \(path)") }
        state = Mutex(State(lock: lock))
    }

    private static func hex(_ byte: UInt8) -> String {
        let text = String(byte, radix: 16)
        return text.count == 1 ? "0" + text : text
    }

    /// Digits that stand for this host.
    private static let host: String = {
        // Copies of one system have one machine-id.
        let texts = ["/etc/machine-id", "/proc/sys/kernel/hostname"].map { ((try? kernelText($0)) ?? nil) ?? "" }
        return String(Digest.hash(Array(texts.joined(separator: "\n").utf8)).description.prefix(hostDigits))
    }()

    /// The session that a file in `tmp` belongs to; `nil` for one that no session makes. What else is there is not
    /// ours, and stays.
    static func session(of file: String) -> Substring? {
        let parts = file.parts(between: ".", keepsEmpty: true)
        guard let name = parts.first, name.utf8.count == nameDigits,
            name.utf8.allSatisfy({ (48...57).contains($0) || (97...102).contains($0) })
        else { return nil }
        func isNumber(_ text: Substring) -> Bool {
            !text.isEmpty && text.utf8.allSatisfy { (48...57).contains($0) }
        }
        switch parts.count {
        case 2: return parts[1] == "lock" || isNumber(parts[1]) ? name : nil
        case 3: return isNumber(parts[1]) && parts[2] == PartialPack.suffix ? name : nil
        default: return nil
        }
    }

    private static func leftBehind(_ folder: String, _ fs: any FileSystem) throws(SystemError) -> [Left] {
        var files: [Substring: [String]] = [:]
        let names = try fs.list(folder)
        // Over a network another host's lock may not be seen here; then only this host's own are touched.
        let isShared = !localTypes.contains(try fs.space(at: folder).typeMagic)
        for name in names {
            guard let session = session(of: name), !isShared || session.begins(with: host) else { continue }
            files[session, default: []].append("\(folder)/\(name)")
        }
        var left: [Left] = []
        for (session, paths) in files.sorted(by: { $0.key < $1.key }) {
            let path = "\(folder)/\(session).lock"
            var folders = false
            for path in paths where try fs.isFolder(path) { folders = true }
            guard !folders, let lock = try fs.lock(path, wait: false) else { continue }
            left.append(Left(files: paths.filter { $0 != path }.sorted(), lockPath: path, lock: lock, fs))
        }
        return left
    }

    /// Types of file systems of which one host has the locks, and knows them all: ext, XFS, btrfs, tmpfs and ramfs,
    /// overlayfs, ZFS, F2FS, bcachefs, JFS, NILFS, ReiserFS, FAT, exFAT, NTFS. Of all others (NFS, SMB, 9p, FUSE,
    /// clusters) another host's lock may not be seen here.
    private static let localTypes: Set<UInt64> = [
        0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x8584_58f6, 0x794c_7630, 0x2fc1_2fc1, 0xf2f5_2010,
        0xca45_1a4e, 0x3153_464a, 0x3434, 0x5265_4973, 0x4d44, 0x2011_bab0, 0x7366_746e,
    ]

    /// A path for a new file.
    func nextPath() throws(StoreError) -> String {
        let number = state.withLock { state -> Int? in
            guard state.lock != nil else { return nil }
            state.next += 1
            return state.next
        }
        guard let number else { throw StoreError(.invalid, "the store was closed") }
        return "\(folder)/\(name).\(number)"
    }

    /// Files that are still there are taken up by the next writer.
    func end() {
        let lock = state.withLock { state in
            defer { state.lock = nil }
            return state.lock
        }
        // What can't be removed now is removed by the next writer.
        if lock != nil { try? fs.remove("\(folder)/\(name).lock") }
    }

    deinit { end() }
}
