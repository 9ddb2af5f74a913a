import BlockIO
import LinuxSystem
import SystemPackage

/// A new folder that goes, with all in it, when its owner does.
public final class TemporaryFolder: Sendable {
    public let path: String
    private let fileSystem = LinuxFileSystem()

    /// - Parameter parent: where to make it; `TMPDIR`, or `/tmp`, unless told.
    public init(in parent: String? = nil) throws {
        let parent = parent ?? environmentVariable("TMPDIR") ?? "/tmp"
        let name = randomBytes(8).map { String($0, radix: 16) }.joined()
        path = "\(parent)/godwit-test-\(name)"
        try fileSystem.createFolder(path)
    }

    deinit { removeTree(path) }

    /// The path of `name` in it.
    public func file(_ name: String) -> String { "\(path)/\(name)" }

    // What a test left unreadable or mounted stays behind: a destructor can't report it.
    private func removeTree(_ path: String) {
        for name in (try? fileSystem.list(path)) ?? [] {
            let child = "\(path)/\(name)"
            if (try? fileSystem.remove(child)) == nil { removeTree(child) }
        }
        try? fileSystem.removeFolder(path)
    }
}
