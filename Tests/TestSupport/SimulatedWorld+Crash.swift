import Geometry

extension SimulatedWorld {
    /// The state after a power cut: what was durable, and of the rest what `survival` says.
    func afterPowerCut(_ survival: Survival) -> SimulatedWorld {
        var lottery = Lottery(survival, sequenceMax: nextSequence)
        var names = self
        for change in pendingNames where lottery.keepsWhole(change.sequence) { names.settle(change) }
        var world = SimulatedWorld(capacityPages: capacityPages, directAlignment: directAlignment)
        world.nextNode = nextNode
        world.nextSequence = nextSequence
        // From the root down: what no durable name leads to is gone.
        var open = [Self.root]
        while let number = open.popLast() {
            switch names.nodes[number] {
            case .folder(let folder):
                world.nodes[number] = .folder(Folder(live: folder.durable, durable: folder.durable))
                open += folder.durable.values.sorted()
            case .file(let file):
                let content = lottery.survivor(of: file)
                world.nodes[number] = .file(File(live: content, durable: content))
                world.usedPages += content.pages.count
            case nil: preconditionFailure("a name leads to nothing")
            }
        }
        return world
    }
}

/// Decides what survives.
private struct Lottery {
    private enum Rule {
        case nothing, everything, random
        case upTo(Int)
    }
    private let rule: Rule
    private var random: SeededRandom

    init(_ survival: Survival, sequenceMax: Int) {
        switch survival {
        case .nothing: (rule, random) = (.nothing, SeededRandom(seed: 0))
        case .everything: (rule, random) = (.everything, SeededRandom(seed: 0))
        case .random(let seed): (rule, random) = (.random, SeededRandom(seed: seed))
        case .prefix(let seed):
            random = SeededRandom(seed: seed)
            // Most cuts close to the end, where the call in question is.
            let back = random.below(2) == 0 ? random.below(8) : random.below(max(1, sequenceMax))
            rule = .upTo(max(0, sequenceMax - back))
        }
    }

    mutating func keepsWhole(_ sequence: Int) -> Bool {
        switch rule {
        case .nothing: false
        case .everything: true
        case .random: random.below(2) == 0
        case .upTo(let last): sequence <= last
        }
    }

    mutating func survivor(of file: SimulatedWorld.File) -> SimulatedContent {
        if case .everything = rule { return file.live }
        var content = file.durable
        for change in file.pending {
            switch rule {
            case .nothing: return content
            case .everything: content.apply(change.kind)
            case .upTo(let last):
                if change.sequence < last { content.apply(change.kind) }
                if change.sequence == last { applyTorn(change.kind, to: &content) }
            case .random:
                switch random.below(4) {
                case 0: break
                case 1, 2: content.apply(change.kind)
                default: applyTorn(change.kind, to: &content)
                }
            }
        }
        return content
    }

    /// Applies a part: any sectors of a write; the first part of a range; a size as a whole or not at all.
    private mutating func applyTorn(_ kind: SimulatedWorld.PendingChange.Kind, to content: inout SimulatedContent) {
        switch kind {
        case .write(let bytes, let offset):
            var position = 0
            let isPrefix = random.below(2) == 0
            let kept = isPrefix ? random.below(bytes.count + 1) : 0
            while position < bytes.count {
                let next = min(
                    bytes.count, position + Int(sectorBytes) - Int((offset + UInt64(position)) % sectorBytes))
                if isPrefix ? next <= kept : random.below(2) == 0 {
                    bytes.withUnsafeBytes { memory in
                        content.write(
                            UnsafeRawBufferPointer(rebasing: memory[position..<next]), at: offset + UInt64(position))
                    }
                }
                position = next
            }
        case .truncate: if random.below(2) == 0 { content.apply(kind) }
        case .reserve(let range): content.apply(.reserve(part(of: range)))
        case .zero(let range): content.apply(.zero(part(of: range)))
        case .punch(let range): content.apply(.punch(part(of: range)))
        }
    }

    private mutating func part(of range: ByteRange) -> ByteRange {
        let sectors = range.count / sectorBytes
        return ByteRange(offset: range.offset, count: min(range.count, random.below(sectors + 1) * sectorBytes))
    }
}
