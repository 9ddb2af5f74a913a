internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem
internal import Synchronization
internal import SystemPackage

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
        var isMissing: Bool { file == nil }
    }
    struct Known: Sendable {
        /// What a descriptor may name: one chain, or two of which a failed change has left either.
        var chains: [[Member]] = []
        /// The last one that was put in place.
        var descriptor: DiskDescriptor?
        /// What ``DiskFolder/recordServed(_:)`` has stored.
        var recorded: [UInt8]?
        /// The device's writes fail until the disk is another host's, or stays here.
        var isStopped = false
        /// Whether a chain of these paths is the one that is served, where somebody else can tell: the driver, whose
        /// stack its own tools may change as well.
        var confirms: (@Sendable ([String]) -> Bool)?
        /// Files that the descriptor is about to let go of.
        var leaving: [String] = []
    }
    let folder: FileIdentity
    let lock: FileIdentity?
    let known = Mutex(Known())
    /// Held while what is served is stored: several threads change it.
    let recording = Mutex(())

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
    static let servedDescriptorName = DiskDescriptor.servedName

    /// The same folder, with its owner's proof. - Parameter lock: from ``lockOwner(mayBeAttached:)``.
    func owned(by lock: any HeldLock) -> DiskFolder {
        guard let lock = lock as? OwnerLock else { return self }
        var folder = self
        folder.owned = lock.place
        return folder
    }

    /// The owner serves what this names.
    /// - Parameter isSure: somebody has seen that it does; only then it is stored.
    func noteServed(_ descriptor: DiskDescriptor, isSure: Bool = true) throws(DiskError) {
        guard let owned else { return }
        let chain = try members(of: descriptor, in: owned)
        owned.known.withLock { known in
            known.chains = [chain]
            known.descriptor = descriptor
        }
        if isSure { recordServed(descriptor) }
    }

    /// Stores what is served beside the descriptor, for who opens the disk after its owner was killed: the descriptor
    /// may be another one by then, and nobody else knows. It is not made durable, as it is for the time of a kill; a
    /// power cut may leave less than all of it, which counts for nothing, or the one before the last change, which
    /// differs by files that are on the list of leftovers.
    func recordServed(_ descriptor: DiskDescriptor) {
        guard let owned, isInPlace else { return }
        owned.recording.withLock { _ in recordServed(descriptor, owned) }
    }

    private func recordServed(_ descriptor: DiskDescriptor, _ owned: OwnedPlace) {
        // Also what only marks a state: whoever goes on with this one must not take half a merge for a snapshot.
        let isStopped = owned.known.withLock { $0.isStopped }
        let bytes = descriptor.encode() + (isStopped ? Self.stoppedRemark : [])
        guard owned.known.withLock({ $0.recorded != bytes }) else { return }
        let staging = servedDescriptorPath + Self.stagingSuffix
        do throws(SystemError) {
            let file = try fs.open(staging, OpenMode(writable: true, creation: .replace))
            file.takeAttributes(of: descriptorPath)
            try file.writeBytes(bytes, at: 0)
            try fs.rename(staging, to: servedDescriptorPath)
            owned.known.withLock { $0.recorded = bytes }
        } catch {
            // Better none than a wrong one; on a full host this needs no space.
            try? fs.remove(staging)
            try? fs.remove(servedDescriptorPath)
            owned.known.withLock { $0.recorded = nil }
        }
    }

    private static let stoppedRemark = Array("<!-- its writes are stopped for a migration -->\n".utf8)
    private static let keptRemark = Array("<!-- another descriptor was in its place at the end -->\n".utf8)

    /// Puts on record that the device's writes are being stopped, or go on: for who takes the device over.
    func recordStopped(_ isStopped: Bool) {
        guard let owned else { return }
        let descriptor = owned.known.withLock { known in
            known.isStopped = isStopped
            return known.descriptor
        }
        if let descriptor { recordServed(descriptor) }
    }

    /// Whether the last owner had stopped the device's writes; `nil` where nobody knows.
    func wasStopped() -> Bool? {
        guard let bytes = try? fs.contents(of: servedDescriptorPath, limit: DiskDescriptor.byteCountMax) else {
            return nil
        }
        return bytes.suffix(Self.stoppedRemark.count).elementsEqual(Self.stoppedRemark)
    }

    /// Another tool has ended the device. Which descriptor counts, when it is another one by now, whoever opens the
    /// disk next finds out.
    func forgetServed() {
        guard let owned, isInPlace, let served = owned.known.withLock({ $0.descriptor }), let now = try? load(),
            let chain = try? served.chain(to: served.top), (try? now.chain(to: now.top)) == chain
        else { return }
        try? fs.remove(servedDescriptorPath)
    }

    /// Runs what puts the descriptor in place. Where nobody knows whether it did there may be the old one, or this one.
    /// - Throws: before anything is done, when a file that the descriptor names can't be looked at.
    func replacing(
        by descriptor: DiskDescriptor, _ body: () throws(CommitFailure) -> Void
    ) throws(CommitFailure) {
        guard let owned else { return try body() }
        let chain: [OwnedPlace.Member]
        do throws(DiskError) { chain = try members(of: descriptor, in: owned) } catch {
            throw CommitFailure(error: error, isUndecided: false)
        }
        if let missing = chain.first(where: \.isMissing) {
            let path = path(of: missing.image)
            throw CommitFailure(
                error: DiskError(.notFound, "\(path) was removed before it was part of the disk", path: path),
                isUndecided: false)
        }
        let before = owned.known.withLock { known in
            known.chains.append(chain)
            return known.descriptor
        }
        recordServed(descriptor)
        do throws(CommitFailure) { try body() } catch {
            guard !error.isUndecided else {
                // It may be known after all.
                if let before, let now = try? load(), now.encode() == before.encode() { recordServed(before) }
                throw error
            }
            owned.known.withLock { known in
                guard known.chains.count > 1, let last = known.chains.lastIndex(of: chain) else { return }
                known.chains.remove(at: last)
            }
            if let before { recordServed(before) }
            throw error
        }
        owned.known.withLock { known in
            known.chains = [chain]
            known.descriptor = descriptor
        }
        // Another thread may have stored the one of before meanwhile.
        recordServed(descriptor)
    }

    /// The files of what is served, whichever of the descriptors that there may be is in place, but for those that are
    /// about to go.
    var servedFiles: [String] {
        guard let known = owned?.known.withLock({ $0 }), let first = known.chains.first else { return [] }
        return first.map(\.image.file).filter { file in
            !known.leaving.hasSame(as: file)
                && known.chains.allSatisfy { $0.contains { $0.image.file.isSame(as: file) } }
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
        guard try isOwnFolder(owned) else {
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

    private func isOwnFolder(_ owned: OwnedPlace) throws(DiskError) -> Bool {
        try identity(ofFile: path) == owned.folder
    }

    /// Whether the path leads to the folder that was taken; `true` where none was.
    var isInPlace: Bool {
        guard let owned else { return true }
        return (try? isOwnFolder(owned)) == true
    }

    /// What the owner has to know before it changes a name, or what a name leads to: the folder, the lock and the
    /// images are those that it took. States elsewhere in the tree may be others, as ploop's tools may change them.
    /// - Throws: `.inUse` for the folder or the lock; `.corrupt` when the descriptor names something else.
    func proveOwned() throws(DiskError) {
        guard let owned else { return }
        try proveInPlace()
        try looking(owned) { () throws(DiskError) in
            if let chain = try servedChain(owned) { try proveImages(chain) }
        }
    }

    /// Another thread of the owner may put a descriptor in place meanwhile; each look is done in no time.
    private func looking(_ owned: OwnedPlace, _ look: () throws(DiskError) -> Void) throws(DiskError) {
        for _ in 0..<Self.looksMax {
            let before = owned.known.withLock { $0.chains }
            do throws(DiskError) { return try look() } catch {
                guard owned.known.withLock({ $0.chains }) != before else { throw error }
            }
        }
        try look()
    }
    private static let looksMax = 16

    /// What the descriptor names, which is what is served; `nil` when nothing is yet.
    private func servedChain(_ owned: OwnedPlace) throws(DiskError) -> [OwnedPlace.Member]? {
        let (chains, confirms) = owned.known.withLock { ($0.chains, $0.confirms) }
        guard !chains.isEmpty else { return nil }
        let descriptor = try load()
        let images = try parsing(path) { () throws(ImageError) in try descriptor.chain(to: descriptor.top) }
        if let chain = chains.last(where: { $0.map(\.image) == images }) { return chain }
        guard let confirms, confirms(images.map { path(of: $0) }) else { throw foreign(chains.last ?? []) }
        try noteServed(descriptor)
        return owned.known.withLock { $0.chains.last }
    }

    private func proveImages(_ chain: [OwnedPlace.Member]) throws(DiskError) {
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

    // MARK: the end

    /// Asks once more what is served, while whoever can tell is there: for ``leave()``, when it is gone.
    func noteConfirmed() {
        guard let owned else { return }
        // What is wrong is told at the end.
        try? looking(owned) { () throws(DiskError) in _ = try servedChain(owned) }
    }

    /// The last thing that an owner does. What it served is nobody's leftover, whatever descriptor is there by then.
    /// - Throws: `.corrupt` when that is another one, or can't be read; the right one lies beside it then.
    func leave() throws(DiskError) {
        // Elsewhere nothing is the owner's to change.
        guard let owned, isInPlace else { return }
        // The list is for those who die: what can't be written now is looked at again by the next owner.
        try? keepLeftovers(servedFiles)
        let served = owned.known.withLock { $0.descriptor }
        // Also without the lock: what took that away may have replaced the descriptor, too.
        do throws(DiskError) {
            try looking(owned) { () throws(DiskError) in _ = try servedChain(owned) }
        } catch {
            guard let served else { throw error }
            throw keepServed(served, error)
        }
        try looking(owned) { () throws(DiskError) in
            if let chain = try servedChain(owned) { try proveImages(chain) }
        }
        try? fs.remove(servedDescriptorPath)
    }

    var servedDescriptorPath: String { "\(path)/\(Self.servedDescriptorName)" }

    /// Stores the descriptor of what was served beside the one that is there. - Returns: what to tell of it.
    private func keepServed(_ served: DiskDescriptor, _ reason: DiskError) -> DiskError {
        let isReplaced = [.corrupt, .notFound, .unsupported, .notADisk, .invalid].contains(reason.code)
        let bytes = served.encode() + (isReplaced ? Self.keptRemark : [])
        do throws(SystemError) { try fs.replaceContents(of: servedDescriptorPath, with: bytes) } catch {
            return reason.and(DiskError(error, path: servedDescriptorPath))
        }
        // It may be all right, and is looked at again by who opens the disk next.
        if reason.code == .io { return reason }
        let what =
            switch reason.code {
            case .corrupt: "was replaced while the disk was in use"
            case .notFound: "is gone"
            default: "can't be read"
            }
        return DiskError(.corrupt, "\(path): the descriptor \(what): \(servedHint)", path: path)
    }

    private func hasServed() throws(DiskError) -> Bool {
        let place = servedDescriptorPath
        return try withPath(place) { () throws(SystemError) in try fs.isTaken(place) }
    }

    private var servedHint: String {
        "\(servedDescriptorPath) names what was served last; move it over \(DiskDescriptor.fileName) to go on with "
            + "that, or remove it to go on with what \(DiskDescriptor.fileName) names, for good"
    }

    /// What is wrong while the folder has a descriptor of what was served last that names another chain than this one:
    /// a write into one of them is damage in the other.
    func otherServed(than descriptor: DiskDescriptor) throws(DiskError) -> DiskError? {
        guard let failure = try differentServed(than: descriptor) else { return nil }
        // Its owner may have changed both in between.
        guard let now = try? load(), now.encode() != descriptor.encode() else { return failure }
        return try differentServed(than: now)
    }

    private func differentServed(than descriptor: DiskDescriptor) throws(DiskError) -> DiskError? {
        guard try hasServed() else { return nil }
        let place = servedDescriptorPath
        let found = try withPath(place) { () throws(SystemError) -> [UInt8]? in
            do throws(SystemError) { return try fs.contents(of: place, limit: DiskDescriptor.byteCountMax) } catch {
                // Its owner may have ended just now.
                guard error.errno == .noSuchFileOrDirectory else { throw error }
                return nil
            }
        }
        guard let bytes = found else { return nil }
        // What a power cut has left of one says nothing.
        guard let served = try? DiskDescriptor(parsing: bytes), let chain = try? served.chain(to: served.top) else {
            return nil
        }
        let own = try? descriptor.chain(to: descriptor.top)
        // Another one was there while this was served: whatever it names, it is not what was written.
        let isKept = bytes.suffix(Self.keptRemark.count).elementsEqual(Self.keptRemark)
        if try isKept ? own == chain : isOne(chain, with: own) { return nil }
        return DiskError(.corrupt, "\(path): the disk is not opened for writing: \(servedHint)", path: path)
    }

    /// Whether the chain that was served is the descriptor's, or one that an interrupted change has made of it, or was
    /// to make: what they differ by is on the list of leftovers, or gone.
    private func isOne(
        _ served: [DiskDescriptor.Image], with own: [DiskDescriptor.Image]?
    ) throws(DiskError) -> Bool {
        guard let own else { return false }
        if own == served { return true }
        let (ownFiles, servedFiles) = (own.map(\.file), served.map(\.file))
        // What ploop's tools have removed since its owner was killed. No owner of ours removes what it serves, and an
        // old descriptor that is put back leaves it there.
        for file in servedFiles where !ownFiles.hasSame(as: file) {
            if try identity(ofFile: path(ofFile: file)) == nil { return true }
        }
        // A snapshot of ploop's own tools, of which no owner of ours has heard. An old descriptor has not more.
        if ownFiles.count > servedFiles.count,
            ownFiles.prefix(servedFiles.count).elementsEqual(
                servedFiles, by: { $0.isSame(as: $1) })
        {
            var isThere = true
            for file in ownFiles.dropFirst(served.count) where try identity(ofFile: path(ofFile: file)) == nil {
                isThere = false
            }
            if isThere { return true }
        }
        let listed = try leftovers()
        for file in ownFiles where !servedFiles.hasSame(as: file) && !listed.hasSame(as: file) { return false }
        for file in servedFiles where !ownFiles.hasSame(as: file) && !listed.hasSame(as: file) {
            return false
        }
        return true
    }

    /// For who changes a disk that nobody serves. One that names the same chain is of no use any more, and goes.
    /// - Throws: ``otherServed(than:)``.
    func settleServed(_ descriptor: DiskDescriptor) throws(DiskError) {
        guard try hasServed() else { return }
        if let failure = try otherServed(than: descriptor) { throw failure }
        let place = servedDescriptorPath
        try withPath(place) { () throws(SystemError) in try fs.remove(place) }
    }
}
