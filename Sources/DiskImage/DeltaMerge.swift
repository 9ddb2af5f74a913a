internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// Copies a delta's data into the file of the delta below it.
///
/// Everything that this changes in the parent is hidden by the child as long as the child is in the chain, so readers
/// and a crash at any point see the same device. Data is durable before the block table's entry that points to it, page
/// by page of the table; at the end all is durable. Doing it again is harmless.
struct DeltaMerge {
    let child: DeltaFile
    let parent: WritableDelta
    /// The deltas below the parent.
    let below: [DeltaFile]
    let pool: BufferPool
    let bytesPerSecond: UInt64

    private var size: ClusterSize { child.clusterSize }

    /// - Parameters:
    ///   - lease: of the parent.
    ///   - willWait: called before the host is waited for at length.
    ///   - progress: gets clusters done and in all; `false` stops.
    /// - Returns: how much was copied, durably.
    func run(
        _ lease: borrowing ExclusiveLease, willWait: () -> Void = {}, _ progress: (UInt64, UInt64) -> Bool
    ) throws(DiskError) -> End {
        precondition(lease.path.isSame(as: parent.delta.path), "the right to change another file")
        guard let scanner = BatScanner(child) else {
            throw DiskError(
                .unsupported, "\(child.path) is raw, and a raw image has nothing below it", path: child.path)
        }
        var total: UInt64 = 0
        try scanner.forEachEntry { _, _ throws(DiskError) in total += 1 }
        let fileBytes = try child.attempt { () throws(SystemError) in try child.file.size() }
        var limiter = RateLimiter(bytesPerSecond: bytesPerSecond)
        var done: UInt64 = 0
        var page: UInt64 = 0
        while let found = try scanner.nextPage(from: page) {
            var table = try ParentPage(found, parent, below, pool)
            var isStopped = false
            for cluster in scanner.clusters(on: found) where scanner.raw(cluster) != 0 {
                guard case .cluster(let place) = scanner.bat.decode(scanner.raw(cluster), fileBytes: fileBytes) else {
                    throw DiskError(
                        .corrupt, "\(child.path): the entry of cluster \(cluster) is damaged; check the disk",
                        path: child.path)
                }
                try copy(cluster, from: place, &table)
                done += 1
                limiter.pass(size.bytes)
                guard progress(done, total) else {
                    isStopped = true
                    break
                }
            }
            willWait()
            try table.write(to: parent)
            if isStopped {
                try synchronize()
                return .stopped(beforePage: found)
            }
            page = found + 1
        }
        willWait()
        try synchronize()
        return .all
    }

    enum End: Equatable {
        case all
        /// Everything on the pages of the child's table below that one.
        case stopped(beforePage: UInt64)
    }

    /// Takes what the parent has by now out of the child's table, so that whoever goes on with the merge finds in the
    /// child's file what is left to do, whatever happened in between. The chain reads the same with and without it. The
    /// clusters in the child's file are left alone: who looks them up in a map from before still finds them.
    /// - Parameter lease: of the child, which is open for writing.
    func letGo(beforePage end: UInt64, _ lease: borrowing ExclusiveLease) throws(DiskError) {
        precondition(lease.path.isSame(as: child.path), "the right to change another file")
        // A bitmap of other software would be out of date: its image stays as it is.
        guard let scanner = BatScanner(child), child.header?.extensionSector == 0 else { return }
        let buffer = AlignedBuffer(byteCount: DeltaFile.pageBytes)
        var page: UInt64 = 0
        while let found = try scanner.nextPage(from: page), found < end {
            let kept = found == 0 ? DeltaFile.headerSlots * 4 : 0
            try child.attempt { () throws(SystemError) in
                let offset = found * UInt64(DeltaFile.pageBytes)
                if kept > 0 { try unsafe child.file.read(at: offset, into: buffer.memory) }
                unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.memory[kept...]).fillWithZeros()
                try unsafe child.file.write(at: offset, from: UnsafeRawBufferPointer(buffer.memory))
            }
            page = found + 1
        }
        if page > 0 { try child.synchronize() }
    }

    private func synchronize() throws(DiskError) {
        // Frees before the synchronisation after which they count.
        let freed = parent.allocator?.takePending() ?? []
        try parent.delta.synchronize()
        parent.allocator?.reclaim(freed)
    }

    // MARK: One cluster

    private func copy(_ cluster: UInt64, from place: UInt64, _ table: inout ParentPage) throws(DiskError) {
        let source = size.offset(of: place)
        var target: (base: UInt64, isZero: Bool)?
        var position: UInt64 = 0
        while position < size.bytes {
            let count = min(UInt64(BufferPool.pieceBytes), size.bytes - position)
            try unsafe pool.withBuffer(Int(count)) { buffer throws(DiskError) in
                try child.attempt { () throws(SystemError) in
                    try unsafe child.file.read(at: source + position, into: buffer)
                }
                let isZero = UnsafeRawBufferPointer(buffer).isAllZero
                // Only zeros so far: whether there has to be a place is not known yet.
                if target == nil, isZero { return }
                if target == nil { target = try self.target(cluster, &table, zerosBefore: position) }
                guard let place = target, !(isZero && place.isZero) else { return }
                try parent.delta.attempt { () throws(SystemError) in
                    try unsafe parent.delta.file.write(at: place.base + position, from: UnsafeRawBufferPointer(buffer))
                }
            }
            position += count
        }
        if target == nil { try zero(cluster, &table) }
    }

    /// Where a cluster goes in the parent; what came before `zerosBefore` reads as zeros there.
    private func target(
        _ cluster: UInt64, _ table: inout ParentPage, zerosBefore: UInt64
    ) throws(DiskError) -> (base: UInt64, isZero: Bool) {
        let place = try self.place(of: cluster, &table)
        let base = size.offset(of: place.cluster)
        if !place.isZero { try writeZeros(base, zerosBefore) }
        return (base, place.isZero)
    }

    private func place(of cluster: UInt64, _ table: inout ParentPage) throws(DiskError) -> ClusterAllocator.Allocation {
        guard let allocator = parent.allocator, let bat = parent.delta.bat else {
            return ClusterAllocator.Allocation(cluster: cluster, isZero: false)
        }
        if let present = try table.place(of: cluster) {
            return ClusterAllocator.Allocation(cluster: present, isZero: false)
        }
        let fresh = try parent.delta.attempt { () throws(SystemError) in try allocator.allocate() }
        // The allocator hands out only what can be expressed.
        table.set(cluster, bat.encode(fresh.cluster) ?? 0)
        return fresh
    }

    private func writeZeros(_ base: UInt64, _ count: UInt64) throws(DiskError) {
        var done: UInt64 = 0
        while done < count {
            let part = min(UInt64(BufferPool.pieceBytes), count - done)
            try parent.delta.attempt { () throws(SystemError) in
                try unsafe parent.delta.file.write(
                    at: base + done, from: UnsafeRawBufferPointer(ZeroMemory.bytes(Int(part))))
            }
            done += part
        }
    }

    /// The child holds only zeros for this cluster.
    private func zero(_ cluster: UInt64, _ table: inout ParentPage) throws(DiskError) {
        guard let allocator = parent.allocator else {
            let base = size.offset(of: cluster)
            let count = parent.delta.validBytes(of: cluster, deviceBytes: parent.delta.byteCount)
            let isGiven = try parent.delta.attempt { () throws(SystemError) in
                try parent.delta.file.punch(offset: base, count: count)
            }
            if !isGiven { try writeZeros(base, count) }
            return
        }
        let present = try table.place(of: cluster)
        if try !table.hasBelow(cluster) {
            guard let present else { return }
            table.set(cluster, 0)
            allocator.release(present)
            return
        }
        if let present {
            let base = size.offset(of: present)
            let isPunched = try parent.delta.attempt { () throws(SystemError) in
                try parent.delta.file.punch(offset: base, count: size.bytes)
            }
            if isPunched { parent.noteHole() } else { try writeZeros(base, size.bytes) }
            return
        }
        let hole = try parent.delta.attempt { () throws(SystemError) in try allocator.allocateHole() }
        if let hole, let bat = parent.delta.bat {
            parent.noteHole()
            return table.set(cluster, bat.encode(hole) ?? 0)
        }
        let place = try self.place(of: cluster, &table)
        if !place.isZero { try writeZeros(size.offset(of: place.cluster), size.bytes) }
    }
}

/// A page of the parent's table while the child's clusters on it are copied.
private struct ParentPage {
    private let number: UInt64
    private let parent: WritableDelta
    private let below: [DeltaFile]
    private let pool: BufferPool
    private var bytes: [UInt8] = []
    private var fileBytes: UInt64 = 0
    /// What the deltas below have, once it was asked for.
    private var lower: [MapEntry]?

    init(
        _ number: UInt64, _ parent: WritableDelta, _ below: [DeltaFile], _ pool: BufferPool
    ) throws(DiskError) {
        self.number = number
        self.parent = parent
        self.below = below
        self.pool = pool
        guard !parent.delta.isRaw else { return }
        (bytes, fileBytes) = try parent.delta.attempt { () throws(SystemError) in
            (try DeltaFile.readPage(number, of: parent.delta.file), try parent.delta.file.size())
        }
    }

    func place(of cluster: UInt64) throws(DiskError) -> UInt64? {
        guard let bat = parent.delta.bat else { return nil }
        switch bat.decode(raw(cluster), fileBytes: fileBytes) {
        case .unallocated: return nil
        case .cluster(let place): return place
        case .invalid:
            throw DiskError(
                .corrupt, "\(parent.delta.path): the entry of cluster \(cluster) is damaged; check the disk",
                path: parent.delta.path)
        }
    }

    private func raw(_ cluster: UInt64) -> UInt32 {
        let offset = DeltaFile.place(of: cluster).slot * 4
        return (0..<4).reduce(0) { $0 | UInt32(bytes[offset + $1]) << UInt32($1 * 8) }
    }

    mutating func set(_ cluster: UInt64, _ raw: UInt32) {
        let offset = DeltaFile.place(of: cluster).slot * 4
        for index in 0..<4 { bytes[offset + index] = UInt8(truncatingIfNeeded: raw >> UInt32(index * 8)) }
    }

    mutating func hasBelow(_ cluster: UInt64) throws(DiskError) -> Bool {
        if below.isEmpty { return false }
        if lower == nil {
            let (number, below) = (number, below)
            lower = try unsafe pool.withBuffer(DeltaFile.pageBytes) { memory throws(DiskError) in
                try unsafe PageLoader.load(number, below, through: memory)
            }
        }
        return lower?[DeltaFile.place(of: cluster).slot].isNone == false
    }

    /// Makes the clusters' data durable, then writes the page: also one that is what it was, for it may be so in the
    /// host's cache only, since an earlier merge failed to store it.
    func write(to parent: WritableDelta) throws(DiskError) {
        guard !parent.delta.isRaw else { return }
        let buffer = AlignedBuffer(byteCount: DeltaFile.pageBytes)
        unsafe buffer.memory.copyBytes(from: bytes)
        if number == 0 { unsafe buffer.memory.copyBytes(from: parent.headerBytes) }
        try parent.delta.synchronize()
        try parent.delta.attempt { () throws(SystemError) in
            try unsafe parent.delta.file.write(
                at: number * UInt64(DeltaFile.pageBytes), from: UnsafeRawBufferPointer(buffer.memory))
        }
    }
}

/// Holds a copy back to a rate.
private struct RateLimiter {
    private let bytesPerSecond: UInt64
    private let start = SystemTime().monotonic()
    private var bytes: UInt64 = 0
    private let never = Monitor(())

    init(bytesPerSecond: UInt64) { self.bytesPerSecond = bytesPerSecond }

    mutating func pass(_ count: UInt64) {
        guard bytesPerSecond > 0 else { return }
        bytes += count
        let (seconds, rest) = bytes.quotientAndRemainder(dividingBy: bytesPerSecond)
        // Less than a second, for the rest is less than what a second moves.
        let part = bytesPerSecond.dividingFullWidth(rest.multipliedFullWidth(by: 1_000_000_000)).quotient
        let due = start + seconds * 1_000_000_000 + part
        let _: Void? = never.wait(until: due) { _ in nil }
    }
}
