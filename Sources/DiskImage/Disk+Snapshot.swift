internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// A top delta in waiting.
public final class PreparedSnapshot: Sendable {
    /// The name that the frozen state will have.
    public let guid: String
    let name: GUID
    /// As the descriptor will name it.
    let file: String
    let delta: WritableDelta

    init(name: GUID, file: String, delta: WritableDelta) {
        guid = name.description
        self.name = name
        self.file = file
        self.delta = delta
    }
}

extension Disk {
    /// Makes the next top delta, durably and without effect on the device.
    /// - Parameter guid: the name that the frozen state will have; `nil`: a new one.
    public func prepareSnapshot(guid: String? = nil) throws(DiskError) -> PreparedSnapshot {
        let folder = try writableFolder()
        let name = try snapshotName(guid)
        try begin(.prepare)
        do throws(DiskError) {
            try finishFrozen()
            // Somebody waits for the snapshot: what is more to move than this stays for a better time.
            do throws(DiskError) {
                _ = try compact(bytesMax: min(options.compactBytesMax, Self.compactBeforeBytes), .atOnce)
            } catch {
                // A snapshot takes less space than a place for a cluster may.
                guard error.code == .outOfSpace else { throw error }
            }
            // What is flushed now need not be in the switch.
            try flush()
            let prepared = try makeDelta(name, in: folder)
            maintenance.change { state in
                state.prepared = prepared
                state.activities.turn(.prepare, into: .prepared)
            }
            return prepared
        } catch {
            end(.prepare)
            throw error
        }
    }

    private static let compactBeforeBytes: UInt64 = 64 << 20

    func writableFolder() throws(DiskError) -> DiskFolder {
        guard let folder else {
            throw DiskError(
                .unsupported, "\(path) is an image without a descriptor; import it into a disk to take snapshots",
                path: path)
        }
        guard !options.readOnly else { throw DiskError(.readOnly, "\(path) is open for reading only", path: path) }
        try proveOwned()
        return folder
    }

    /// - Throws: `.busy` when the disk was closed meanwhile: what its place holds then is the next owner's.
    func proveOwned() throws(DiskError) {
        do throws(DiskError) { try folder?.proveOwned() } catch {
            guard maintenance.withLock({ $0.activities.isUnderWay(.close) }) else { throw error }
            throw DiskError.busy(.close, path: path)
        }
    }

    private func snapshotName(_ guid: String?) throws(DiskError) -> GUID {
        guard let guid else { return try newName() }
        guard let name = GUID(typed: guid) else {
            throw DiskError(
                .invalid, "\(guid) is no name of a snapshot: 36 letters, digits and dashes are needed", path: path)
        }
        return name
    }

    func newName() throws(DiskError) -> GUID {
        guard let name = GUID(random: randomBytes(16)) else {
            throw DiskError(.io, "\(path): the system has no random bytes", path: path)
        }
        return name
    }

    private func makeDelta(_ name: GUID, in folder: DiskFolder) throws(DiskError) -> PreparedSnapshot {
        guard let top = gate.chain.top else { throw DiskError(.invalid, "\(path) has no image", path: path) }
        if top.isRaw, top.byteCount % top.clusterSize.bytes != 0 {
            throw DiskError(
                .unsupported,
                "\(path): a raw base of \(top.byteCount) bytes, which are no whole clusters, can't have a snapshot: "
                    + "resize the disk first", path: path)
        }
        let unique = try newName()
        let descriptor = try folder.load()
        let file = descriptor.newDeltaFile(unique)
        // Refuses now what would be refused in the switch.
        var trial = descriptor
        try parsing(path) { () throws(ImageError) in try trial.addSnapshot(name, newTopFile: file) }
        var header: ImageHeader
        if let current = gate.chain.writable?.header {
            header = current
        } else {
            header = try parsing(path) { () throws(ImageError) in
                try ImageHeader(version: .v2, sectorCount: top.byteCount / sectorBytes, clusterSize: top.clusterSize)
            }
        }
        header.inUse = .open
        header.flags = []
        header.extensionSector = 0
        let delta = try makeFile(header, file, in: folder)
        guard let bat = delta.bat else { throw DiskError(.io, "\(delta.path) has no block table", path: delta.path) }
        let allocator = ClusterAllocator(
            delta: delta, bat: bat, next: bat.firstDataCluster, free: [], reserveAheadBytes: options.reserveAheadBytes)
        return PreparedSnapshot(
            name: name, file: file,
            delta: WritableDelta(delta: delta, allocator: allocator, isMarked: true, isUntidy: true))
    }

    private func makeFile(_ header: ImageHeader, _ name: String, in folder: DiskFolder) throws(DiskError) -> DeltaFile {
        let path = folder.path(ofFile: name)
        try folder.noteLeftover(name)
        do throws(DiskError) {
            let file = try withPath(path) { () throws(SystemError) in
                try fs.open(path, OpenMode(writable: true, creation: .exclusive))
            }
            try withPath(path) { () throws(SystemError) in
                if let top = gate.chain.top { file.takeAttributes(of: top.path) }
                try NewImage.writeEmpty(header, to: file)
                try file.synchronize()
            }
            try folder.synchronizeNames(besides: [name])
            return try DeltaFile.open(path, in: fs, writable: true, direct: options.direct)
        } catch {
            folder.removeFile(name)
            throw error
        }
    }

    /// Switches to the prepared delta. Writes are held while it runs; what was written before is in the frozen state.
    public func commitSnapshot(_ prepared: PreparedSnapshot) throws(DiskError) -> CommittedSnapshot {
        try commit(prepared, isTemporary: false)
    }

    func commit(_ prepared: PreparedSnapshot, isTemporary: Bool) throws(DiskError) -> CommittedSnapshot {
        let folder = try writableFolder()
        let isMine = try maintenance.change { state throws(DiskError) in
            // In one step: who closes waits for a commit that has begun, and for nothing that is prepared.
            if state.activities.isUnderWay(.close) { throw DiskError.busy(.close, path: path) }
            guard state.prepared === prepared else { return false }
            state.prepared = nil
            state.activities.turn(.prepared, into: .commit)
            return true
        }
        guard isMine else { throw DiskError(.invalid, "\(path): that snapshot is not prepared", path: path) }
        do throws(DiskError) {
            let committed = try folder.withDescriptorLock { () throws(DiskError) in
                var descriptor = try folder.load()
                try parsing(path) { () throws(ImageError) in
                    try descriptor.addSnapshot(prepared.name, newTopFile: prepared.file)
                    if isTemporary { try descriptor.markTemporary(prepared.name) }
                }
                try folder.stage(descriptor)
                return try during(.swap) { () throws(DiskError) in try switchTop(prepared, folder, descriptor) }
            }
            // It holds data from now on. What can't be stored is tried again with the next change of the list.
            try? folder.keepLeftovers([prepared.file])
            end(.commit)
            return committed
        } catch {
            // Still prepared: to be tried again or abandoned. Unless the disk has failed: then the descriptor may name
            // the new top, which must stay. The next open knows, and removes it if it is not needed.
            let isFailed = gate.failure != nil
            maintenance.change { state in
                guard !isFailed else { return state.activities.end(.commit) }
                state.prepared = prepared
                state.activities.turn(.commit, into: .prepared)
            }
            throw error
        }
    }

    /// The switch itself: I6.
    private func switchTop(
        _ prepared: PreparedSnapshot, _ folder: DiskFolder, _ descriptor: DiskDescriptor
    ) throws(DiskError) -> CommittedSnapshot {
        let start = SystemTime().monotonic()
        try gate.pauseWrites()
        defer { gate.resumeWrites() }
        try flush()
        let old = gate.chain.writable
        try commitStaged(descriptor, folder)
        // From the descriptor on nothing can fail.
        gate.exclusively { chain in Chain(deltas: chain.deltas + [prepared.delta.delta], writable: prepared.delta) }
        let end = SystemTime().monotonic()
        if let old { noteFrozen(old) }
        return CommittedSnapshot(guid: prepared.guid, switchNanoseconds: end - start)
    }

    /// Puts a descriptor with another top in place.
    func commitStaged(_ descriptor: DiskDescriptor, _ folder: DiskFolder) throws(DiskError) {
        do throws(DiskFolder.CommitFailure) {
            try folder.commitStaged(descriptor)
        } catch {
            // Nobody knows which descriptor a crash would leave, so nothing may be written to either top any more.
            if error.isUndecided { gate.fail(error.error) }
            throw error.error
        }
    }

    /// Removes a prepared delta that will not be used.
    public func abandonSnapshot(_ prepared: PreparedSnapshot) {
        let isMine = maintenance.change { state in
            guard state.prepared === prepared else { return false }
            state.prepared = nil
            return true
        }
        guard isMine else { return }
        folder?.removeFile(prepared.file)
        end(.prepared)
    }

    /// The whole tree, parents before their children.
    /// - Throws: `.corrupt`, and `.inUse`, when what is there is not what is served.
    public func snapshots() throws(DiskError) -> [SnapshotInfo] {
        try proveOwned()
        return try folder?.snapshots() ?? []
    }
}

extension DiskFolder {
    /// The whole tree, parents before their children.
    func snapshots() throws(DiskError) -> [SnapshotInfo] {
        let descriptor = try load()
        var found: [SnapshotInfo] = []
        var waiting = descriptor.children(of: .none)
        while !waiting.isEmpty {
            let guid = waiting.removeFirst()
            waiting += descriptor.children(of: guid)
            guard let image = descriptor.image(guid), let shot = descriptor.shot(guid) else { continue }
            let path = path(of: image)
            let allocated = try withPath(path) { () throws(SystemError) in try fs.open(path, .read).allocatedBytes() }
            found.append(
                SnapshotInfo(
                    guid: guid.description, parent: shot.parent == .none ? nil : shot.parent.description,
                    file: image.file,
                    isTop: guid == descriptor.top, isTemporary: shot.isTemporary, allocatedBytes: allocated))
        }
        return found
    }
}
