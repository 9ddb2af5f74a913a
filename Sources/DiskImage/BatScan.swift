internal import BlockIO
internal import Geometry
internal import ImageFormat
internal import LinuxSystem

/// Walks over the block table of an image page by page, skipping what the host knows to be a hole.
struct BatScan {
    /// Bytes of the table that are looked at at a time.
    static let pageBytes: UInt64 = 256 << 10

    let file: any StorageFile
    let bat: BatGeometry

    /// Calls `body` with each page that may hold a slot other than 0: with the number of its first slot, and its slots.
    /// Slots behind the end of the device are among them. What `body` changes in them is not written.
    func forEachPage<E: Error>(
        _ body: (_ first: UInt64, _ slots: [UInt32]) throws(E) -> Void
    ) throws(ScanFailure<E>) {
        var position = UInt64(HeaderFields.byteCount)
        let end = bat.areaBytes
        while position < end {
            let start: UInt64
            do throws(SystemError) {
                guard let data = try file.nextData(from: position), data.offset < end else { return }
                start = max(position, data.offset & ~3)
            } catch { throw .host(error) }
            let count = min(Self.pageBytes, end - start)
            let bytes: [UInt8]
            do throws(SystemError) { bytes = try file.readBytes(at: start, count: Int(count)) } catch {
                throw .host(error)
            }
            let slots = unsafe bytes.withUnsafeBytes { memory in
                (0..<memory.count / 4).map {
                    UInt32(littleEndian: unsafe memory.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self))
                }
            }
            let first = (start - UInt64(HeaderFields.byteCount)) / BatGeometry.entryBytes
            do throws(E) { try body(first, slots) } catch { throw .body(error) }
            position = start + count
        }
    }
}

/// What ended a scan early: the host, or the one it reports to.
enum ScanFailure<E: Error>: Error {
    case host(SystemError)
    case body(E)
}

/// The clusters of a file that the entries of its table may point to, in windows, one after the other.
/// However long a file says that it is, there are no more than the entries can count.
struct FileWindows {
    /// A bit for each cluster: 64 MiB.
    private static let clustersMax: UInt64 = 1 << 29

    private let bounds: Range<UInt64>

    init(_ bat: BatGeometry, fileBytes: UInt64) {
        let end = min(fileBytes / bat.clusterSize.bytes, BatGeometry.fileClustersMax)
        bounds = bat.firstDataCluster..<max(bat.firstDataCluster, end)
    }

    /// The first window; it may be empty, and has to be looked at all the same.
    var first: Range<UInt64> { bounds.prefix(Self.clustersMax) }

    /// - Parameter usedEnd: the first cluster beyond all that an entry points to, known after the first window.
    func next(after window: Range<UInt64>, usedEnd: UInt64) -> Range<UInt64> {
        let end = max(window.upperBound, min(bounds.upperBound, usedEnd))
        return (window.upperBound..<end).prefix(Self.clustersMax)
    }
}

extension Range<UInt64> {
    fileprivate func prefix(_ count: UInt64) -> Range<UInt64> {
        lowerBound..<Swift.min(upperBound, lowerBound + count)
    }
}

/// A set of clusters of a file within a window.
struct ClusterSet {
    let window: Range<UInt64>
    private var words: [UInt64]

    init(_ window: Range<UInt64>) {
        self.window = window
        words = [UInt64](repeating: 0, count: Int((window.upperBound - window.lowerBound + 63) / 64))
    }

    /// - Returns: whether it was not in the set. Clusters outside the window are neither.
    mutating func insert(_ cluster: UInt64) -> Bool {
        guard window.contains(cluster) else { return true }
        let index = Int((cluster - window.lowerBound) / 64)
        let bit = UInt64(1) << ((cluster - window.lowerBound) % 64)
        guard words[index] & bit == 0 else { return false }
        words[index] |= bit
        return true
    }

    func contains(_ cluster: UInt64) -> Bool {
        guard window.contains(cluster) else { return false }
        let offset = cluster - window.lowerBound
        return words[Int(offset / 64)] & UInt64(1) << (offset % 64) != 0
    }

    /// How many clusters are in the set.
    var count: UInt64 { words.reduce(0) { $0 + UInt64($1.nonzeroBitCount) } }
}
