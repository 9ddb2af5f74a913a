internal import Geometry

/// Names of files in a disk's folder. What a descriptor or a list says is somebody's text until it has passed here.
extension DiskDescriptor {
    /// In the folder of a disk that was closed while its descriptor was not the one that was served: the right one.
    public static let servedName = fileName + ".served"

    /// What a folder has for other things than images.
    private static let reserved: [String] = {
        let names =
            [fileName, servedName, fileName + ".lck", fileName + ".migrated", fileName + ".partial"] + [
                "godwit.lock", "godwit.leftovers", "godwit-marks.json", "godwit-backup.lock", "godwit-migrated.json",
                "godwit-migrated.json.pending", "godwit-migration.json", "godwit-migration.lock",
                "godwit-migration.tree", "godwit-migration.probe", "godwit-incoming.json", "godwit-arrived.json",
            ]
        return names + names.map { $0 + ".tmp" }
    }()

    /// Whether `name` stays in the folder and can be an image's.
    public static func isPlainName(_ name: String) -> Bool {
        !name.isEmpty && name != "." && name != ".." && name.utf8.count <= 255 && !reserved.hasSame(as: name)
            && !name.utf8.contains { $0 == UInt8(ascii: "/") || isControl($0) }
    }

    /// Whether `name` is one that a snapshot's file gets from us and from ploop's tools: a plain name that ends in a
    /// dot and a GUID.
    public static func isDeltaName(_ name: String) -> Bool {
        guard isPlainName(name), name.utf8.count > 39 else { return false }
        return GUID(name.suffix(38)) != nil && name.dropLast(38).ends(with: ".")
    }

    /// Each image has a file of its own, and its name is one line.
    func checkNames(at offset: Int) throws(ImageError) {
        var seen: Set<PathKey> = []
        for image in images {
            guard !image.file.utf8.contains(where: Self.isControl) else {
                throw ImageError(.corrupt, "the file name of image \(image.guid) has control characters", at: offset)
            }
            guard seen.insert(PathKey(image.file)).inserted else {
                throw ImageError(
                    .corrupt, "two images are kept in one file, \"\(Self.quoted(image.file))\"", at: offset)
            }
        }
    }

    private static func isControl(_ byte: UInt8) -> Bool { byte < 32 || byte == 127 }

    /// Text from the document for a message: short and printable.
    static func quoted(_ text: String) -> String {
        String(text.unicodeScalars.prefix(40).map { $0.value < 32 || $0.value == 127 ? "?" : Character($0) })
    }
}
