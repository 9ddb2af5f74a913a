public import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

extension Disk {
    /// Takes the lock (unless only reading), repairs what was not closed, and opens the chain of deltas.
    /// - Parameter path: the disk's folder, its `DiskDescriptor.xml`, or a bare image.
    public static func open(
        _ path: String, in fs: any FileSystem, options: DiskOptions = .standard
    ) throws(DiskError) -> Disk {
        switch try DiskLocation.find(path, in: fs) {
        case .folder(let folder):
            guard !options.readOnly else {
                let leased = try LeasedChain.open(folder, state: nil, options: options)
                return Disk(
                    path: folder.path, fs: fs, options: options, folder: folder, locks: leased.leases,
                    chain: leased.chain, isRepaired: false)
            }
            let lock = try folder.lockOwner()
            let folder = folder.owned(by: lock)
            let descriptor = try folder.load()
            // The record stays until what is opened now takes its place.
            if let failure = try folder.otherServed(than: descriptor) { throw failure }
            let opener = ChainOpener(fs: fs, options: options)
            let chain = try opener.open(
                try ChainOpener.places(descriptor, to: descriptor.top, in: folder), path: folder.path)
            let disk = Disk(
                path: folder.path, fs: fs, options: options, folder: folder, locks: [lock], chain: chain.chain,
                isRepaired: chain.isRepaired)
            // Repairs take their time, and ploop's tools need no lock of ours.
            guard try folder.load().encode() == descriptor.encode() else {
                throw DiskError(
                    .busy,
                    "\(folder.path): another program changed the descriptor while the disk was opened; try again",
                    path: folder.path)
            }
            try folder.noteServed(descriptor)
            try folder.removeLeftovers(descriptor)
            try disk.recordMissedSize(descriptor)
            return disk
        case .image(let image):
            let locks: [any HeldLock]
            if !options.readOnly {
                try refusePart(of: image, in: fs)
                locks = try lockForWriting(image, in: fs)
            } else {
                locks = try SharedLeases.take([image], in: fs).held
            }
            let opener = ChainOpener(fs: fs, options: options)
            let chain = try opener.open([ChainOpener.Place(path: image, rawClusterSize: nil)], path: image)
            return Disk(
                path: image, fs: fs, options: options, folder: nil, locks: locks, chain: chain.chain,
                isRepaired: chain.isRepaired)
        }
    }
}

/// Opens the files of a chain, checks that they belong together, and repairs those that were not closed.
struct ChainOpener {
    struct Place {
        var path: String
        /// Of a raw base; `nil` for an image, which says it itself.
        var rawClusterSize: ClusterSize?
    }

    let fs: any FileSystem
    let options: DiskOptions

    /// The files of a state of a disk, base first.
    static func places(
        _ descriptor: DiskDescriptor, to guid: GUID, in folder: DiskFolder
    ) throws(DiskError) -> [Place] {
        let images = try parsing(folder.path) { () throws(ImageError) in try descriptor.chain(to: guid) }
        var places: [Place] = []
        for image in images {
            var place = Place(path: folder.path(of: image), rawClusterSize: nil)
            if descriptor.kind(of: image.guid) == .raw {
                guard let clusterSize = ClusterSize(sectors: descriptor.clusterSectors) else {
                    throw DiskError(
                        .unsupported,
                        "\(folder.path): clusters of \(descriptor.clusterSectors) sectors; a power of two "
                            + "from 64 to 131072 is needed", path: folder.path)
                }
                place.rawClusterSize = clusterSize
            }
            places.append(place)
        }
        return places
    }

    func open(_ places: [Place], path: String) throws(DiskError) -> (chain: Chain, isRepaired: Bool) {
        var deltas: [DeltaFile] = []
        for (index, place) in places.enumerated() {
            let delta = try open(place, writable: !options.readOnly && index == places.count - 1)
            // A header does not tell: a raw file has none, and a merge may change an image that was closed.
            deltas.append(options.readOnly ? delta : try delta.readAnew())
        }
        try Chain.check(deltas, path: path)
        guard !options.readOnly, let top = deltas.last else {
            return (Chain(deltas: deltas, writable: nil), false)
        }
        try top.refuseNeededExtension()
        // The driver's new top says that it was closed from before anything is written to it.
        let isBelowOpen = deltas.dropLast().last?.header?.inUse.isClean == false
        // One of these is left so by a merge or a finish that was stopped; the disk may have been closed all the same.
        for delta in deltas.dropLast() where delta.header?.inUse.isClean == false {
            // Who reads it reads the same before and after: it can wait until the next time.
            guard try !hasOtherNames(delta.path, in: fs),
                let lease = try ExclusiveLease.takeIfFree(delta.path, in: fs)
            else { continue }
            try repairLower(delta, lease)
        }
        guard let header = top.header, !header.inUse.isClean else {
            // A closed image may come from anybody.
            try CrashRepair.examine(top)
            let writable = try WritableDelta.continuing(top, reserveAheadBytes: options.reserveAheadBytes)
            let isNew = isBelowOpen && writable.allocator?.usedCount == 0
            return (Chain(deltas: deltas, writable: writable), isNew)
        }
        return (Chain(deltas: deltas, writable: try repairTop(top, header.inUse)), true)
    }

    func open(_ place: Place, writable: Bool) throws(DiskError) -> DeltaFile {
        if let clusterSize = place.rawClusterSize {
            return try DeltaFile.openRaw(place.path, clusterSize: clusterSize, in: fs, writable: writable)
        }
        return try DeltaFile.open(place.path, in: fs, writable: writable, direct: options.direct)
    }

    private func repairTop(_ top: DeltaFile, _ mark: InUseMark) throws(DiskError) -> WritableDelta {
        guard let bat = top.bat else {
            return try WritableDelta.continuing(top, reserveAheadBytes: options.reserveAheadBytes)
        }
        let outcome = try CrashRepair.run(top)
        let allocator = ClusterAllocator(
            delta: top, bat: bat, next: outcome.usedEnd, free: outcome.free,
            reserveAheadBytes: options.reserveAheadBytes)
        let writable = WritableDelta(delta: top, allocator: allocator, isMarked: mark == .open, isUntidy: true)
        try writable.markInUse()
        return writable
    }

    /// A crash in a merge, or soon after a snapshot, leaves marks below the top, too. Nothing writes there now, so
    /// these are closed at once.
    private func repairLower(_ delta: DeltaFile, _ lease: consuming ExclusiveLease) throws(DiskError) {
        var lease = lease
        let writable = try open(Place(path: delta.path, rawClusterSize: nil), writable: true)
        guard let header = writable.header else { return }
        let repaired = try repairTop(writable, header.inUse)
        let usedEnd = repaired.allocator?.trimEnd() ?? 0
        _ = try Tidying.run(writable, usedEnd: usedEnd, BufferPool(), &lease)
        try repaired.markClosed(isEmpty: usedEnd == header.firstDataCluster)
    }
}
