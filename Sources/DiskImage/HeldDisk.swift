public import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import Synchronization

/// A disk whose images the driver in the kernel has open: its lock, and what there is to do in its folder. The driver
/// has the data; this has the names, in the order that keeps every crash point safe.
public final class HeldDisk: Sendable {
    /// One file of the stack that makes up the disk.
    public struct StackImage: Hashable, Sendable {
        public var path: String
        /// Of a raw base; `nil` for an image, which says it itself.
        public var rawClusterBytes: UInt64?
    }

    /// The folder or the image.
    public let path: String
    let fs: any FileSystem
    /// `nil` for an image without a descriptor.
    let folder: DiskFolder?
    private let locks: Mutex<[any HeldLock]>
    /// A size of the device that the descriptor has yet to be told.
    private let unrecorded = Mutex<UInt64?>(nil)

    private init(path: String, fs: any FileSystem, folder: DiskFolder?, locks: sending [any HeldLock]) {
        self.path = path
        self.fs = fs
        self.folder = folder
        self.locks = Mutex(locks)
    }

    /// Takes the disk's lock; if it is only to be read, leases of its files.
    /// - Throws: `.inUse` when another process has it.
    public static func take(_ path: String, in fs: any FileSystem, readOnly: Bool) throws(DiskError) -> HeldDisk {
        switch try DiskLocation.find(path, in: fs) {
        case .folder(let folder):
            guard !readOnly else {
                let leases = try LeasedChain.open(folder, state: nil, options: .readOnly).leases
                return HeldDisk(path: folder.path, fs: fs, folder: folder, locks: leases)
            }
            let lock = try folder.lockOwner(mayBeAttached: true)
            let folder = folder.owned(by: lock)
            try folder.noteServed(try folder.load(), isSure: false)
            return HeldDisk(path: folder.path, fs: fs, folder: folder, locks: [lock])
        case .image(let image):
            let locks: [any HeldLock]
            if !readOnly {
                try refusePart(of: image, in: fs)
                locks = try lockForWriting(image, in: fs, mayBeAttached: true)
            } else {
                locks = try SharedLeases.take([image], in: fs).held
            }
            return HeldDisk(path: image, fs: fs, folder: nil, locks: locks)
        }
    }

    /// For who is about to write to the top for the first time: what is written already would not be undone by it.
    /// - Throws: `.inUse` when the top's file has other names.
    public func expectOneName() throws(DiskError) {
        if let top = try stack().last { try refuseOtherNames(of: top.path, in: fs) }
    }

    /// Whether the driver can take what is below the top: what a stopped merge left is repaired when it is opened to
    /// write, unless somebody reads it.
    public func isClosedBelow() throws(DiskError) -> Bool {
        for image in try stack().dropLast() where image.rawClusterBytes == nil {
            if try !header(of: image.path).inUse.isClean { return false }
        }
        return true
    }

    private func header(of image: String) throws(DiskError) -> ImageHeader {
        let file = try withPath(image) { () throws(SystemError) in try fs.open(image, .read) }
        return try DeltaFile.readHeader(of: file, path: image)
    }

    /// Lets others have the disk.
    public func release() { locks.withLock { $0.removeAll() } }

    /// The device is gone: the last look at the folder, and others may have the disk.
    /// - Throws: `.corrupt` when the descriptor is not the one of what was served.
    public func close() throws(DiskError) {
        defer { release() }
        var failure: DiskError?
        do throws(DiskError) {
            if let bytes = unrecorded.withLock({ $0 }) { try setByteCount(bytes) }
        } catch { failure = error }
        // What is wrong with the descriptor this tells better.
        do throws(DiskError) { try folder?.leave() } catch { failure = error }
        if let failure { throw failure }
    }

    /// The disk has a device now. - Parameter isServed: whether that has exactly these files, base first.
    public func confirmBy(_ isServed: @escaping @Sendable ([String]) -> Bool) {
        folder?.owned?.known.withLock { $0.confirms = isServed }
    }

    /// The device has what the descriptor names.
    public func noteAttached() {
        guard let folder, let descriptor = folder.owned?.known.withLock({ $0.descriptor }) else { return }
        folder.recordServed(descriptor)
    }

    /// Another tool has ended the device.
    public func deviceHasGone() { folder?.forgetServed() }

    /// To be called before the device's writes are stopped for another host, and after they go on.
    public func noteStopped(_ isStopped: Bool) { folder?.recordStopped(isStopped) }

    /// What is on record already stays so with the next record. Nothing is stored: nobody has seen yet what is served.
    public func keepStopped() { folder?.owned?.known.withLock { $0.isStopped = true } }

    /// Whether whoever had the device before has stopped its writes for another host.
    /// - Throws: when that can't be found out.
    public func wasStopped() throws(DiskError) -> Bool {
        guard let folder else { return false }
        if let isStopped = folder.wasStopped() { return isStopped }
        return try folder.hasPendingHandover()
    }

    /// To be called before the device goes, which alone can tell that what another tool has changed is what it serves.
    public func deviceWillGo() { folder?.noteConfirmed() }

    /// - Throws: `.inUse` when the disk's path does not lead to what was taken any more.
    public func proveInPlace() throws(DiskError) { try folder?.proveInPlace() }

    /// Whether the record of a migration gives the disk to another host: looked for in the folder that was taken,
    /// wherever that is by now.
    /// - Throws: when that can't be found out.
    public func isGivenAway() throws(DiskError) -> Bool {
        guard folder != nil else { return false }
        let held = locks.withLock { $0 }
        return try held.hasMigratedMark(path, in: fs)
    }

    /// The files that make up the disk, base first.
    /// - Throws: `.unsupported` for a disk that the driver does not take.
    public func stack() throws(DiskError) -> [StackImage] {
        guard let folder else {
            try refuseOddSize(of: path)
            return [StackImage(path: path, rawClusterBytes: nil)]
        }
        let descriptor = try folder.load()
        let places = try ChainOpener.places(descriptor, to: descriptor.top, in: folder)
        if let top = places.last, top.rawClusterSize == nil { try refuseOddSize(of: top.path) }
        return places.map { StackImage(path: $0.path, rawClusterBytes: $0.rawClusterSize?.bytes) }
    }

    private func refuseOddSize(of image: String) throws(DiskError) {
        let header = try header(of: image)
        guard header.clusterSize.remainder(of: header.byteCount) != 0 else { return }
        throw DiskError(
            .unsupported,
            "\(path): the driver takes whole clusters only, and \(header.byteCount) bytes are none: "
                + "use --backend user, or resize the disk", path: path)
    }

    /// Brings the descriptor in step with the stack that the driver has, after whoever changed both died in between: a
    /// merge that the driver had ended, or a new top that it never got. In both a file is named that holds nothing.
    /// - Parameter files: what the driver has, base first.
    /// - Throws: `.inUse` when that is another disk's, or was changed by somebody else.
    public func adopt(_ files: [String]) throws(DiskError) {
        guard let folder else {
            guard files.count == 1, files.hasSame(as: path) else { throw foreign(files) }
            return
        }
        // Whatever the descriptor says: this holds data. The owner may have died before it had told the list.
        try? folder.keepLeftovers(files.compactMap { $0.rest(after: folder.path + "/").map(String.init) })
        let wanted = try stack().map(\.path)
        let missing = wanted.filter { !files.hasSame(as: $0) }
        guard wanted.filter({ files.hasSame(as: $0) }).elementsEqual(files, by: { $0.isSame(as: $1) }) else {
            throw foreign(files)
        }
        for path in missing {
            let descriptor = try folder.load()
            guard let image = descriptor.images.first(where: { folder.path(of: $0).isSame(as: path) }) else { continue }
            _ = try finishMerge(of: image.file, folder)
        }
    }

    private func foreign(_ files: [String]) -> DiskError {
        DiskError(
            .inUse,
            "\(path): the driver has other files of this disk than its descriptor names: "
                + files.joined(separator: ", ") + "; detach it with the tool that attached it", path: path)
    }

    // MARK: a new top

    /// A file that waits to become the top.
    public final class NewTop: Sendable {
        /// The name that the frozen state will have.
        public let guid: String
        public let path: String
        fileprivate let name: GUID
        fileprivate let file: String
        fileprivate init(name: GUID, file: String, path: String) {
            guid = name.description
            self.name = name
            self.file = file
            self.path = path
        }
    }

    /// Makes an empty image that fits on the top, durably and without effect on the disk.
    public func makeTop() throws(DiskError) -> NewTop {
        let folder = try folderWithTree()
        let descriptor = try folder.load()
        guard let name = GUID(random: randomBytes(16)), let unique = GUID(random: randomBytes(16)),
            let image = descriptor.image(descriptor.top)
        else { throw DiskError(.io, "\(path): the system has no random bytes", path: path) }
        let file = descriptor.newDeltaFile(unique)
        var trial = descriptor
        try parsing(path) { () throws(ImageError) in try trial.addSnapshot(name, newTopFile: file) }
        let header = try emptyHeader(like: image, of: descriptor, in: folder)
        let top = NewTop(name: name, file: file, path: folder.path(ofFile: file))
        try folder.noteLeftover(file)
        do throws(DiskError) {
            try withPath(top.path) { () throws(SystemError) in
                let file = try fs.open(top.path, OpenMode(writable: true, creation: .exclusive))
                file.takeAttributes(of: folder.path(of: image))
                try NewImage.writeEmpty(header, to: file)
                try file.synchronize()
            }
            try folder.synchronizeNames(besides: [file])
        } catch {
            folder.removeFile(file)
            throw error
        }
        return top
    }

    /// Names the new top in the descriptor, durably, and then has the device switched to it. In between the file is one
    /// more level without any data, which changes nothing: so a crash leaves one of two equal disks.
    /// - Parameters:
    ///   - isSwitched: whether the device has the new top; asked when `switchDevice` fails, maybe after the switch.
    ///   - switchDevice: gets the device to go on in the new top. When it throws and the device has not gone on there,
    ///     all is as before; when nobody knows, the file stays named, which changes nothing.
    public func commitTop(
        _ top: NewTop, isSwitched: () throws(DiskError) -> Bool = { () throws(DiskError) in false },
        _ switchDevice: () throws(DiskError) -> Void
    ) throws(DiskError) {
        let folder = try folderWithTree()
        try folder.withDescriptorLock { () throws(DiskError) in
            let before = try folder.load()
            var descriptor = before
            try parsing(path) { () throws(ImageError) in try descriptor.addSnapshot(top.name, newTopFile: top.file) }
            try folder.stage(descriptor)
            do throws(DiskFolder.CommitFailure) { try folder.commitStaged(descriptor) } catch {
                if error.isUndecided { try folder.store(before) }
                throw error.error
            }
            var failure: DiskError?
            do throws(DiskError) { try switchDevice() } catch {
                switch try? isSwitched() {
                // The snapshot is there all the same.
                case true?: break
                case false?:
                    try folder.store(before)
                    throw error
                case nil: failure = error
                }
            }
            // It holds data from now on, or may. What can't be stored is tried again with the next change of the list.
            try? folder.keepLeftovers([top.file])
            if let failure { throw failure }
        }
    }

    public func abandonTop(_ top: NewTop) {
        // After a failure it may still be named.
        guard let folder, let descriptor = try? folder.load(),
            !descriptor.images.map(\.file).hasSame(as: top.file)
        else { return }
        folder.removeFile(top.file)
    }

    // MARK: deleting a state

    /// What there is to do for a state that is to go.
    public enum Deletion: ~Copyable, Sendable {
        /// Nothing with its data. The state that has its place now may wait to be removed, too.
        case done(next: String?)
        case merge(PendingMerge)
    }

    /// The file `child` is to be merged into `parent`, the level below it. As long as this lives nobody reads either
    /// who relies on what it holds.
    public struct PendingMerge: ~Copyable, Sendable {
        public let child: String
        public let parent: String
        /// The child as the descriptor names it. A snapshot gives its state another name, never the file.
        fileprivate let childFile: String
        private let parentLease: ExclusiveLease
        private let childLease: ExclusiveLease

        fileprivate init(
            child: consuming ExclusiveLease, _ childFile: String, into parent: consuming ExclusiveLease
        ) {
            self.child = child.path
            self.parent = parent.path
            self.childFile = childFile
            parentLease = parent
            childLease = child
        }
    }

    /// Begins to remove the state: from here on nobody takes it for what was frozen.
    /// - Throws: `.busy`, naming who reads it, with nothing changed.
    public func beginDeletion(of guid: String) throws(DiskError) -> Deletion {
        let folder = try folderWithTree()
        guard let name = GUID(typed: guid) else {
            throw DiskError(.invalid, "\(guid) is no name of a snapshot", path: path)
        }
        let descriptor = try folder.load()
        guard let shot = descriptor.shot(name), let image = descriptor.image(name) else {
            throw DiskError(.notFound, "\(path): there is no snapshot \(name)", path: path)
        }
        guard name != descriptor.top else {
            throw DiskError(.invalid, "\(path): \(name) is the writable state, no snapshot", path: path)
        }
        let children = descriptor.children(of: name)
        let ownTop = descriptor.image(descriptor.top).map { folder.path(of: $0) }
        if children.isEmpty {
            let lease = try ExclusiveLease.take(folder.path(of: image), in: fs, ownTop: ownTop)
            try folder.lettingGo(of: image.file) { () throws(DiskError) in
                _ = try folder.updateDescriptor { descriptor throws(ImageError) in try descriptor.removeLeaf(name) }
            }
            folder.removeFile(image.file)
            _ = consume lease
            return .done(next: temporary(shot.parent, try folder.load()))
        }
        guard let child = children.first, children.count == 1, let upper = descriptor.image(child) else {
            try folder.updateDescriptor { descriptor throws(ImageError) in try descriptor.markTemporary(name) }
            return .done(next: nil)
        }
        let chain = try parsing(path) { () throws(ImageError) in try descriptor.chain(to: descriptor.top) }
        guard chain.contains(upper) else {
            throw DiskError(
                .unsupported, "\(path): \(name) is not below the state in use; detach the disk to delete it", path: path
            )
        }
        try refuseOtherNames(of: folder.path(of: image), in: fs)
        let parentLease = try ExclusiveLease.take(folder.path(of: image), in: fs, ownTop: ownTop)
        let childLease = try ExclusiveLease.take(folder.path(of: upper), in: fs, ownTop: ownTop)
        if !shot.isTemporary {
            try folder.updateDescriptor { descriptor throws(ImageError) in try descriptor.markTemporary(name) }
        }
        return .merge(PendingMerge(child: childLease, upper.file, into: parentLease))
    }

    /// The merge of that child is done: the descriptor lets go of its file, durably, then the file goes.
    /// - Returns: a state that waits to be removed as well.
    public func finishDeletion(_ merge: consuming PendingMerge) throws(DiskError) -> String? {
        let folder = try folderWithTree()
        let child = try finishMerge(of: merge.childFile, folder)
        return temporary(child, try folder.load())
    }

    /// - Parameter file: what the driver has merged: whichever state has it when the descriptor is locked.
    /// - Returns: that state, which has the parent's file now.
    private func finishMerge(of file: String, _ folder: DiskFolder) throws(DiskError) -> GUID {
        var merged: GUID?
        try folder.lettingGo(of: file) { () throws(DiskError) in
            merged = try folder.updateDescriptor { descriptor throws(ImageError) -> GUID? in
                guard let image = descriptor.images.first(where: { $0.file.isSame(as: file) }) else { return nil }
                _ = try descriptor.mergeIntoParent(image.guid)
                return image.guid
            }
            if merged == nil {
                throw DiskError(.notFound, "\(path): no snapshot has the file \(file)", path: path)
            }
        }
        folder.removeFile(file)
        return merged ?? .none
    }

    private func temporary(_ name: GUID, _ descriptor: DiskDescriptor) -> String? {
        guard descriptor.shot(name)?.isTemporary == true, descriptor.children(of: name).count == 1 else { return nil }
        return name.description
    }

    // MARK: the rest

    /// Has the device grow, with the descriptor's space made sure of before.
    public func grow(to bytes: UInt64, _ grow: () throws(DiskError) -> Void) throws(DiskError) {
        guard let folder else { return try grow() }
        try folder.recordingSize(bytes, grow) { unrecorded.withLock { $0 = bytes } }
        unrecorded.withLock { $0 = nil }
    }

    /// The device has that size, which the descriptor may not have been told; on a full host that can wait.
    public func setByteCount(_ bytes: UInt64) throws(DiskError) {
        guard let folder, try folder.load().sectorCount != bytes / sectorBytes else { return }
        do throws(DiskError) {
            try folder.updateDescriptor { descriptor throws(ImageError) in
                descriptor.setSectorCount(bytes / sectorBytes)
            }
            unrecorded.withLock { $0 = nil }
        } catch {
            guard error.code == .outOfSpace else { throw error }
            unrecorded.withLock { $0 = bytes }
        }
    }

    /// The whole tree, parents before their children.
    /// - Throws: `.corrupt`, and `.inUse`, when what is there is not what is served.
    public func snapshots() throws(DiskError) -> [SnapshotInfo] {
        try proveOwned()
        return try folder?.snapshots() ?? []
    }

    /// - Throws: `.inUse` when the disk's path does not lead to what was taken any more, `.corrupt` when the descriptor
    ///   names something else.
    public func proveOwned() throws(DiskError) { try folder?.proveOwned() }

    private func folderWithTree() throws(DiskError) -> DiskFolder {
        guard let folder else {
            throw DiskError(
                .unsupported, "\(path) is an image without a descriptor; import it into a disk to take snapshots",
                path: path)
        }
        try folder.proveOwned()
        return folder
    }
}
