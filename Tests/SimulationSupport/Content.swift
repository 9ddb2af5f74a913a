import Glibc

/// What a sector may hold: the tags of writes, 0 for zeros. A sector carries its write's tag and its own number.
public struct Tags: Equatable, Sendable, CustomStringConvertible {
    public private(set) var all: [UInt32]
    public init(_ tag: UInt32) { all = [tag] }
    public static let zero = Tags(0)

    public var only: UInt32? { all.count == 1 ? all[0] : nil }
    public func contains(_ tag: UInt32) -> Bool { all.contains(tag) }
    public func with(_ tag: UInt32) -> Tags {
        guard !all.contains(tag) else { return self }
        var more = self
        more.all = (all + [tag]).sorted()
        return more
    }
    public func with(_ other: Tags) -> Tags { other.all.reduce(self) { $0.with($1) } }
    public var description: String { all.map(String.init).joined(separator: "|") }
}

/// A finding: what a run must not do.
public struct Finding: Error, CustomStringConvertible {
    public var description: String
    public init(_ description: String) { self.description = description }
}

/// The bytes of sectors, made and looked at.
public enum Pattern {
    public static let sectorBytes = 512
    private static let words = sectorBytes / 8

    private static func word(_ tag: UInt32, _ sector: Int) -> UInt64 {
        tag == 0 ? 0 : UInt64(tag) << 32 | UInt64(UInt32(truncatingIfNeeded: sector))
    }

    public static func fill(_ memory: UnsafeMutableRawBufferPointer, tag: UInt32, from sector: Int) {
        guard let base = memory.baseAddress?.assumingMemoryBound(to: UInt64.self) else { return }
        for index in 0..<memory.count / sectorBytes {
            let value = word(tag, sector + index)
            var place = base + index * words
            let end = place + words
            while place < end {
                place.pointee = value
                place += 1
            }
        }
    }

    /// Calls `body` with runs of sectors of one tag. - Throws: where a sector is torn, or another one's.
    public static func forEachRun(
        _ memory: UnsafeRawBufferPointer, from sector: Int, _ what: @autoclosure () -> String,
        _ body: (Range<Int>, UInt32) throws -> Void
    ) throws {
        guard let base = memory.baseAddress?.assumingMemoryBound(to: UInt64.self) else { return }
        let count = memory.count / sectorBytes
        var start = 0
        var last: UInt32 = 0
        for index in 0..<count {
            let first = base[index * words]
            let isWhole =
                memcmp(base + index * words, base + index * words + 1, sectorBytes - 8) == 0
            guard isWhole else { throw Finding("\(what()): sector \(sector + index) is torn") }
            let tag = UInt32(truncatingIfNeeded: first >> 32)
            guard first == word(tag, sector + index) else {
                throw Finding(
                    "\(what()): sector \(sector + index) holds that of "
                        + "\(UInt32(truncatingIfNeeded: first)) (tag \(tag))")
            }
            if index > 0, tag != last {
                try body(sector + start..<sector + index, last)
                start = index
            }
            last = tag
        }
        if count > 0 { try body(sector + start..<sector + count, last) }
    }
}

/// Something else changes a file at the same time.
public struct Change: Sendable {
    public var range: Range<Int>
    public var tag: UInt32
}

/// What a disk, a snapshot or a restore point must hold.
public struct Expected: Sendable {
    public var sectors: RunMap<Tags> = RunMap(.zero)
    public init() {}

    public mutating func allow(_ range: Range<Int>, _ tag: UInt32) { sectors.update(range) { $0.with(tag) } }
    public mutating func set(_ range: Range<Int>, _ tag: UInt32) { sectors.set(range, Tags(tag)) }
    public mutating func allow(_ changes: some Sequence<Change>) {
        for change in changes { allow(change.range, change.tag) }
    }

    /// Whether bytes that were read are what they may be; takes them for the truth where they could be more than one.
    /// - Parameters:
    ///   - allowsOther: what does not fit was looked at elsewhere.
    ///   - isStill: which sectors nobody changes meanwhile.
    public mutating func look(
        _ memory: UnsafeRawBufferPointer, from sector: Int, _ what: @autoclosure () -> String,
        allowsOther: Bool = false, isStill: (Range<Int>) -> Bool = { _ in true }
    ) throws {
        var narrowed: [(Range<Int>, UInt32)] = []
        let before = sectors
        try Pattern.forEachRun(memory, from: sector, what()) { run, tag in
            try before.forEachRun(in: run) { (part: Range<Int>, tags: Tags) throws(Finding) in
                guard tags.contains(tag) else {
                    if allowsOther { return }
                    throw Finding("\(what()): sectors \(part.lowerBound)+\(part.count) hold \(tag), not \(tags)")
                }
                if tags.only == nil, isStill(part) { narrowed.append((part, tag)) }
            }
        }
        for (range, tag) in narrowed { set(range, tag) }
    }
}
