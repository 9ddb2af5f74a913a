import BlockIO
import Geometry

/// The bytes of a simulated file: pages that are holes, reserved or hold data. Copies share what they have in common.
struct SimulatedContent: Sendable {
    enum Page: Sendable {
        /// Takes up space, reads as zeros, was never written.
        case reserved
        case data([UInt8])
    }
    static let pageBytes = 4096

    private(set) var size: UInt64 = 0
    private(set) var pages: [UInt64: Page] = [:]
    /// The numbers of the pages that hold data, ascending; made when asked for.
    private var dataPages: [UInt64]?

    /// The pages that a range touches.
    static func pages(of range: ByteRange) -> Range<UInt64> {
        guard !range.isEmpty else { return 0..<0 }
        let unit = UInt64(pageBytes)
        return range.offset / unit..<range.end.dividedRoundingUp(by: unit)
    }

    /// How many pages a write or reservation of the range would add.
    func pagesMissing(in range: ByteRange) -> Int {
        var missing = 0
        for page in Self.pages(of: range) where pages[page] == nil { missing += 1 }
        return missing
    }

    func read(at offset: UInt64, into memory: UnsafeMutableRawBufferPointer) {
        memory.fillWithZeros()
        let count = offset < size ? min(UInt64(memory.count), size - offset) : 0
        Self.forEachPart(of: ByteRange(offset: offset, count: count)) { page, inPage, inRange, count in
            guard case .data(let bytes) = pages[page] else { return }
            bytes.withUnsafeBytes { source in
                UnsafeMutableRawBufferPointer(rebasing: memory[inRange..<inRange + count])
                    .copyMemory(from: UnsafeRawBufferPointer(rebasing: source[inPage..<inPage + count]))
            }
        }
    }

    mutating func write(_ source: UnsafeRawBufferPointer, at offset: UInt64) {
        guard source.count > 0 else { return }
        let range = ByteRange(offset: offset, count: UInt64(source.count))
        Self.forEachPart(of: range) { page, inPage, inRange, count in
            let isNew: Bool
            var bytes: [UInt8]
            if case .data(let old) = pages.removeValue(forKey: page) {
                (isNew, bytes) = (false, old)
            } else {
                (isNew, bytes) = (true, [UInt8](repeating: 0, count: Self.pageBytes))
            }
            if isNew { dataPages = nil }
            bytes.withUnsafeMutableBytes { target in
                UnsafeMutableRawBufferPointer(rebasing: target[inPage..<inPage + count])
                    .copyMemory(from: UnsafeRawBufferPointer(rebasing: source[inRange..<inRange + count]))
            }
            pages[page] = .data(bytes)
        }
        size = max(size, range.end)
    }

    mutating func truncate(to newSize: UInt64) {
        if newSize < size {
            let keep = newSize.dividedRoundingUp(by: UInt64(Self.pageBytes))
            pages = pages.filter { $0.key < keep }
            dataPages = nil
            let rest = keep * UInt64(Self.pageBytes) - newSize
            clear(ByteRange(offset: newSize, count: rest), wholePages: nil)
        }
        size = newSize
    }

    mutating func reserve(_ range: ByteRange) {
        for page in Self.pages(of: range) where pages[page] == nil { pages[page] = .reserved }
        size = max(size, range.end)
    }

    mutating func zero(_ range: ByteRange) { clear(range, wholePages: .reserved) }
    mutating func punch(_ range: ByteRange) { clear(range, wholePages: nil) }

    /// Zeroes the bytes of the range; pages wholly in it become `wholePages`, others keep their data outside of it.
    private mutating func clear(_ range: ByteRange, wholePages: Page?) {
        let unit = UInt64(Self.pageBytes)
        let inner = range.alignedInward(to: unit)
        dataPages = nil
        if wholePages == nil, inner.count / unit > UInt64(pages.count) {
            pages = pages.filter { !Self.pages(of: inner).contains($0.key) }
        } else {
            for page in Self.pages(of: inner) { pages[page] = wholePages }
        }
        Self.forEachPart(of: range) { page, inPage, _, count in
            guard count < Self.pageBytes else { return }
            switch pages[page] {
            case .data(var bytes):
                bytes.replaceSubrange(inPage..<inPage + count, with: repeatElement(0, count: count))
                pages[page] = .data(bytes)
            case nil where wholePages != nil: pages[page] = .reserved
            default: break
            }
        }
    }

    /// Makes the pages and the size those of `other`.
    mutating func take(_ range: Range<UInt64>, from other: SimulatedContent) {
        if range.upperBound == .max {
            pages = pages.filter { $0.key < range.lowerBound }
            for (number, page) in other.pages where number >= range.lowerBound { pages[number] = page }
        } else {
            for number in range { pages[number] = other.pages[number] }
        }
        dataPages = nil
        size = other.size
    }

    /// The next run of pages with data, cut to the size. Reserved pages count as holes, as on the usual file systems.
    mutating func nextData(from offset: UInt64) -> (offset: UInt64, count: UInt64)? {
        let numbers = dataPages ?? pages.filter { if case .data = $0.value { true } else { false } }.keys.sorted()
        dataPages = numbers
        let unit = UInt64(Self.pageBytes)
        var (low, high) = (0, numbers.count)
        while low < high {
            let middle = (low + high) / 2
            if numbers[middle] < offset / unit { low = middle + 1 } else { high = middle }
        }
        guard low < numbers.count else { return nil }
        let start = max(offset, numbers[low] * unit)
        guard start < size else { return nil }
        var last = low
        while last + 1 < numbers.count, numbers[last + 1] == numbers[last] + 1 { last += 1 }
        return (start, min(size, (numbers[last] + 1) * unit) - start)
    }

    func unwrittenRanges(in range: ByteRange) -> [ByteRange] {
        let wanted = Self.pages(of: range)
        var found: [UInt64] = []
        if UInt64(wanted.count) > UInt64(pages.count) {
            found = pages.filter { if case .reserved = $0.value { wanted.contains($0.key) } else { false } }.keys
                .sorted()
        } else {
            for page in wanted { if case .reserved = pages[page] { found.append(page) } }
        }
        var runs: [ByteRange] = []
        for page in found {
            let part = ByteRange(offset: page * UInt64(Self.pageBytes), count: UInt64(Self.pageBytes)).intersection(
                range)
            if let last = runs.last, last.end == part.offset {
                runs[runs.count - 1] = ByteRange(offset: last.offset, count: last.count + part.count)
            } else {
                runs.append(part)
            }
        }
        return runs
    }

    private static func forEachPart(
        of range: ByteRange, _ body: (_ page: UInt64, _ inPage: Int, _ inRange: Int, _ count: Int) -> Void
    ) {
        var position = range.offset
        while position < range.end {
            let page = position / UInt64(pageBytes)
            let inPage = Int(position % UInt64(pageBytes))
            let count = min(pageBytes - inPage, Int(range.end - position))
            body(page, inPage, Int(position - range.offset), count)
            position += UInt64(count)
        }
    }
}
