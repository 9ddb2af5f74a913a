internal import Geometry

/// Changes to the tree of states. They touch the value only; the caller stores it, and the files named here are its to
/// create and remove, in the order that keeps every crash point safe.
extension DiskDescriptor {
    /// Freezes the top as state `guid` and begins a new top, an image in `file`.
    public mutating func addSnapshot(_ guid: GUID, newTopFile file: String) throws(ImageError) {
        try adoptTopName()
        guard guid != .top, guid != .none, shot(guid) == nil else {
            throw ImageError(.invalid, "the disk has a snapshot \(guid) already")
        }
        try refuseTaken(file)
        guard try chain(to: top).count < Self.chainLengthMax else {
            throw ImageError(
                .unsupported,
                "the disk has \(Self.chainLengthMax) deltas in a row, and can't have more: 'godwit snapshot merge' "
                    + "first")
        }
        rename(.top, to: guid)
        append(
            Image(guid: .top, kind: imageKindForNewDeltas, file: file),
            Shot(guid: .top, parent: guid, isTemporary: false))
        top = .top
        setTopElement()
    }

    /// Removes a state that nothing builds on. The parent of a removed top becomes the top.
    /// - Returns: the file that is no longer named.
    public mutating func removeLeaf(_ guid: GUID) throws(ImageError) -> String {
        try adoptTopName()
        let guid = guid
        guard let image = image(guid), let shot = shot(guid) else {
            throw ImageError(.invalid, "the disk has no snapshot \(guid)")
        }
        guard children(of: guid).isEmpty else { throw ImageError(.invalid, "other states build on snapshot \(guid)") }
        guard shot.parent != .none else { throw ImageError(.invalid, "\(guid) is the disk's base") }
        if guid == top, self.shot(shot.parent)?.isTemporary == true {
            throw ImageError(.invalid, "the parent of the top is temporary")
        }
        if guid == top, children(of: shot.parent).count > 1 {
            throw ImageError(.invalid, "other states build on \(shot.parent), so it can't be written to again")
        }
        remove(guid)
        if guid == top { rename(shot.parent, to: .top) }
        return image.file
    }

    /// What a merge does to the tree: the child's content went into the file of its parent, which has no other child.
    /// The survivor has the child's name and the parent's file.
    /// - Returns: the file that is no longer named: the child's.
    public mutating func mergeIntoParent(_ child: GUID) throws(ImageError) -> String {
        try adoptTopName()
        guard let childImage = image(child), let childShot = shot(child) else {
            throw ImageError(.invalid, "the disk has no snapshot \(child)")
        }
        let parent = childShot.parent
        guard parent != .none, shot(parent) != nil else { throw ImageError(.invalid, "\(child) is the disk's base") }
        guard children(of: parent).count == 1 else {
            throw ImageError(.invalid, "other states build on \(parent), so nothing can be merged into it")
        }
        remove(child)
        rename(parent, to: child)
        setTemporary(child, childShot.isTemporary)
        return childImage.file
    }

    /// Marks a state for removal, or takes the mark away.
    public mutating func markTemporary(_ guid: GUID, _ isTemporary: Bool = true) throws(ImageError) {
        guard shot(guid) != nil else { throw ImageError(.invalid, "the disk has no snapshot \(guid)") }
        guard guid != top || !isTemporary else { throw ImageError(.invalid, "the top can't be temporary") }
        setTemporary(guid, isTemporary)
    }

    /// Drops what was written since the last snapshot and begins a new top on state `guid`, an image in `file`.
    /// - Returns: the file of the old top, no longer named.
    public mutating func switchTop(to guid: GUID, newTopFile file: String) throws(ImageError) -> String {
        try adoptTopName()
        guard let shot = shot(guid) else { throw ImageError(.invalid, "the disk has no snapshot \(guid)") }
        guard guid != top else { throw ImageError(.invalid, "\(guid) is the top already") }
        guard !shot.isTemporary else { throw ImageError(.invalid, "snapshot \(guid) is being removed") }
        guard let old = image(top) else { throw ImageError(.invalid, "the disk has no top") }
        try refuseTaken(file)
        remove(top)
        append(
            Image(guid: .top, kind: imageKindForNewDeltas, file: file),
            Shot(guid: .top, parent: guid, isTemporary: false))
        return old.file
    }

    /// Takes a new device size over.
    public mutating func setSectorCount(_ count: UInt64) {
        sectorCount = count
        document.root.updateFirst("Disk_Parameters") { $0.updateFirst("Disk_size") { $0.text = "\(count)" } }
        updateStorage { $0.updateFirst("End") { $0.text = "\(count)" } }
    }

    private func refuseTaken(_ file: String) throws(ImageError) {
        guard !images.map(\.file).hasSame(as: file) else {
            throw ImageError(.invalid, "the disk has a file of that name already")
        }
    }

    /// Puts another file under a state.
    public mutating func setFile(_ file: String, of guid: GUID) throws(ImageError) {
        if image(guid)?.file.isSame(as: file) != true { try refuseTaken(file) }
        guard let index = images.firstIndex(where: { $0.guid == guid }) else {
            throw ImageError(.invalid, "the disk has no snapshot \(guid)")
        }
        images[index].file = file
        updateStorage { $0.update(at: $0.indices(of: "Image")[index]) { $0.updateFirst("File") { $0.text = file } } }
    }

    /// A name for the file of a new delta, as ploop's tools choose it.
    /// - Parameter unique: names the file only, no state.
    public func newDeltaFile(_ unique: GUID) -> String { "\(images[0].file).\(unique)" }

    /// In a disk with a raw base ploop's tools call every image plain, and refuse nothing else.
    private var imageKindForNewDeltas: ImageKind { hasRawBase ? .raw : .expandable }

    /// Older software names the top as it likes; tools of today want the constant.
    private mutating func adoptTopName() throws(ImageError) {
        guard top != .top else { return }
        guard shot(.top) == nil else {
            throw ImageError(
                .invalid, "the top is called \(top), and \(GUID.top) is another state: not to be changed here")
        }
        rename(top, to: .top)
    }

    private mutating func rename(_ old: GUID, to new: GUID) {
        for index in images.indices where images[index].guid == old {
            images[index].guid = new
            updateStorage {
                $0.update(at: $0.indices(of: "Image")[index]) { $0.updateFirst("GUID") { $0.text = new.description } }
            }
        }
        for index in shots.indices {
            if shots[index].guid == old {
                shots[index].guid = new
                updateShot(index) { $0.updateFirst("GUID") { $0.text = new.description } }
            }
            if shots[index].parent == old {
                shots[index].parent = new
                updateShot(index) { $0.updateFirst("ParentGUID") { $0.text = new.description } }
            }
        }
        if top == old {
            top = new
            setTopElement()
        }
    }

    private mutating func append(_ image: Image, _ shot: Shot) {
        images.append(image)
        shots.append(shot)
        updateStorage { Self.insert(Self.element(image), afterLast: "Image", in: &$0) }
        document.root.updateFirst("Snapshots") { Self.insert(Self.element(shot), afterLast: "Shot", in: &$0) }
    }

    private static func insert(_ element: XMLElement, afterLast name: String, in parent: inout XMLElement) {
        let index = parent.indices(of: name).last.map { $0 + 1 } ?? parent.children.count
        parent.children.insert(.element(element), at: index)
    }

    private mutating func remove(_ guid: GUID) {
        if let index = images.firstIndex(where: { $0.guid == guid }) {
            images.remove(at: index)
            updateStorage { $0.removeChild(at: $0.indices(of: "Image")[index]) }
        }
        if let index = shots.firstIndex(where: { $0.guid == guid }) {
            shots.remove(at: index)
            document.root.updateFirst("Snapshots") { $0.removeChild(at: $0.indices(of: "Shot")[index]) }
        }
    }

    private mutating func setTemporary(_ guid: GUID, _ isTemporary: Bool) {
        guard let index = shots.firstIndex(where: { $0.guid == guid }), shots[index].isTemporary != isTemporary else {
            return
        }
        shots[index].isTemporary = isTemporary
        updateShot(index) {
            for old in $0.indices(of: "Temporary").reversed() { $0.removeChild(at: old) }
            if isTemporary { $0.children.append(.element(XMLElement("Temporary"))) }
        }
    }

    private mutating func setTopElement() {
        let text = top.description
        document.root.updateFirst("Snapshots") { snapshots in
            if snapshots.first("TopGUID") == nil {
                snapshots.children.insert(.element(XMLElement("TopGUID", text: text)), at: 0)
            } else {
                snapshots.updateFirst("TopGUID") { $0.text = text }
            }
        }
    }

    /// The n-th Image element belongs to `images[n]`, the n-th Shot element to `shots[n]`: parsing and every change
    /// here keep it so.
    private mutating func updateStorage(_ body: (inout XMLElement) -> Void) {
        document.root.updateFirst("StorageData") { $0.updateFirst("Storage", body) }
    }

    private mutating func updateShot(_ index: Int, _ body: (inout XMLElement) -> Void) {
        document.root.updateFirst("Snapshots") { $0.update(at: $0.indices(of: "Shot")[index], body) }
    }
}
