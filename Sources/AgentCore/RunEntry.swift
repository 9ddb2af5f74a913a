internal import BlockIO
internal import Codecs
internal import FoundationEssentials
internal import Geometry
internal import LinuxSystem
internal import SystemPackage

/// The run-time files of one disk: `RUN/<first 16 hex digits of the path's SHA-256>/…`.
struct RunEntry: Sendable {
    let runFolder: String
    let name: String
    private static let recordBytesMax = 64 << 10
    private static let lockNanoseconds: UInt64 = 20_000_000_000
    private static let lockStepMilliseconds = 20

    /// - Parameter disk: absolute, without symbolic links.
    init(runFolder: String, disk: String) {
        self.runFolder = runFolder
        name = String(Digest.hash([UInt8](disk.utf8)).description.prefix(16))
    }

    /// The entry of that name in the folder.
    private init(runFolder: String, name: String) {
        self.runFolder = runFolder
        self.name = name
    }

    var folder: String { "\(runFolder)/\(name)" }
    var controlSocket: String { "\(folder)/control.sock" }
    var nbdSocket: String { "\(folder)/nbd.sock" }
    var serverLog: String { "\(folder)/server.log" }
    var fuseLog: String { "\(folder)/nbdfuse.log" }
    /// Where nbdfuse mounts its one file.
    var fuseFolder: String { "\(folder)/fuse" }
    var fuseFile: String { "\(fuseFolder)/disk" }
    private var record: String { "\(folder)/attach.json" }

    static func all(in runFolder: String) throws(AgentError) -> [RunEntry] {
        try withRunFolder { () throws(SystemError) in
            guard try LinuxFileSystem().exists(runFolder) else { return [] }
            return try LinuxFileSystem().list(runFolder).filter { $0.utf8.count == 16 }
                .map { RunEntry(runFolder: runFolder, name: $0) }
        }
    }

    /// Excludes all others from this disk's attachment; makes the run folder when it isn't there.
    /// - Throws: `.busy` when another command has it for long, or somebody asks this process to stop.
    func lock() throws(AgentError) -> RunLock {
        let path = "\(runFolder)/\(name).lock"
        try withRunFolder { () throws(SystemError) in try createPrivateFolder(runFolder) }
        let deadline = SystemTime().monotonic() + Self.lockNanoseconds
        let stop = StopRequest.isMade ? -1 : StopRequest.descriptor
        while true {
            let held = try withRunFolder { () throws(SystemError) in try LinuxFileSystem().lock(path, wait: false) }
            if let held { return RunLock(held: held, path: path) }
            // flock(2) has no time limit.
            var entries = [PollEntry(stop, .readable)]
            let isStopped = try withRunFolder { () throws(SystemError) in
                try pollDescriptors(&entries, deadlineMilliseconds: Self.lockStepMilliseconds) > 0
            }
            guard !isStopped, SystemTime().monotonic() < deadline else {
                throw AgentError(
                    .busy, "another godwit command works on this disk (it holds \(path)): retry when it has ended")
            }
        }
    }

    func create() throws(AgentError) {
        // sun_path has room for 107 bytes.
        guard controlSocket.utf8.count < 108 else {
            throw AgentError(
                .invalid, "\(controlSocket) is too long for a socket: set GODWIT_RUN_DIR to a shorter path")
        }
        try withRunFolder { () throws(SystemError) in
            try createPrivateFolder(runFolder)
            try createPrivateFolder(folder)
        }
    }

    func load() throws(AgentError) -> AttachedDisk? {
        let bytes: [UInt8]? = try withRunFolder { () throws(SystemError) in
            guard try LinuxFileSystem().exists(record) else { return nil }
            return try LinuxFileSystem().contents(of: record, limit: Self.recordBytesMax)
        }
        guard let bytes else { return nil }
        do {
            return try JSONDecoder().decode(AttachedDisk.self, from: Data(bytes))
        } catch {
            throw AgentError(.io, "\(record) is damaged: remove \(folder) once nothing in it is mounted (\(error))")
        }
    }

    func store(_ attached: AttachedDisk) throws(AgentError) {
        let bytes: [UInt8]
        do {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
            bytes = [UInt8](try encoder.encode(attached))
        } catch {
            throw AgentError(.io, "cannot encode \(record): \(error)")
        }
        try withRunFolder { () throws(SystemError) in try LinuxFileSystem().replaceContents(of: record, with: bytes) }
    }

    /// Removes the folder and what is in it; nothing may be mounted below.
    func remove() {
        let files = LinuxFileSystem()
        try? files.removeFolder(fuseFolder)
        for name in (try? files.list(folder)) ?? [] { try? files.remove("\(folder)/\(name)") }
        try? files.removeFolder(folder)
    }

    /// The last lines of a log, for an error message.
    static func tail(_ log: String) -> String {
        let text = (try? kernelText(log)).flatMap { $0 } ?? ""
        return text.parts(between: "\n").suffix(3).joined(separator: "; ")
    }
}

/// Held while a disk's attachment changes. Its file goes with it.
final class RunLock: Sendable {
    private let held: any HeldLock
    private let path: String

    init(held: any HeldLock, path: String) {
        self.held = held
        self.path = path
    }

    // Removed while still locked: who waits finds it gone and makes a new one.
    deinit { try? LinuxFileSystem().remove(path) }
}

/// Runs `body` on the run folder; a user without rights in it is told of another one.
private func withRunFolder<R: ~Copyable>(_ body: () throws(SystemError) -> R) throws(AgentError) -> R {
    do throws(AgentError) { return try withAgentError(body) } catch {
        guard error.code == .permission else { throw error }
        throw AgentError(
            .permission, "\(error.message): become root, or set GODWIT_RUN_DIR to a folder of this user's")
    }
}
