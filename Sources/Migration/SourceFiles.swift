internal import BlockIO
internal import DiskImage
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// Which of the files in a disk's folder are the disk's: what its descriptor names, and what this program puts beside
/// it. Anything else is somebody else's.
struct SourceFiles {
    private let images: [String]
    /// Tell which images there are, so they go after those.
    private static let descriptors = [MigrationFiles.descriptor, MigrationFiles.descriptorMigrated]
    private static let beside = [
        MigrationFiles.outgoing, MigrationFiles.migrated, MigrationFiles.migratedPending, MigrationFiles.incoming,
        MigrationFiles.arrived, MigrationFiles.tree, MigrationFiles.lock, MigrationFiles.probe,
        DiskFolder.ownerLockName, "godwit.leftovers", "godwit-marks.json", "godwit-backup.lock",
        MigrationFiles.descriptor + ".lck", DiskDescriptor.servedName,
    ]

    /// Reads what the folder's descriptor names; a descriptor that can't be read names nothing.
    init(in folder: String, fs: any FileSystem) {
        var images: [String] = []
        for name in Self.descriptors {
            guard let bytes = try? fs.contents(of: "\(folder)/\(name)", limit: DiskDescriptor.byteCountMax),
                let descriptor = try? DiskDescriptor(parsing: bytes)
            else { continue }
            // One elsewhere may be another disk's, too.
            images += descriptor.images.map(\.file).filter { !PathText.hasSlash($0) }
        }
        self.images = images
    }

    func isOurs(_ name: String) -> Bool {
        let whole = name.rest(before: ".tmp").map(String.init) ?? name
        return images.hasSame(as: name) || Self.descriptors.hasSame(as: whole)
            || Self.beside.hasSame(as: whole)
    }

    /// Those that tell what the others are come last, so that it can be gone on with after an interruption.
    func inOrderOfRemoval(_ names: [String]) -> [String] {
        names.filter { !Self.descriptors.hasSame(as: $0) } + names.filter { Self.descriptors.hasSame(as: $0) }
    }
}
