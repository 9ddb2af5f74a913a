internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

extension Disk {
    /// Makes the device larger; `bytes` is rounded up to whole clusters.
    ///
    /// Only the top's file changes. Where its block table needs room, the clusters in the way are moved first; when all
    /// of the moves are durable, the room is filled with zeros; then the header is written. A crash leaves the old
    /// size, or the new one.
    public func grow(to bytes: UInt64) throws(DiskError) {
        try during(.grow) { () throws(DiskError) in
            try noting { () throws(DiskError) in try growInTurn(to: bytes) }
        }
    }

    private func growInTurn(to bytes: UInt64) throws(DiskError) {
        guard !options.readOnly, let top = gate.chain.writable else {
            throw DiskError(.readOnly, "\(path) is open for reading only", path: path)
        }
        guard bytes >= byteCount else {
            throw DiskError(.invalid, "\(path): a disk can't be made smaller", path: path)
        }
        try proveOwned()
        try finishFrozen()
        if let header = top.header { try growTop(top, header, bytes) } else { try growRawTop(top, bytes) }
        try recordSize()
    }

    /// Runs what makes the disk larger, with the descriptor's space made sure of: a full host refuses the whole.
    private func recording(_ bytes: UInt64, _ grow: () throws(DiskError) -> Void) throws(DiskError) {
        guard let folder else { return try grow() }
        try folder.recordingSize(bytes, grow) { maintenance.change { $0.isSizeUnrecorded = true } }
        maintenance.change { $0.isSizeUnrecorded = false }
    }

    /// Tells the descriptor a size that a grow has not.
    func recordSize() throws(DiskError) {
        guard let folder, maintenance.withLock({ $0.isSizeUnrecorded }) else { return }
        let sectors = byteCount / sectorBytes
        try folder.updateDescriptor { descriptor throws(ImageError) in descriptor.setSectorCount(sectors) }
        maintenance.change { $0.isSizeUnrecorded = false }
    }

    /// For a disk that was just opened: a grow was cut off, or failed, after the image's header. What counts is the
    /// image, so on a full host the descriptor can wait.
    func recordMissedSize(_ descriptor: DiskDescriptor) throws(DiskError) {
        guard descriptor.sectorCount != byteCount / sectorBytes else { return }
        maintenance.change { $0.isSizeUnrecorded = true }
        try recordSizeIfPossible()
    }

    /// The image says it as well: on a full host the next opening does this.
    func recordSizeIfPossible() throws(DiskError) {
        do throws(DiskError) { try recordSize() } catch {
            guard error.code == .outOfSpace else { throw error }
        }
    }

    private func growRawTop(_ top: WritableDelta, _ bytes: UInt64) throws(DiskError) {
        let (sum, overflow) = bytes.addingReportingOverflow(clusterSize.bytes - 1)
        guard !overflow, sum / clusterSize.bytes < UInt64(UInt32.max) else {
            throw DiskError(.invalid, "\(path): \(bytes) bytes are too many", path: path)
        }
        let delta = top.delta
        let grown = sum & ~(clusterSize.bytes - 1)
        guard grown > byteCount else { return }
        try recording(grown) { () throws(DiskError) in
            try delta.attempt { () throws(SystemError) in try delta.file.truncate(to: grown) }
            try delta.synchronize()
            let larger = DeltaFile(rawAt: delta.path, file: delta.file, byteCount: grown, clusterSize: clusterSize)
            let writable = WritableDelta(delta: larger, allocator: nil, isMarked: true, isUntidy: false)
            try flush()
            gate.exclusively { chain in
                map.invalidate()
                return Chain(deltas: chain.deltas.dropLast() + [larger], writable: writable)
            }
        }
    }

    private func growTop(_ top: WritableDelta, _ header: ImageHeader, _ bytes: UInt64) throws(DiskError) {
        var trial = header
        let sectors = bytes.dividedRoundingUp(by: sectorBytes)
        try parsing(path) { () throws(ImageError) in try trial.grow(toSectors: sectors) }
        guard trial.sectorCount > header.sectorCount else { return }
        try top.markInUse()
        let (old, new) = (header.firstDataCluster, trial.firstDataCluster)
        if new > old { try clearRoom(old..<new, top) }
        try recording(trial.byteCount) { () throws(DiskError) in
            try gate.exclusively { chain throws(DiskError) in
                // Behind the end of a device of odd size a cluster may hold anything.
                let odd = clusterSize.remainder(of: chain.byteCount)
                if odd != 0 {
                    let rest = ByteRange(offset: chain.byteCount, count: clusterSize.bytes - odd)
                    try writer.zero(rest, .zero, chain, top)
                }
                try flushInside()
                let grown = try BatGrowth.writeHeader(of: top, toSectors: sectors)
                return Chain(deltas: chain.deltas.dropLast() + [grown.delta], writable: grown)
            }
        }
    }

    /// Moves all data out of the clusters that the block table will take, and fills them with zeros.
    private func clearRoom(_ room: Range<UInt64>, _ top: WritableDelta) throws(DiskError) {
        guard let allocator = top.allocator, let scanner = BatScanner(top.delta) else { return }
        allocator.raiseFloor(to: room.upperBound)
        // Who got a cluster there before has entered it into the map after this.
        try gate.pauseWrites()
        gate.resumeWrites()
        try flush()
        var moved: Int
        repeat {
            moved = 0
            scanner.invalidate()
            var owners: [UInt64] = []
            try scanner.forEachEntry { cluster, raw throws(DiskError) in
                if let place = scanner.place(raw), room.contains(place) { owners.append(cluster) }
            }
            for cluster in owners {
                let isMoved = try changing(top) { chain throws(DiskError) in
                    try writer.moveUp(cluster, outOf: room, chain, top)
                }
                if isMoved == true { moved += 1 }
            }
            // The moves are durable before anything in the room is touched.
            try flush()
        } while moved > 0
        try BatGrowth.fillRoom(room, top)
        // By way of everybody's flushes: the host tells of what it could not store only once.
        try flush()
    }

    /// Makes a delta below the top larger, for a merge. Its clusters move under everybody's feet, so requests are held,
    /// and nobody else reads it.
    func growBelow(
        _ delta: WritableDelta, toSectors sectors: UInt64, _ lease: borrowing ExclusiveLease
    ) throws(DiskError) -> WritableDelta {
        precondition(lease.path.isSame(as: delta.delta.path), "the right to change another file")
        var grown = delta
        try during(.swap) { () throws(DiskError) in
            try flush()
            try gate.exclusively { chain throws(DiskError) in
                try flushInside()
                // However far it comes: what was moved is to be looked up anew.
                defer { map.invalidate() }
                try BatGrowth.moveData(of: delta, toSectors: sectors, pool)
                grown = try BatGrowth.writeHeader(of: delta, toSectors: sectors)
                // The chain's own view of the file has the old header, which says where data begins.
                let deltas = chain.deltas.map { $0.path.isSame(as: delta.delta.path) ? grown.delta : $0 }
                return Chain(deltas: deltas, writable: chain.writable)
            }
        }
        return grown
    }
}

/// The steps of making an image's block table longer. Nobody else uses the file meanwhile.
enum BatGrowth {
    /// Fills what was data with zeros.
    static func fillRoom(_ room: Range<UInt64>, _ delta: WritableDelta) throws(DiskError) {
        let size = delta.delta.clusterSize
        let end = size.offset(of: room.upperBound)
        var offset = size.offset(of: room.lowerBound)
        try delta.delta.attempt { () throws(SystemError) in
            while offset < end {
                let count = min(UInt64(BufferPool.pieceBytes), end - offset)
                try unsafe delta.delta.file.write(
                    at: offset, from: UnsafeRawBufferPointer(ZeroMemory.bytes(Int(count))))
                offset += count
            }
        }
    }

    /// Writes the larger header, durably. - Returns: the file as it is then.
    static func writeHeader(of delta: WritableDelta, toSectors sectors: UInt64) throws(DiskError) -> WritableDelta {
        guard var header = delta.header else { return delta }
        let file = delta.delta.file
        try clearSlots(behind: header.bat, in: delta.delta)
        try parsing(delta.delta.path) { () throws(ImageError) in try header.grow(toSectors: sectors) }
        try delta.delta.attempt { () throws(SystemError) in try DeltaFile.writeHeader(header, to: file) }
        try delta.delta.synchronize()
        let grown = DeltaFile(path: delta.delta.path, file: file, header: header)
        return WritableDelta(delta: grown, allocator: delta.allocator, isMarked: true, isUntidy: true)
    }

    /// Fills the slots of the table behind the last entry with zeros, durably: they are to become entries, and an image
    /// of other software may have anything there.
    private static func clearSlots(behind bat: BatGeometry, in delta: DeltaFile) throws(DiskError) {
        let unit = UInt64(DeltaFile.pageBytes)
        let buffer = AlignedBuffer(byteCount: DeltaFile.pageBytes)
        var isChanged = false
        try delta.attempt { () throws(SystemError) in
            var position = bat.endOffset
            while let data = try delta.file.nextData(from: position), data.offset < bat.areaBytes {
                let page = max(position, data.offset) / unit * unit
                let start = Int(max(position, page) - page)
                try unsafe delta.file.read(at: page, into: buffer.memory)
                let slots = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.memory[start...])
                if !UnsafeRawBufferPointer(slots).isAllZero {
                    unsafe slots.fillWithZeros()
                    try unsafe delta.file.write(at: page, from: UnsafeRawBufferPointer(buffer.memory))
                    isChanged = true
                }
                position = page + unit
            }
        }
        if isChanged { try delta.synchronize() }
    }

    /// Moves the data of an image that is not the top out of the room that its table needs: copies, durably; entries,
    /// durably; then zeros.
    static func moveData(of delta: WritableDelta, toSectors sectors: UInt64, _ pool: BufferPool) throws(DiskError) {
        guard var header = delta.header, let allocator = delta.allocator, let scanner = BatScanner(delta.delta) else {
            return
        }
        let old = header.firstDataCluster
        try parsing(delta.delta.path) { () throws(ImageError) in try header.grow(toSectors: sectors) }
        let room = old..<header.firstDataCluster
        guard !room.isEmpty else { return }
        allocator.raiseFloor(to: room.upperBound)
        var moves: [Move] = []
        try scanner.forEachEntry { cluster, raw throws(DiskError) in
            guard let place = scanner.place(raw), room.contains(place) else { return }
            let target = try delta.delta.attempt { () throws(SystemError) in try allocator.allocate() }
            try copy(place, to: target.cluster, delta.delta, pool)
            moves.append(Move(cluster: cluster, raw: scanner.bat.encode(target.cluster) ?? 0))
        }
        try enter(moves, in: delta.delta)
        try fillRoom(room, delta)
        try delta.delta.synchronize()
    }

    /// A new entry for a cluster whose data was copied.
    struct Move {
        var cluster: UInt64
        var raw: UInt32
    }

    /// Makes the copies durable, then the entries that point to them.
    static func enter(_ moves: [Move], in delta: DeltaFile) throws(DiskError) {
        try delta.synchronize()
        let buffer = AlignedBuffer(byteCount: DeltaFile.pageBytes)
        try delta.attempt { () throws(SystemError) in
            for move in moves {
                let (page, slot) = DeltaFile.place(of: move.cluster)
                let offset = page * UInt64(DeltaFile.pageBytes)
                try unsafe delta.file.read(at: offset, into: buffer.memory)
                unsafe buffer.memory.storeBytes(of: move.raw.littleEndian, toByteOffset: slot * 4, as: UInt32.self)
                try unsafe delta.file.write(at: offset, from: UnsafeRawBufferPointer(buffer.memory))
            }
        }
        try delta.synchronize()
    }

    static func copy(
        _ source: UInt64, to target: UInt64, _ delta: DeltaFile, _ pool: BufferPool
    ) throws(DiskError) {
        let size = delta.clusterSize
        var position: UInt64 = 0
        while position < size.bytes {
            let count = min(UInt64(BufferPool.pieceBytes), size.bytes - position)
            try unsafe pool.withBuffer(Int(count)) { buffer throws(DiskError) in
                try delta.attempt { () throws(SystemError) in
                    try unsafe delta.file.read(at: size.offset(of: source) + position, into: buffer)
                    try unsafe delta.file.write(
                        at: size.offset(of: target) + position, from: UnsafeRawBufferPointer(buffer))
                }
            }
            position += count
        }
    }
}
