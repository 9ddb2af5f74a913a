internal import Geometry

/// The descriptor of a disk, `DiskDescriptor.xml`: its files and the tree of its frozen states.
///
/// A state is named by a GUID; the image of that GUID holds what changed since the parent state. What other software
/// put into the document survives a rewrite in its place. A value exists only if the tree is whole: every image has a
/// shot, every shot a parent or ``GUID/none``, there are no circles, and the top is among them.
public struct DiskDescriptor: Hashable, Sendable {
    public static let fileName = "DiskDescriptor.xml"
    public static let byteCountMax = XMLDocument.bytesMax
    /// Deltas in a chain for which ploop's tools still take a snapshot.
    public static let chainLengthMax = 127

    public enum ImageKind: String, Hashable, Sendable {
        /// A ploop image.
        case expandable = "Compressed"
        /// The plain content of the device; only a base is.
        case raw = "Plain"
    }

    public struct Image: Hashable, Sendable {
        public internal(set) var guid: GUID
        public internal(set) var kind: ImageKind
        /// Relative to the descriptor's folder, or absolute.
        public internal(set) var file: String

        /// The file's name by its bytes.
        public static func == (a: Image, b: Image) -> Bool {
            a.guid == b.guid && a.kind == b.kind && a.file.isSame(as: b.file)
        }
        public func hash(into hasher: inout Hasher) {
            hasher.combine(guid)
            hasher.combine(kind)
            hasher.combine(PathKey(file))
        }
    }

    public struct Shot: Hashable, Sendable {
        public internal(set) var guid: GUID
        public internal(set) var parent: GUID
        /// To be merged away as soon as nobody needs it.
        public internal(set) var isTemporary: Bool
    }

    /// Size of the device in sectors; 0 when the document does not say. The top image knows better.
    public internal(set) var sectorCount: UInt64
    /// The cluster in sectors; also of a raw base.
    public let clusterSectors: UInt32
    public let isPreallocated: Bool
    /// In the order of the document.
    public internal(set) var images: [Image]
    /// In the order of the document.
    public internal(set) var shots: [Shot]
    /// The writable state.
    public internal(set) var top: GUID

    var document: XMLDocument

    /// Whether the base is a raw file.
    public var hasRawBase: Bool { images.contains { $0.kind == .raw } }
    public func image(_ guid: GUID) -> Image? { images.first { $0.guid == guid } }
    public func shot(_ guid: GUID) -> Shot? { shots.first { $0.guid == guid } }
    public func children(of guid: GUID) -> [GUID] { shots.filter { $0.parent == guid }.map(\.guid) }

    /// The images that make up a state, base first.
    /// - Throws: `.invalid` when there is no such state.
    public func chain(to guid: GUID) throws(ImageError) -> [Image] {
        guard image(guid) != nil else { throw ImageError(.invalid, "the disk has no snapshot \(guid)") }
        let byGUID = Dictionary(images.map { ($0.guid, $0) }, uniquingKeysWith: { first, _ in first })
        let parents = Dictionary(shots.map { ($0.guid, $0.parent) }, uniquingKeysWith: { first, _ in first })
        var chain: [Image] = []
        var next = guid
        while next != .none, let image = byGUID[next], let parent = parents[next], chain.count < images.count {
            chain.append(image)
            next = parent
        }
        return chain.reversed()
    }

    /// The kind of an image's file, which is not always what its own element says: in a disk with a raw base, ploop's
    /// tools call every image plain.
    public func kind(of guid: GUID) -> ImageKind {
        hasRawBase && shot(guid)?.parent == GUID.none ? .raw : .expandable
    }

    /// The file's whole content: what ploop's tools write, plus what was unknown.
    public func encode() -> [UInt8] { document.encode() }

    /// The descriptor of a new disk with one image.
    public init(
        sectorCount: UInt64, cylinders: UInt32, heads: UInt32, clusterSectors: UInt32, file: String,
        kind: ImageKind = .expandable, isPreallocated: Bool = false
    ) {
        self.sectorCount = sectorCount
        self.clusterSectors = clusterSectors
        self.isPreallocated = isPreallocated
        images = [Image(guid: .top, kind: kind, file: file)]
        shots = [Shot(guid: .top, parent: .none, isTemporary: false)]
        top = .top
        let perTrack = UInt64(cylinders) * UInt64(heads)
        let parameters = XMLElement(
            "Disk_Parameters",
            [
                XMLElement("Disk_size", text: "\(sectorCount)"), XMLElement("Cylinders", text: "\(cylinders)"),
                XMLElement("Heads", text: "\(heads)"),
                XMLElement("Sectors", text: "\(perTrack == 0 ? 0 : sectorCount / perTrack)"),
                XMLElement("Padding", text: "0"),
            ])
        var storage = [
            XMLElement("Start", text: "0"), XMLElement("End", text: "\(sectorCount)"),
            XMLElement("Blocksize", text: "\(clusterSectors)"),
        ]
        if isPreallocated { storage.append(XMLElement("Preallocated", text: "1")) }
        storage.append(Self.element(images[0]))
        document = XMLDocument(
            root: XMLElement(
                "Parallels_disk_image",
                [
                    parameters, XMLElement("StorageData", [XMLElement("Storage", storage)]),
                    XMLElement(
                        "Snapshots", [XMLElement("TopGUID", text: GUID.top.description), Self.element(shots[0])]),
                ]))
    }

    static func element(_ image: Image) -> XMLElement {
        XMLElement(
            "Image",
            [
                XMLElement("GUID", text: image.guid.description), XMLElement("Type", text: image.kind.rawValue),
                XMLElement("File", text: image.file),
            ])
    }

    static func element(_ shot: Shot) -> XMLElement {
        var children = [
            XMLElement("GUID", text: shot.guid.description), XMLElement("ParentGUID", text: shot.parent.description),
        ]
        if shot.isTemporary { children.append(XMLElement("Temporary")) }
        return XMLElement("Shot", children)
    }
}
