internal import BlockIO
internal import ImageFormat
internal import LinuxSystem

/// The files of a state of a disk, opened to be read, with leases of all of them: the one way to a state that is not
/// the caller's to change.
struct LeasedChain: Sendable {
    let folder: DiskFolder
    let chain: Chain
    /// What the descriptor names, base first.
    let images: [DiskDescriptor.Image]
    /// Those that are being removed: a merge into one of them that was stopped has let go what it had merged, so what
    /// is above it need not have all that changed since.
    let leaving: Set<GUID>
    let leases: [any HeldLease]

    /// - Parameter state: `nil` for the top.
    static func open(
        _ folder: DiskFolder, state: GUID?, options: DiskOptions,
        waitNanoseconds: UInt64 = SharedLeases.waitNanoseconds
    ) throws(DiskError) -> LeasedChain {
        // The owner may put another descriptor in place, and remove a file, between our looks.
        var attempts = 8
        while true {
            attempts -= 1
            do throws(DiskError) {
                let opened = try openOnce(folder, state: state, options, waitNanoseconds)
                if let opened { return opened }
                guard attempts > 0 else {
                    throw DiskError(
                        .busy, "\(folder.path): its snapshots change all the time; try again later", path: folder.path)
                }
            } catch {
                guard error.code == .notFound, attempts > 0 else { throw error }
                _ = try images(of: state, try folder.load(), folder)
            }
        }
    }

    /// - Returns: `nil` when the disk's tree was changed meanwhile.
    private static func openOnce(
        _ folder: DiskFolder, state: GUID?, _ options: DiskOptions, _ waitNanoseconds: UInt64
    ) throws(DiskError) -> LeasedChain? {
        let descriptor = try folder.load()
        let images = try images(of: state, descriptor, folder)
        let places = try ChainOpener.places(descriptor, to: state ?? descriptor.top, in: folder)
        let leases = try SharedLeases.take(places.map(\.path), in: folder.fs, waitNanoseconds: waitNanoseconds)
        let opened = try ChainOpener(fs: folder.fs, options: options).open(places, path: folder.path)
        // Only now nobody changes the files: was one changed between the look at the descriptor and the lease?
        let now = try folder.load()
        guard try Self.images(of: state, now, folder) == images else { return nil }
        for (delta, lease) in zip(opened.chain.deltas, leases.held) {
            guard try delta.attempt({ () throws(SystemError) in try delta.file.identity() }) == lease.file else {
                return nil
            }
        }
        let leaving = Set(images.map(\.guid).filter { now.shot($0)?.isTemporary == true })
        return LeasedChain(
            folder: folder, chain: opened.chain, images: images, leaving: leaving, leases: leases.held)
    }

    /// What a state is made of. - Throws: `.notFound` for one that is gone, or is not what was frozen any more.
    private static func images(
        of state: GUID?, _ descriptor: DiskDescriptor, _ folder: DiskFolder
    ) throws(DiskError) -> [DiskDescriptor.Image] {
        if let state {
            guard descriptor.image(state) != nil, let shot = descriptor.shot(state) else {
                throw DiskError(.notFound, "\(folder.path): there is no snapshot \(state)", path: folder.path)
            }
            guard !shot.isTemporary else {
                throw DiskError(.notFound, "\(folder.path): snapshot \(state) is being removed", path: folder.path)
            }
        }
        return try parsing(folder.path) { () throws(ImageError) in
            try descriptor.chain(to: state ?? descriptor.top)
        }
    }

    /// The net below the leases, for programs that don't know them.
    /// - Throws: `.busy` when `state` is not what was opened any more.
    func checkUnchanged(_ state: GUID) throws(DiskError) {
        var now: [DiskDescriptor.Image]?
        do throws(DiskError) { now = try Self.images(of: state, try folder.load(), folder) } catch {
            guard error.code == .notFound else { throw error }
        }
        var isSame = now == images
        for (image, lease) in zip(images, leases) where isSame {
            let path = folder.path(of: image)
            isSame = try withPath(path) { () throws(SystemError) in try folder.fs.identity(of: path) } == lease.file
        }
        guard isSame else {
            throw DiskError(
                .busy,
                "\(folder.path): snapshot \(state) was changed or removed while it was read, so what was read is "
                    + "worthless; take a new one", path: folder.path)
        }
    }
}
