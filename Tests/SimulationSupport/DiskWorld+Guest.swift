import BlockIO
import DiskImage
import Geometry

/// What guests do.
extension DiskWorld {
    func guest(_ step: Step) {
        guard let disk else { return }
        switch step.action {
        case .write(let sector, let count, let durable):
            change(step, sector, count, isDurable: durable) { tag, range in
                try Self.withMemory(sectors: count) { memory in
                    Pattern.fill(memory, tag: tag, from: sector)
                    try disk.write(at: range.offset, from: UnsafeRawBufferPointer(memory), durable: durable)
                }
            }
        case .zero(let sector, let count, let mayDiscard):
            change(step, sector, count, isZero: true) { _, range in
                try disk.writeZeroes(range, mayDiscard: mayDiscard)
            }
        case .discard(let sector, let count):
            change(step, sector, count, isZero: true, isHint: true) { _, range in try disk.discard(range) }
        case .read(let sector, let count):
            attempt(step, owner) { try look(disk, sector..<sector + count, "\(step)") }
        case .scatter(let cluster, let count):
            let end = Int(byteCount / clusterSize.bytes)
            for place in cluster..<min(cluster + count, end) {
                guard !isOver, disk === self.disk else { return }
                let sector = place * shape.clusterSectors + place % 7
                change(step, sector, 1) { tag, range in
                    try Self.withMemory(sectors: 1) { memory in
                        Pattern.fill(memory, tag: tag, from: sector)
                        try disk.write(at: range.offset, from: UnsafeRawBufferPointer(memory))
                    }
                }
            }
        case .flush:
            attempt(step, owner) {
                let (_, expected) = try expectedWhile { try disk.flush() }
                becameDurable(expected)
            }
        default: break
        }
    }

    private func change(
        _ step: Step, _ sector: Int, _ count: Int, isZero: Bool = false, isHint: Bool = false, isDurable: Bool = false,
        _ body: (UInt32, ByteRange) throws -> Void
    ) {
        let range = sector..<sector + count
        // File systems do not have two changes of one place under way.
        guard !underWay.values.contains(where: { $0.overlaps(range) }) else { return }
        let tag = isZero ? 0 : nextTag
        if !isZero { nextTag += 1 }
        let change = Change(range: range, tag: tag)
        changes.append(change)
        touched.set(range, true)
        now.allow([change])
        afterCrash.allow([change])
        underWay[step.number] = range
        defer { underWay[step.number] = nil }
        let bytes = ByteRange(offset: UInt64(sector) * 512, count: UInt64(count) * 512)
        attempt(step, owner) {
            try body(tag, bytes)
            guard !owner.isDead else { return }
            // A hint may be taken in part.
            if !isHint { now.set(range, tag) }
            if isDurable { afterCrash.set(range, tag) }
        }
    }

    /// Reads and compares.
    func look(_ disk: Disk, _ range: Range<Int>, _ what: String) throws {
        let start = changes.count
        var moving = Array(underWay.values)
        try Self.withMemory(sectors: range.count) { memory in
            let before = now
            try disk.read(at: UInt64(range.lowerBound) * 512, into: memory)
            guard !owner.isDead else { return }
            moving += changes[start...].map(\.range)
            var expected = before
            expected.allow(changes[start...])
            let bytes = UnsafeRawBufferPointer(memory)
            try expected.look(bytes, from: range.lowerBound, what)
            // Of places that nobody has changed meanwhile more is known.
            try now.look(
                bytes, from: range.lowerBound, what, allowsOther: true,
                isStill: { part in !moving.contains { $0.overlaps(part) } })
        }
    }

    /// Calls `body` with pieces of all that was ever changed below a size.
    func forEachTouched(below bytes: UInt64, _ body: (Range<Int>) throws -> Void) throws {
        let piece = (1 << 20) / Pattern.sectorBytes
        let unit = 64
        let end = Int(bytes / 512)
        var done = 0
        for run in touched.runs(in: 0..<end) where run.value {
            // With some of what lies around.
            var position = max(done, run.range.lowerBound / unit * unit)
            let last = min(end, (run.range.upperBound + unit - 1) / unit * unit)
            while position < last {
                let next = min(last, position + piece)
                try body(position..<next)
                position = next
            }
            done = max(done, last)
        }
    }

    /// All of the living disk; requests may run.
    func lookAtAll(_ disk: Disk, _ what: String) throws {
        try forEachTouched(below: byteCount) { try look(disk, $0, what) }
    }
}
