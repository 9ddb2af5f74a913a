internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import Synchronization

/// What the owner of a disk has taken: a folder, the lock in it, and the images that its descriptor named. Paths lead
/// elsewhere once somebody renames the folder, puts another disk in its place, or puts an old descriptor back; the
/// owner, whose files are open, would not notice. So before every change of names it proves that they lead where they
/// did (``DiskFolder/proveOwned()``).
final class OwnedPlace: Sendable {
    /// One file of the chain that is served.
    struct Member: Hashable, Sendable {
        var image: DiskDescriptor.Image
        /// `nil`: there was none.
        var file: FileIdentity?
    }
    struct Known: Sendable {
        /// What a descriptor may name: one chain, or two of which a failed change has left either.
        var chains: [[Member]] = []
        /// The last one that was put in place.
        var descriptor: DiskDescriptor?
        /// Whether a chain of these paths is the one that is served, where somebody else can tell: the driver, whose
        /// stack its own tools may change as well.
        var confirms: (@Sendable ([String]) -> Bool)?
    }
    let folder: FileIdentity
    let lock: FileIdentity?
    let known = Mutex(Known())

    init(folder: FileIdentity, lock: FileIdentity?) {
        self.folder = folder
        self.lock = lock
    }
}

/// The locks of a disk's owner, and where they were taken.
final class OwnerLock: HeldLock {
    private let file: any HeldLock
    private let claim: any HeldClaim
    let place: OwnedPlace

    init(file: any HeldLock, claim: any HeldClaim) {
        self.file = file
        self.claim = claim
        place = OwnedPlace(folder: claim.file, lock: (file as? any HeldLease)?.file)
    }

    /// Whether the record of a migration is in the folder that was taken, wherever that is by now.
    fileprivate func hasMigratedMark() throws(SystemError) -> Bool {
        try claim.has(DiskFolder.migratedMarkName)
    }
}

extension [any HeldLock] {
    /// Whether the disk that these are of was given to another host. A path may lead elsewhere by now, which says
    /// nothing of that; but who only reads has nothing else to go by.
    /// - Throws: when that can't be found out.
    func hasMigratedMark(_ path: String, in fs: any FileSystem) throws(DiskError) -> Bool {
        let owner = first { $0 is OwnerLock } as? OwnerLock
        return try withPath(path) { () throws(SystemError) in
            guard let owner else { return try fs.exists("\(path)/\(DiskFolder.migratedMarkName)") }
            return try owner.hasMigratedMark()
        }
    }
}

extension DiskFolder {
    /// In the folder of a disk that was closed while its descriptor was not the one that was served: the right one.
    static let servedDescriptorName = DiskDescriptor.fileName + ".served"

    /// The same folder, with its owner's proof. - Parameter lock: from ``lockOwner(mayBeAttached:)``.
    func owned(by lock: any HeldLock) -> DiskFolder {
        guard let lock = lock as? OwnerLock else { return self }
        var folder = self
        folder.owned = lock.place
        return folder
    }

    /// The owner serves what this names.
    func noteServed(_ descriptor: DiskDescriptor) throws(DiskError) {
        guard let owned else { return }
        let chain = try members(of: descriptor, in: owned)
        owned.known.withLock { known in
            known.chains = [chain]
            known.descriptor = descriptor
        }
    }

    /// Runs what puts the descriptor in place. Where that fails there may be the old one, or this one.
    func replacing<E: Error>(
        by descriptor: DiskDescriptor, _ body: () throws(E) -> Void
    ) throws(E) {
        guard let owned, let chain = try? members(of: descriptor, in: owned) else { return try body() }
        owned.known.withLock { $0.chains.append(chain) }
        try body()
        owned.known.withLock { known in
            known.chains = [chain]
            known.descriptor = descriptor
        }
    }

    /// A file keeps the identity that it had when it first became part of the chain.
    private func members(of descriptor: DiskDescriptor, in owned: OwnedPlace) throws(DiskError) -> [OwnedPlace.Member] {
        let images = try parsing(path) { () throws(ImageError) in try descriptor.chain(to: descriptor.top) }
        let before = owned.known.withLock { $0.chains }.joined()
        var members: [OwnedPlace.Member] = []
        for image in images {
            if let same = before.last(where: { $0.image.file.isSame(as: image.file) }) {
                members.append(OwnedPlace.Member(image: image, file: same.file))
                continue
            }
            let file = try identity(ofFile: path(of: image))
            members.append(OwnedPlace.Member(image: image, file: file))
        }
        return members
    }

    private func identity(ofFile path: String) throws(DiskError) -> FileIdentity? {
        try withPath(path) { () throws(SystemError) in try fs.identity(of: path) }
    }

    /// - Throws: `.inUse` when the path leads to another folder than the owner's, or its lock is not there.
    func proveInPlace() throws(DiskError) {
        guard let owned else { return }
        guard try identity(ofFile: path) == owned.folder else {
            throw DiskError(
                .inUse,
                "\(path): the folder was renamed or replaced while the disk was in use, so nothing is changed there: "
                    + "detach the disk, and attach it where its folder is now", path: path)
        }
        guard let lock = owned.lock else { return }
        guard try identity(ofFile: "\(path)/\(Self.ownerLockName)") == lock else {
            throw DiskError(
                .inUse,
                "\(path): \(Self.ownerLockName) was removed or replaced while the disk was in use, so nothing is "
                    + "changed there: detach the disk, and attach it again", path: path)
        }
    }

    /// What the owner has to know before it changes a name, or what a name leads to: the folder, the lock and the
    /// images are those that it took. States elsewhere in the tree may be others, as ploop's tools may change them.
    /// - Throws: `.inUse` for the folder or the lock; `.corrupt` when the descriptor names something else.
    func proveOwned() throws(DiskError) {
        guard let owned else { return }
        try proveInPlace()
        // Another thread of the owner may put a descriptor in place meanwhile; each look is done in no time.
        for _ in 0..<Self.looksMax {
            let before = owned.known.withLock { $0.chains }
            do throws(DiskError) { return try proveChain(owned) } catch {
                guard owned.known.withLock({ $0.chains }) != before else { throw error }
            }
        }
        try proveChain(owned)
    }
    private static let looksMax = 16

    private func proveChain(_ owned: OwnedPlace) throws(DiskError) {
        let (chains, confirms) = owned.known.withLock { ($0.chains, $0.confirms) }
        guard !chains.isEmpty else { return }
        let descriptor = try load()
        let images = try parsing(path) { () throws(ImageError) in try descriptor.chain(to: descriptor.top) }
        guard let chain = chains.last(where: { $0.map(\.image) == images }) else {
            guard let confirms, confirms(images.map { path(of: $0) }) else { throw foreign(chains.last ?? []) }
            return try noteServed(descriptor)
        }
        for member in chain {
            let path = path(of: member.image)
            guard try identity(ofFile: path) == member.file else {
                throw DiskError(
                    .corrupt,
                    "\(path) was removed or replaced while the disk was in use, so nothing is changed: what is served "
                        + "is the file that was there, so save what you need through the device, then detach the disk",
                    path: path)
            }
        }
    }

    private func foreign(_ chain: [OwnedPlace.Member]) -> DiskError {
        DiskError(
            .corrupt,
            "\(path): the descriptor was replaced while the disk was in use, so nothing is changed: what is served is "
                + "\(chain.map(\.image.file).joined(separator: ", ")); put the descriptor back that names these, or "
                + "detach the disk, which stores it as \(Self.servedDescriptorName)", path: path)
    }

    /// The last thing that an owner does. What it served is nobody's leftover, whatever descriptor is there by then.
    /// - Throws: `.corrupt` when that is another one; the right one lies beside it then.
    func leave() throws(DiskError) {
        guard let owned else { return }
        // Elsewhere nothing is the owner's to change.
        guard (try? identity(ofFile: path)) == owned.folder else { return }
        let known = owned.known.withLock { $0 }
        // The list is for those who die: what can't be written now is looked at again by the next owner.
        try? keepLeftovers(known.chains.joined().map(\.image.file))
        do throws(DiskError) { try proveOwned() } catch {
            guard error.code == .corrupt || error.code == .notFound else { return }
            if let descriptor = known.descriptor {
                let bytes = descriptor.encode()
                try withPath(path) { () throws(SystemError) in
                    try fs.replaceContents(of: "\(path)/\(Self.servedDescriptorName)", with: bytes)
                }
            }
            throw error
        }
    }
}
