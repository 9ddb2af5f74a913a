public import BlockIO
internal import Codecs
internal import Geometry
internal import LinuxSystem
public import Migration
internal import SystemPackage

/// The disks of this host whose migration, away from here or to here, is not over: a file for each, named after the
/// disk's path, which is in it. Outlives a start of the host. Noted before anything is done, forgotten at the end, so a
/// name too many is harmless.
public struct MigrationRegister: Sendable {
    private let folder: String
    private let fs: any FileSystem
    private static let pathBytesMax = 8 << 10

    /// - Parameter folder: `nil` means `$GODWIT_STATE_DIR`/migrations, or /var/lib/godwit/migrations.
    public init(folder: String? = nil, fs: any FileSystem = LinuxFileSystem()) {
        self.folder = folder ?? "\(environmentVariable("GODWIT_STATE_DIR") ?? "/var/lib/godwit")/migrations"
        self.fs = fs
    }

    /// What can't be noted, as by a user without rights, is only not found by itself.
    func note(_ disk: String) {
        do throws(SystemError) {
            for parent in [LinuxFileSystem.folder(of: folder), folder] where try !fs.exists(parent) {
                try createPrivateFolder(parent)
            }
            try fs.replaceContents(of: path(of: disk), with: [UInt8](disk.utf8) + [10])
        } catch {}
    }

    func forget(_ disk: String) { try? fs.remove(path(of: disk)) }

    struct Noted {
        /// The disks' paths, each once.
        var disks: [String] = []
        /// Of notes that can't be read: they keep nobody from the others.
        var failures: [SystemError] = []
    }

    func all() throws(SystemError) -> Noted {
        var noted = Noted()
        guard try fs.exists(folder) else { return noted }
        for name in try fs.list(folder) where !name.ends(with: ".tmp") {
            do throws(SystemError) {
                let bytes = try fs.contents(of: "\(folder)/\(name)", limit: Self.pathBytesMax)
                guard let disk = String(validating: bytes.prefix { $0 != 10 }, as: UTF8.self),
                    PathText.isAbsolute(disk), !noted.disks.hasSame(as: disk)
                else { continue }
                noted.disks.append(disk)
            } catch {
                noted.failures.append(error)
            }
        }
        return noted
    }

    private func path(of disk: String) -> String {
        "\(folder)/\(Digest.hash([UInt8](disk.utf8)).description.prefix(16))"
    }
}

/// What is to be finished on this host.
public struct UnfinishedMigrations: Sendable {
    /// Sorted; also those that can't be looked at, whose recovery then says why.
    public var disks: [String]
    /// What is wrong with notes that can't be read.
    public var failures: [MigrationError]
}
