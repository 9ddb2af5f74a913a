import BlockIO
import Geometry
import LinuxSystem
import Synchronization
import SystemPackage

/// An open file of a ``SimulatedFileSystem``.
final class SimulatedFile: StorageFile {
    private let owner: SimulatedFileSystem
    private let node: Int
    private let path: String
    private let isWritable: Bool
    let alignment: Int

    init(_ owner: SimulatedFileSystem, node: Int, path: String, isWritable: Bool, alignment: Int) {
        self.owner = owner
        self.node = node
        self.path = path
        self.isWritable = isWritable
        self.alignment = alignment
    }

    deinit {
        owner.world.withLock { world in
            world.withFile(node) { $0.handles -= 1 }
            world.releaseSpace(of: node)
        }
    }

    func identity() throws(SystemError) -> FileIdentity {
        try owner.world.withLock { world throws(SystemError) in
            try world.requirePower("examine", path)
            return FileIdentity(device: 0, inode: UInt64(node))
        }
    }

    func size() throws(SystemError) -> UInt64 {
        try owner.perform(.look, path) { world throws(SystemError) in
            try world.requirePower("examine", path)
            return world.file(node).live.size
        }
    }

    func allocatedBytes() throws(SystemError) -> UInt64 {
        try owner.perform(.look, path) { world throws(SystemError) in
            try world.requirePower("examine", path)
            return UInt64(world.file(node).live.pages.count * SimulatedContent.pageBytes)
        }
    }

    func perform(_ transfers: [Transfer]) throws(SystemError) {
        for transfer in transfers {
            let address = UInt64(UInt(bitPattern: transfer.memory.baseAddress))
            let all = address | transfer.offset | UInt64(transfer.memory.count)
            guard alignment <= 1 || all % UInt64(alignment) == 0 else {
                throw SystemError(errno: .invalidArgument, operation: "\(transfer.operation)", subject: path)
            }
        }
        var first: SystemError?
        for transfer in transfers {
            do throws(SystemError) {
                let (offset, count) = (transfer.offset, transfer.memory.count)
                switch transfer.operation {
                case .read:
                    try owner.perform(.read, "\(path) \(offset)+\(count)") { world throws(SystemError) in
                        try read(transfer, &world)
                    }
                // The transfers of a batch are under way together: when the power goes at one, the others may have
                // happened too.
                case .write:
                    let isUnderWay = first?.errno == SimulatedFileSystem.powerCut
                    try owner.perform(.write, "\(path) \(offset)+\(count)") { world throws(SystemError) in
                        try write(transfer, &world, isUnderWay: isUnderWay)
                    }
                }
            } catch {
                first = first ?? error
            }
        }
        if let first { throw first }
    }

    private func read(_ transfer: Transfer, _ world: inout SimulatedWorld) throws(SystemError) {
        switch try world.enter(.read, path) {
        case .fail(let errno), .tear(let errno, _), .failDropping(let errno):
            throw SystemError(errno: errno, operation: "read", subject: path)
        case .go, .stopAfterwards: break
        }
        world.file(node).live.read(at: transfer.offset, into: transfer.memory)
    }

    private func write(_ transfer: Transfer, _ world: inout SimulatedWorld, isUnderWay: Bool) throws(SystemError) {
        guard isWritable else { throw SystemError(errno: .badFileDescriptor, operation: "write", subject: path) }
        guard !transfer.memory.isEmpty else { return }
        let bytes = [UInt8](transfer.memory)
        if isUnderWay { return world.change(node, .write(bytes, at: transfer.offset)) }
        switch try world.enter(.write, "\(path) \(transfer.offset)+\(bytes.count)") {
        case .go:
            let range = ByteRange(offset: transfer.offset, count: UInt64(bytes.count))
            try world.requireSpace(node, range, "write", path)
            world.change(node, .write(bytes, at: transfer.offset))
        case .stopAfterwards:
            world.change(node, .write(bytes, at: transfer.offset))
            try world.leave(true, .write, path)
        case .fail(let errno):
            let half = bytes.count / 2 / Int(sectorBytes) * Int(sectorBytes)
            if half > 0 { world.change(node, .write(Array(bytes.prefix(half)), at: transfer.offset)) }
            throw SystemError(errno: errno, operation: "write", subject: path)
        case .tear(let errno, let seed):
            var random = SeededRandom(seed: seed)
            for start in stride(from: 0, to: bytes.count, by: Int(sectorBytes)) where random.oneIn(2) {
                let sector = Array(bytes[start..<min(start + Int(sectorBytes), bytes.count)])
                world.change(node, .write(sector, at: transfer.offset + UInt64(start)))
            }
            throw SystemError(errno: errno, operation: "write", subject: path)
        case .failDropping(let errno):
            throw SystemError(errno: errno, operation: "write", subject: path)
        }
    }

    func synchronize() throws(SystemError) {
        try owner.perform(.synchronize, path) { world throws(SystemError) in
            switch try world.enter(.synchronize, path) {
            case .go: world.makeDurable(node)
            case .stopAfterwards: try world.leave(true, .synchronize, path)
            case .failDropping(let errno):
                world.withFile(node) { $0.pending = [] }
                throw SystemError(errno: errno, operation: "synchronize", subject: path)
            case .fail(let errno), .tear(let errno, _):
                throw SystemError(errno: errno, operation: "synchronize", subject: path)
            }
        }
    }

    func dropCache() {
        owner.world.withLock { world in
            guard !world.isStopped else { return }
            world.cacheDrops[path, default: 0] += 1
            world.dropCache(node)
        }
    }

    func truncate(to size: UInt64) throws(SystemError) { try change(.truncate, .truncate(size), takes: nil) }

    func reserve(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
        let range = ByteRange(offset: offset, count: count)
        if count > 0 { try change(.reserve, .reserve(range), takes: range) }
        return true
    }

    func zero(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
        let range = ByteRange(offset: offset, count: count)
        if count > 0 { try change(.zero, .zero(range), takes: range) }
        return true
    }

    func punch(offset: UInt64, count: UInt64) throws(SystemError) -> Bool {
        if count > 0 { try change(.punch, .punch(ByteRange(offset: offset, count: count)), takes: nil) }
        return true
    }

    private func change(
        _ call: FaultPlan.Call, _ kind: SimulatedWorld.PendingChange.Kind, takes range: ByteRange?
    ) throws(SystemError) {
        guard isWritable else { throw SystemError(errno: .badFileDescriptor, operation: call.rawValue, subject: path) }
        try owner.perform(call, path) { world throws(SystemError) in
            let stops = try world.enterWhole(call, path)
            if let range, !stops { try world.requireSpace(node, range, call.rawValue, path) }
            world.change(node, kind)
            try world.leave(stops, call, path)
        }
    }

    func nextData(from offset: UInt64) throws(SystemError) -> (offset: UInt64, count: UInt64)? {
        try owner.perform(.look, path) { world throws(SystemError) in
            try world.requirePower("seek data in", path)
            return world.withFile(node) { $0.live.nextData(from: offset) }
        }
    }

    func unwrittenRanges(in range: ByteRange) throws(SystemError) -> [ByteRange]? {
        try owner.perform(.look, path) { world throws(SystemError) in
            try world.requirePower("map", path)
            return world.file(node).live.unwrittenRanges(in: range)
        }
    }
}
