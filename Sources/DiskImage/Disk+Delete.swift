internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

extension Disk {
    /// A top with at most so many bytes of clusters is merged with writes held back.
    private static let heldMergeBytes: UInt64 = 32 << 20
    /// How often a top that grows while it is merged is followed with another one, before it is left for later.
    private static let followsMax = 12
    /// So many times the writes are not slowed down; after that a little more each time.
    private static let freeFollows = 2

    /// Removes the state `guid` from the tree: the delta above it is merged into its file while the device is in use.
    ///
    /// A state with several children is only marked, and goes when one of them is left. If the delta above is the top,
    /// it is frozen under a temporary name first, and so is what was written meanwhile. When writes come in faster than
    /// they can be merged they are slowed down; should even that not do, a temporary state stays for a later merge.
    /// - Parameter progress: called now and then with clusters done and in all; `false` stops, a later call goes on.
    /// - Returns: whether it was finished.
    @discardableResult public func deleteSnapshot(
        _ guid: String, progress: (_ done: UInt64, _ total: UInt64) -> Bool = { _, _ in true }
    ) throws(DiskError) -> Bool {
        let folder = try writableFolder()
        guard let name = GUID(typed: guid) else {
            throw DiskError(.invalid, "\(guid) is no name of a snapshot", path: path)
        }
        return try during(.merge) { () throws(DiskError) in
            try noting { () throws(DiskError) in
                try finishFrozen()
                return try delete(name, folder) { done, total in
                    !isAskedToStop(.merge) && progress(done, total)
                }
            }
        }
    }

    private func delete(
        _ name: GUID, _ folder: DiskFolder, _ progress: (UInt64, UInt64) -> Bool
    ) throws(DiskError) -> Bool {
        var next: GUID? = name
        var follows = 0
        while let current = next {
            switch try deleteOnce(current, folder, follows: &follows, progress) {
            case .done(let survivor): next = try temporaryToDelete(survivor, folder)
            case .stopped: return false
            case .topChanged: continue
            }
        }
        return true
    }

    private enum Outcome {
        /// The state that has the place of the removed one, if any.
        case done(GUID?)
        case stopped
        /// Nothing was done: the top is another one by now, or too large to be merged with writes held.
        case topChanged
    }

    private func deleteOnce(
        _ name: GUID, _ folder: DiskFolder, follows: inout Int, _ progress: (UInt64, UInt64) -> Bool
    ) throws(DiskError) -> Outcome {
        let descriptor = try folder.load()
        guard let shot = descriptor.shot(name) else {
            throw DiskError(.notFound, "\(path): there is no snapshot \(name)", path: path)
        }
        guard name != descriptor.top else {
            throw DiskError(.invalid, "\(path): \(name) is the writable state, no snapshot", path: path)
        }
        let children = descriptor.children(of: name)
        switch children.count {
        case 0:
            try removeLeaf(name, folder)
            return .done(shot.parent == .none ? nil : shot.parent)
        case 1:
            // Before anything is marked or frozen for it: who reads the state may go on, and both are written to.
            try refuseOtherNames(of: try imagePath(of: name, descriptor, folder), in: folder.fs)
            try refuseOtherNames(of: try imagePath(of: children[0], descriptor, folder), in: folder.fs)
            let lease = try leaseBelow(try imagePath(of: name, descriptor, folder))
            if children[0] != descriptor.top {
                return try mergeFrozen(children[0], into: name, folder, lease, progress)
            }
            return try mergeTop(into: name, folder, lease, follows: &follows, progress)
        default:
            try folder.updateDescriptor { descriptor throws(ImageError) in try descriptor.markTemporary(name) }
            return .done(nil)
        }
    }

    /// A temporary state that nothing keeps any more.
    private func temporaryToDelete(_ name: GUID?, _ folder: DiskFolder) throws(DiskError) -> GUID? {
        guard let name else { return nil }
        let descriptor = try folder.load()
        guard descriptor.shot(name)?.isTemporary == true, descriptor.children(of: name).count == 1 else { return nil }
        return name
    }

    private func imagePath(
        of name: GUID, _ descriptor: DiskDescriptor, _ folder: DiskFolder
    ) throws(DiskError) -> String {
        folder.path(ofFile: try imageFile(of: name, descriptor))
    }

    private func imageFile(of name: GUID, _ descriptor: DiskDescriptor) throws(DiskError) -> String {
        guard let image = descriptor.image(name) else {
            throw DiskError(.corrupt, "\(path): the descriptor names no image of snapshot \(name)", path: path)
        }
        return image.file
    }

    /// The descriptor first, then the file.
    private func removeLeaf(_ name: GUID, _ folder: DiskFolder) throws(DiskError) {
        let descriptor = try folder.load()
        let lease = try leaseBelow(try imagePath(of: name, descriptor, folder))
        let file = try imageFile(of: name, descriptor)
        try folder.lettingGo(of: file) { () throws(DiskError) in
            _ = try folder.updateDescriptor { descriptor throws(ImageError) in try descriptor.removeLeaf(name) }
        }
        forget(lease)
        folder.removeFile(file)
    }

    /// The file of a lease is finished by somebody else, or goes: the finisher need not.
    private func forget(_ lease: borrowing ExclusiveLease) {
        let path = lease.path
        maintenance.change { $0.unfinished.removeAll { $0.delta.path.isSame(as: path) } }
    }

    // MARK: A child that is frozen

    /// - Parameters:
    ///   - lease: of the parent.
    ///   - willWait: called before the host is waited for at length.
    private func mergeFrozen(
        _ childName: GUID, into parentName: GUID, _ folder: DiskFolder, _ lease: consuming ExclusiveLease,
        willWait: () -> Void = {}, _ progress: (UInt64, UInt64) -> Bool
    ) throws(DiskError) -> Outcome {
        var lease = lease
        let childLease = try leaseBelow(try imagePath(of: childName, try folder.load(), folder))
        let descriptor = try markTemporary(parentName, folder)
        let pair = try openPair(descriptor, childName, folder)
        guard pair.parent.path.isSame(as: lease.path) else {
            throw DiskError(.busy, "\(path): the disk's snapshots have changed meanwhile; try again", path: path)
        }
        forget(lease)
        let parent = try beginMerge(pair, lease)
        let merge = DeltaMerge(
            child: pair.child, parent: parent, below: pair.below, pool: pool,
            bytesPerSecond: options.mergeBytesPerSecond)
        do throws(DiskError) {
            let end = try merge.run(lease, willWait: willWait, progress)
            if case .stopped(let page) = end {
                _ = try finish(parent, &lease)
                try merge.letGo(beforePage: page, childLease)
                try forgetPlaces()
                return .stopped
            }
            try merge.closeGaps(lease, bytesMax: options.compactBytesMax)
            folder.removeFile(try takeOut(childName, pair, parent.delta, folder))
        } catch {
            // First of all, as the finisher may look at once.
            noteLoss(error)
            maintenance.change { state in
                state.isMapStale = true
                state.unfinished.append(parent)
            }
            throw error
        }
        forget(childLease)
        // Nobody knows the places any more that were moved from.
        parent.allocator?.reclaim(parent.allocator?.takePending() ?? [])
        maintenance.change { $0.unfinished.append(parent) }
        _ = consume lease
        // The state is gone: a failure here is told by what comes next.
        do throws(DiskError) { try finishFrozen() } catch {
            maintenance.change { if $0.finishFailure == nil { $0.finishFailure = error } }
        }
        return .done(childName)
    }

    /// Clusters of a child that no entry names any more are free for the next one who writes there.
    private func forgetPlaces() throws(DiskError) {
        try during(.swap) { () throws(DiskError) in
            try gate.exclusively { chain throws(DiskError) in
                try flushInside()
                map.invalidate()
                return chain
            }
        }
        maintenance.withLock { $0.isMapStale = false }
    }

    /// Takes a merged child out of the descriptor, and of the chain in use if it is part of it. All that can fail comes
    /// before the descriptor; nothing can between it and the chain.
    /// - Returns: the file that the descriptor no longer names.
    private func takeOut(
        _ child: GUID, _ pair: Pair, _ merged: DeltaFile, _ folder: DiskFolder
    ) throws(DiskError) -> String {
        let reopened = try ChainOpener(fs: fs, options: options).open(
            ChainOpener.Place(path: merged.path, rawClusterSize: merged.isRaw ? merged.clusterSize : nil),
            writable: false)
        let file = try imageFile(of: child, try folder.load())
        try folder.lettingGo(of: file) { () throws(DiskError) in
            try folder.withDescriptorLock { () throws(DiskError) in
                var descriptor = try folder.load()
                _ = try parsing(path) { () throws(ImageError) in try descriptor.mergeIntoParent(child) }
                try folder.stage(descriptor)
                guard gate.chain.deltas.contains(where: { $0.path.isSame(as: pair.child.path) }) else {
                    return try commitStaged(descriptor, folder)
                }
                try during(.swap) { () throws(DiskError) in
                    try gate.pauseWrites()
                    defer { gate.resumeWrites() }
                    // From here on the map has nothing that the file has not.
                    try flush()
                    try commitStaged(descriptor, folder)
                    gate.exclusively { chain in
                        map.invalidate()
                        return chain.without(pair.child.path, putting: reopened)
                    }
                }
            }
        }
        return file
    }

    /// From the merge's first write on, the state is no longer what was frozen; only those above it are whole. Whoever
    /// sees it after a crash has to know.
    private func markTemporary(_ name: GUID, _ folder: DiskFolder) throws(DiskError) -> DiskDescriptor {
        let descriptor = try folder.load()
        if descriptor.shot(name)?.isTemporary == true { return descriptor }
        return try folder.updateDescriptor { descriptor throws(ImageError) in
            try descriptor.markTemporary(name)
            return descriptor
        }
    }

    private struct Pair {
        var below: [DeltaFile]
        /// Both opened for writing.
        var parent: DeltaFile
        var child: DeltaFile
    }

    /// Opens the files of a state and its parent by themselves: the chain that is in use goes on with its own.
    private func openPair(_ descriptor: DiskDescriptor, _ child: GUID, _ folder: DiskFolder) throws(DiskError) -> Pair {
        let opener = ChainOpener(fs: fs, options: options)
        var places = try ChainOpener.places(descriptor, to: child, in: folder)
        guard let childPlace = places.popLast(), let parentPlace = places.popLast() else {
            throw DiskError(.invalid, "\(path): \(child) has no state below it", path: path)
        }
        var below: [DeltaFile] = []
        for place in places {
            // What the states above hide of it would be uncovered by what its table seems to say.
            if let lost = maintenance.withLock({ $0.doubtful[place.path] }) { throw lost }
            below.append(try opener.open(place, writable: false))
        }
        let pair = Pair(
            below: below, parent: try opener.open(parentPlace, writable: true),
            child: try opener.open(childPlace, writable: true))
        try Chain.check(below + [pair.parent, pair.child], path: path)
        return pair
    }

    /// The parent, marked in use, with its free clusters known, and as large as the child.
    private func beginMerge(_ pair: Pair, _ lease: borrowing ExclusiveLease) throws(DiskError) -> WritableDelta {
        guard let bat = pair.parent.bat, let header = pair.parent.header else {
            return try growRaw(pair.parent, to: pair.child.byteCount)
        }
        // An image has whole clusters, so it would be larger than what lies above it.
        let (size, cluster) = (pair.child.byteCount, pair.parent.clusterSize.bytes)
        guard size <= pair.parent.byteCount || size % cluster == 0 else {
            throw DiskError(
                .unsupported,
                "\(pair.child.path): its size, \(size) bytes, is no whole number of clusters of \(cluster) bytes, so "
                    + "\(pair.parent.path) cannot become as large: grow the disk, or export it", path: pair.child.path)
        }
        // Places that no entry names are cut off, or used, from here on.
        if maintenance.withLock({ $0.isMapStale }) { try forgetPlaces() }
        let outcome = try CrashRepair.run(pair.parent)
        let allocator = ClusterAllocator(
            delta: pair.parent, bat: bat, next: outcome.usedEnd, free: outcome.free,
            reserveAheadBytes: options.reserveAheadBytes)
        let parent = WritableDelta(
            delta: pair.parent, allocator: allocator, isMarked: header.inUse == .open, isUntidy: !header.inUse.isClean)
        try parent.markInUse()
        guard pair.child.byteCount > pair.parent.byteCount else { return parent }
        return try growBelow(parent, toSectors: pair.child.byteCount / sectorBytes, lease)
    }

    private func growRaw(_ delta: DeltaFile, to bytes: UInt64) throws(DiskError) -> WritableDelta {
        var grown = delta
        if bytes > delta.byteCount {
            try delta.attempt { () throws(SystemError) in try delta.file.truncate(to: bytes) }
            try delta.synchronize()
            grown = DeltaFile(rawAt: delta.path, file: delta.file, byteCount: bytes, clusterSize: delta.clusterSize)
        }
        return WritableDelta(delta: grown, allocator: nil, isMarked: true, isUntidy: false)
    }

    // MARK: A child that is written to

    /// Merges the top into the state below it: at once when it is small, otherwise by freezing it under a temporary
    /// name, merging that, and going on with what was written meanwhile.
    private func mergeTop(
        into parent: GUID, _ folder: DiskFolder, _ lease: consuming ExclusiveLease, follows: inout Int,
        _ progress: (UInt64, UInt64) -> Bool
    ) throws(DiskError) -> Outcome {
        if try isTopSmall() {
            return try mergeTopHeld(into: parent, folder, lease, progress)
        }
        // What was asked for is done by now: the state that was to go is gone.
        guard follows < Self.followsMax else { return .done(nil) }
        follows += 1
        let prepared = try prepareSnapshot()
        do throws(DiskError) {
            let descriptor = try folder.load()
            guard descriptor.children(of: parent) == [descriptor.top] else {
                // A snapshot that was on its way when this began has ended: it is another child by now.
                abandonSnapshot(prepared)
                return .topChanged
            }
            _ = try commit(prepared, isTemporary: true)
        } catch {
            // Nobody else could.
            abandonSnapshot(prepared)
            throw error
        }
        try finishFrozen()
        var brake = WriteBrake(gate, strength: follows - Self.freeFollows)
        defer { brake.release() }
        return try mergeFrozen(prepared.name, into: parent, folder, lease, willWait: { brake.release() }) {
            done, total in
            brake.step()
            return progress(done, total)
        }
    }

    private enum TopSwap: Equatable {
        /// The descriptor no longer names that file.
        case done(leftover: String)
        case stopped
        /// Nothing was copied.
        case grew
    }

    /// Whether the top can be merged while writes are held.
    private func isTopSmall() throws(DiskError) -> Bool {
        guard let allocator = gate.chain.writable?.allocator else {
            throw DiskError(.invalid, "\(path): the top has no image below it", path: path)
        }
        return allocator.usedCount * clusterSize.bytes <= max(Self.heldMergeBytes, clusterSize.bytes)
    }

    private func mergeTopHeld(
        into parentName: GUID, _ folder: DiskFolder, _ lease: consuming ExclusiveLease,
        _ progress: (UInt64, UInt64) -> Bool
    ) throws(DiskError) -> Outcome {
        // A delta that waits to become the top was made for this one.
        try during(.mergeTop) { () throws(DiskError) in
            // A snapshot may have come in before.
            let before = try folder.load()
            guard before.children(of: parentName) == [before.top] else { return .topChanged }
            let topLease = try leaseBelow(try imagePath(of: before.top, before, folder))
            let descriptor = try markTemporary(parentName, folder)
            let pair = try openPair(descriptor, descriptor.top, folder)
            forget(lease)
            let parent = try beginMerge(pair, lease)
            let merge = DeltaMerge(child: pair.child, parent: parent, below: pair.below, pool: pool, bytesPerSecond: 0)
            do throws(DiskError) {
                let outcome = try swapTop(merge, lease, folder, progress)
                forget(topLease)
                if case .done(let file) = outcome {
                    folder.removeFile(file)
                    return .done(nil)
                }
                maintenance.change { $0.unfinished.append(parent) }
                return outcome == .stopped ? .stopped : .topChanged
            } catch {
                noteLoss(error)
                maintenance.change { $0.unfinished.append(parent) }
                throw error
            }
        }
    }

    /// Merges the top while writes are held, and goes on in the file below. What may be waited for comes before that.
    private func swapTop(
        _ merge: DeltaMerge, _ lease: borrowing ExclusiveLease, _ folder: DiskFolder,
        _ progress: (UInt64, UInt64) -> Bool
    ) throws(DiskError) -> TopSwap {
        let lock = try folder.lockDescriptor()
        defer { withExtendedLifetime(lock) {} }
        var descriptor = try folder.load()
        let file = try parsing(path) { () throws(ImageError) in try descriptor.mergeIntoParent(descriptor.top) }
        try folder.stage(descriptor)
        try begin(.swap)
        defer { end(.swap) }
        try gate.pauseWrites()
        defer { gate.resumeWrites() }
        // It may have taken a minute to get here, and whatever is there now is copied with the guest standing still.
        guard try isTopSmall() else { return .grew }
        try flush()
        var isDone = false
        defer {
            // The top hides what the file below got by now, which the map does not know: a discard would uncover it.
            if !isDone {
                gate.exclusively { chain in
                    map.invalidate()
                    return chain
                }
            }
        }
        guard try merge.run(lease, progress) == .all else { return .stopped }
        // Not before: until here the top alone has what was written to it.
        try folder.lettingGo(of: file) { () throws(DiskError) in try commitStaged(descriptor, folder) }
        isDone = true
        let parent = merge.parent
        gate.exclusively { chain in
            map.invalidate()
            let allocated = chain.writable?.allocator?.allocatedCount ?? 0
            maintenance.withLock { $0.allocatedBefore += allocated }
            return Chain(deltas: Array(chain.deltas.dropLast(2)) + [parent.delta], writable: parent)
        }
        return .done(leftover: file)
    }
}
