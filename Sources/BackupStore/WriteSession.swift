internal import BlockIO
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

/// One writer's unfinished files: they carry the session's name, which is locked as long as the writer lives.
final class WriteSession: Sendable {
    private let folder: String
    private let name: String
    private let fs: any FileSystem
    private struct State {
        var lock: (any HeldLock)?
        var next = 0
    }
    private let state: Mutex<State>

    /// Begins a session, and removes what sessions left that have no living holder.
    init(in folder: String, _ fs: any FileSystem) throws(StoreError) {
        self.folder = folder
        self.fs = fs
        name = randomBytes(8).map { byte in
            let hex = String(byte, radix: 16)
            return hex.count == 1 ? "0" + hex : hex
        }.joined()
        let path = "\(folder)/\(name).lock"
        let lock: (any HeldLock)?
        do throws(SystemError) {
            // Under this lock nobody mistakes a session that is just beginning for a dead one.
            let sessions = try fs.lock("\(folder)/sessions", wait: true)
            try Self.clean(folder, fs)
            lock = try fs.lock(path, wait: false)
            _ = sessions
        } catch { throw StoreError(error) }
        guard let lock else { throw StoreError(.io, "cannot lock \(path)") }
        state = Mutex(State(lock: lock))
    }

    private static func clean(_ folder: String, _ fs: any FileSystem) throws(SystemError) {
        let names = try fs.list(folder).filter { $0 != "sessions" }
        for session in Set(names.compactMap { $0.split(separator: ".").first }) {
            let path = "\(folder)/\(session).lock"
            let hasLock = names.contains("\(session).lock")
            let lock = hasLock ? try fs.lock(path, wait: false) : nil
            if hasLock, lock == nil { continue }
            for name in names where name.hasPrefix("\(session).") && name != "\(session).lock" {
                try fs.remove("\(folder)/\(name)")
            }
            if hasLock { try fs.remove(path) }
            _ = lock
        }
    }

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
