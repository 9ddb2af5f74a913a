internal import BlockIO
internal import Geometry
internal import LinuxSystem

/// The original tools refuse an image on ext2/3/4 that has holes, or in which a reserved and never written extent
/// starts or ends inside a cluster. Elsewhere they don't look.
struct Sparseness {
    private static let extMagic: UInt64 = 0xEF53
    /// The file is looked at in windows of this size, a multiple of every cluster.
    private static let windowBytes: UInt64 = 1 << 30

    let file: any StorageFile
    let clusterSize: ClusterSize

    /// Whether the tools would look, there.
    static func matters(at path: String, in fs: any FileSystem) -> Bool {
        (try? fs.space(at: path))?.typeMagic == extMagic
    }

    /// Calls `body` with each hole, and each reserved extent that is not made of whole clusters, below `end`.
    /// - Returns: `false` where the host can't tell.
    func forEachOffence(
        below end: UInt64, _ body: (_ range: ByteRange, _ isHole: Bool) throws(SystemError) -> Void
    ) throws(SystemError) -> Bool {
        for window in windows(below: end) {
            guard let offences = try offences(in: window) else { return false }
            for (range, isHole) in offences { try body(range, isHole) }
        }
        return true
    }

    private func windows(below end: UInt64) -> some Sequence<ByteRange> {
        stride(from: 0, to: end, by: Int(Self.windowBytes)).lazy.map {
            ByteRange(offset: $0, count: min(Self.windowBytes, end - $0))
        }
    }

    private func offences(in window: ByteRange) throws(SystemError) -> [(ByteRange, isHole: Bool)]? {
        // First this, which also writes out what the host holds back: only then is the rest settled.
        guard let unwritten = try file.unwrittenRanges(in: window) else { return nil }
        var found: [(ByteRange, isHole: Bool)] = []
        for range in unwritten
        where clusterSize.remainder(of: range.offset) != 0 || clusterSize.remainder(of: range.count) != 0 {
            found.append((range, false))
        }
        var reserved = unwritten[...]
        var position = window.offset
        while position < window.end {
            let data = try file.nextData(from: position)
            let dataStart = min(max(data?.offset ?? window.end, position), window.end)
            // What is no data is a hole or reserved: take the latter away.
            while position < dataStart {
                while let next = reserved.first, next.end <= position { reserved = reserved.dropFirst() }
                let next = reserved.first ?? ByteRange(offset: dataStart, count: 0)
                let holeEnd = min(dataStart, max(position, next.offset))
                if holeEnd > position { found.append((ByteRange(offset: position, count: holeEnd - position), true)) }
                position = max(holeEnd, min(next.end, dataStart))
            }
            guard let data else { break }
            position = max(dataStart, min(data.offset + data.count, window.end))
        }
        return found
    }

    /// Removes the offences below `end` without changing any byte: holes of whole clusters are reserved, and the ends
    /// of reserved extents inside a cluster are filled with zeros. Nothing is synchronised.
    /// - Returns: how many bytes were reserved or written.
    func settle(below end: UInt64) throws(SystemError) -> UInt64 {
        var changed: UInt64 = 0
        for window in windows(below: end) {
            // Reserving may make extents that end inside clusters, so there are rounds; the second finds no hole.
            for _ in 0..<3 {
                guard let offences = try offences(in: window), !offences.isEmpty else { break }
                for (range, isHole) in offences { changed += isHole ? try fillHole(range) : try fillEnds(of: range) }
            }
        }
        return changed
    }

    private func fillHole(_ hole: ByteRange) throws(SystemError) -> UInt64 {
        let whole = hole.alignedInward(to: clusterSize.bytes)
        guard !whole.isEmpty, try file.reserve(offset: whole.offset, count: whole.count) else {
            try NewImage.writeZeroes(hole.offset, hole.count, in: file)
            return hole.count
        }
        try NewImage.writeZeroes(hole.offset, whole.offset - hole.offset, in: file)
        try NewImage.writeZeroes(whole.end, hole.end - whole.end, in: file)
        return hole.count
    }

    private func fillEnds(of extent: ByteRange) throws(SystemError) -> UInt64 {
        let whole = extent.alignedInward(to: clusterSize.bytes)
        guard !whole.isEmpty else {
            try NewImage.writeZeroes(extent.offset, extent.count, in: file)
            return extent.count
        }
        try NewImage.writeZeroes(extent.offset, whole.offset - extent.offset, in: file)
        try NewImage.writeZeroes(whole.end, extent.end - whole.end, in: file)
        return extent.count - whole.count
    }
}
