internal import Geometry

extension DiskDescriptor {
    /// Reads a descriptor as ploop's tools do, and checks that the tree of states is whole.
    /// - Throws: `.corrupt` or `.unsupported`; the offset is the position in `bytes`.
    public init(parsing bytes: [UInt8]) throws(ImageError) {
        guard !bytes.isEmpty else { throw ImageError(.truncated, "the descriptor is empty") }
        var document = try XMLDocument(parsing: bytes)
        guard let parameters = document.root.first("Disk_Parameters") else {
            throw ImageError(.notAnImage, "the descriptor has no Disk_Parameters", at: document.root.offset)
        }
        let storage = try Self.storage(of: document.root)
        guard let blockSize = storage.first("Blocksize") else {
            throw ImageError(.corrupt, "the descriptor has no Blocksize", at: storage.offset)
        }
        guard let sectors = CNumber.parse(blockSize.text), let sectors = UInt32(exactly: sectors),
            ClusterSize(sectors: sectors) != nil
        else {
            throw ImageError(
                .unsupported,
                "a Blocksize of \"\(Self.quoted(blockSize.text))\" is not a power of two from 64 to 131072",
                at: blockSize.offset)
        }
        clusterSectors = sectors
        sectorCount = parameters.first("Disk_size").flatMap { CNumber.parse($0.text) } ?? 0
        guard sectorCount <= ImageVersion.v2.sectorCountMax(clusterSectors: sectors) else {
            throw ImageError(.corrupt, "a device of \(sectorCount) sectors is too large", at: parameters.offset)
        }
        isPreallocated = try Self.preallocated(storage)
        images = try Self.images(in: storage)
        if isPreallocated, images.contains(where: { $0.kind == .raw }) {
            throw ImageError(.corrupt, "the descriptor calls the disk preallocated and raw at once", at: storage.offset)
        }
        guard let snapshots = document.root.first("Snapshots") else {
            throw ImageError(.corrupt, "the descriptor has no Snapshots", at: document.root.offset)
        }
        var shots = try Self.shots(in: snapshots)
        let stated = snapshots.first("TopGUID").map(\.text) ?? ""
        var top = GUID(stated)
        if top == nil, !stated.isEmpty {
            throw ImageError(.corrupt, "the TopGUID \"\(Self.quoted(stated))\" is no GUID", at: snapshots.offset)
        }
        if shots.count != images.count {
            // Very old disks have no shot for their only image.
            let missing = Shot(guid: top ?? .top, parent: .none, isTemporary: false)
            shots.append(missing)
            document.root.updateFirst("Snapshots") { $0.children.append(.element(Self.element(missing))) }
        }
        if top == nil {
            guard shots.contains(where: { $0.guid == .top }) else {
                throw ImageError(.corrupt, "the descriptor does not say which image is the top", at: snapshots.offset)
            }
            top = .top
            document.root.updateFirst("Snapshots") {
                let element = XMLElement("TopGUID", text: GUID.top.description)
                if let index = $0.indices(of: "TopGUID").first {
                    $0.children[index] = .element(element)
                } else {
                    $0.children.insert(.element(element), at: 0)
                }
            }
        }
        self.shots = shots
        self.top = top ?? .top
        self.document = document
        try checkNames(at: storage.offset)
        try checkTree(at: snapshots.offset)
    }

    private static func storage(of root: XMLElement) throws(ImageError) -> XMLElement {
        guard let data = root.first("StorageData") else {
            throw ImageError(.corrupt, "the descriptor has no StorageData", at: root.offset)
        }
        let all = data.elements("Storage")
        guard let storage = all.first else {
            throw ImageError(.corrupt, "the descriptor has no Storage", at: data.offset)
        }
        guard all.count == 1, root.elements("StorageData").count == 1 else {
            throw ImageError(
                .unsupported, "disks that are split over several storages are not supported", at: data.offset)
        }
        return storage
    }

    private static func preallocated(_ storage: XMLElement) throws(ImageError) -> Bool {
        guard let element = storage.first("Preallocated") else { return false }
        guard let value = CNumber.parse(element.text) else {
            throw ImageError(.corrupt, "Preallocated is \"\(quoted(element.text))\", no number", at: element.offset)
        }
        return value != 0
    }

    private static func images(in storage: XMLElement) throws(ImageError) -> [Image] {
        var images: [Image] = []
        var seen: Set<GUID> = []
        for element in storage.elements("Image") {
            let guid = try guid(of: element, "GUID")
            guard seen.insert(guid).inserted else {
                throw ImageError(.corrupt, "two images are called \(guid)", at: element.offset)
            }
            guard let file = element.first("File")?.text, !file.isEmpty, !file.utf8.contains(0) else {
                throw ImageError(.corrupt, "image \(guid) names no file", at: element.offset)
            }
            let kind: ImageKind
            switch element.first("Type")?.text {
            case nil, ImageKind.expandable.rawValue: kind = .expandable
            case ImageKind.raw.rawValue: kind = .raw
            case .some(let other):
                throw ImageError(
                    .unsupported, "image \(guid) is of the unknown type \"\(quoted(other))\"", at: element.offset)
            }
            images.append(Image(guid: guid, kind: kind, file: file))
        }
        guard !images.isEmpty else { throw ImageError(.corrupt, "the descriptor names no image", at: storage.offset) }
        return images
    }

    private static func shots(in snapshots: XMLElement) throws(ImageError) -> [Shot] {
        var shots: [Shot] = []
        var seen: Set<GUID> = []
        for element in snapshots.elements("Shot") {
            let guid = try guid(of: element, "GUID")
            guard seen.insert(guid).inserted else {
                throw ImageError(.corrupt, "two shots are called \(guid)", at: element.offset)
            }
            let parent = try self.guid(of: element, "ParentGUID")
            shots.append(Shot(guid: guid, parent: parent, isTemporary: element.first("Temporary") != nil))
        }
        return shots
    }

    private static func guid(of element: XMLElement, _ name: String) throws(ImageError) -> GUID {
        guard let text = element.first(name)?.text else {
            throw ImageError(.corrupt, "an element \(element.name) has no \(name)", at: element.offset)
        }
        guard let guid = GUID(text) else {
            throw ImageError(.corrupt, "\"\(quoted(text))\" is no GUID", at: element.offset)
        }
        return guid
    }

    private func checkTree(at offset: Int) throws(ImageError) {
        func fail(_ message: String) -> ImageError { ImageError(.corrupt, message, at: offset) }
        guard images.count == shots.count else {
            throw fail("the descriptor has \(images.count) images and \(shots.count) shots")
        }
        let parents = Dictionary(shots.map { ($0.guid, $0.parent) }, uniquingKeysWith: { first, _ in first })
        for image in images where parents[image.guid] == nil { throw fail("image \(image.guid) has no shot") }
        guard let topShot = shot(top) else { throw fail("the top \(top) has no shot") }
        guard !topShot.isTemporary else { throw fail("the top \(top) is marked temporary") }
        guard top != .none, parents[.none] == nil else { throw fail("\(GUID.none) is no name for an image") }
        var rooted: Set<GUID> = [.none]
        for shot in shots {
            var path: Set<GUID> = []
            var next = shot.guid
            while !rooted.contains(next) {
                guard path.insert(next).inserted else { throw fail("shot \(next) is its own ancestor") }
                guard let parent = parents[next] else { throw fail("shot \(next) is named as a parent, but missing") }
                next = parent
            }
            rooted.formUnion(path)
        }
    }
}

/// Numbers as C's strtoul takes them: `0x` hexadecimal, `0` octal.
enum CNumber {
    static func parse(_ text: String) -> UInt64? {
        if let rest = text.rest(after: "0x") ?? text.rest(after: "0X") { return digits(rest, radix: 16) }
        if let rest = text.rest(after: "0"), !rest.isEmpty { return digits(rest, radix: 8) }
        return digits(text[...], radix: 10)
    }

    private static func digits(_ text: Substring, radix: Int) -> UInt64? {
        guard let first = text.utf8.first, first != UInt8(ascii: "+"), first != UInt8(ascii: "-") else { return nil }
        return UInt64(text, radix: radix)
    }
}
