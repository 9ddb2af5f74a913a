import BlockIO
import Geometry
import LinuxSystem
import SystemPackage
import TestSupport
import Testing

/// What every kind of file must do.
@Suite struct StorageFileTests {
    private static let unit = 4096

    @Test("what was written is read, and beyond the end there are zeros", arguments: Backend.allCases)
    func readsWrites(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let file = try bench.file()
        #expect(try file.size() == 0)
        #expect(try file.take(at: 0, count: Self.unit) == [UInt8](repeating: 0, count: Self.unit))
        var random = SeededRandom("read writes \(backend)")
        let bytes = random.bytes(3 * Self.unit)
        try file.put(bytes, at: UInt64(5 * Self.unit))
        #expect(try file.size() == UInt64(8 * Self.unit))
        #expect(
            try file.take(at: UInt64(4 * Self.unit), count: 6 * Self.unit)
                == [UInt8](repeating: 0, count: Self.unit) + bytes + [UInt8](repeating: 0, count: 2 * Self.unit))
        try file.synchronize()
    }

    @Test("dropping the cache loses nothing, whether it is stored or waits to be", arguments: Backend.allCases)
    func cache(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let file = try bench.file()
        try file.put([UInt8](repeating: 1, count: 2 * Self.unit), at: 0)
        try file.synchronize()
        try file.put([UInt8](repeating: 2, count: Self.unit), at: UInt64(Self.unit))
        try file.truncate(to: UInt64(3 * Self.unit))
        file.dropCache()
        let zeros = [UInt8](repeating: 0, count: Self.unit)
        let (one, two) = ([UInt8](repeating: 1, count: Self.unit), [UInt8](repeating: 2, count: Self.unit))
        #expect(try file.size() == UInt64(3 * Self.unit))
        #expect(try file.take(at: 0, count: 3 * Self.unit) == one + two + zeros)
    }

    @Test("dropping the cache does, where the file has one", .enabled(if: hasTool("fincore"), "needs fincore"))
    func cacheIsDropped() throws {
        let folder = try TemporaryFolder()
        let path = folder.file("file")
        let file = try LinuxFileSystem().open(path, OpenMode(writable: true, creation: .exclusive))
        try file.writeBytes([UInt8](repeating: 1, count: 1 << 20), at: 0)
        try file.synchronize()
        func cached() throws -> String { try expectTool("fincore", "-b", "-n", "-r", "-o", "RES", path) }
        #expect(try cached().hasPrefix("1048576"))
        // A file in memory only is its cache.
        let type = try expectTool("stat", "-f", "-c", "%T", folder.path)
        file.dropCache()
        if !type.hasPrefix("tmpfs") { #expect(try cached().hasPrefix("0")) }
    }

    @Test("a size between blocks reads as zeros up to the end of the block", arguments: Backend.allCases)
    func oddSize(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let file = try bench.file()
        try file.put([UInt8](repeating: 7, count: 2 * Self.unit), at: 0)
        try file.truncate(to: 5000)
        #expect(try file.size() == 5000)
        let read = try file.take(at: 0, count: 3 * Self.unit)
        #expect(read == [UInt8](repeating: 7, count: 5000) + [UInt8](repeating: 0, count: 3 * Self.unit - 5000))
        // What was cut off does not come back.
        try file.truncate(to: UInt64(3 * Self.unit))
        #expect(try file.take(at: 0, count: 3 * Self.unit) == read)
    }

    @Test("a batch does all its transfers", arguments: Backend.allCases, [1, 2, 7, 64, 300])
    func batches(_ backend: Backend, count: Int) throws {
        let bench = try Bench(backend)
        let file = try bench.file()
        var random = SeededRandom("batch \(backend) \(count)")
        let source = AlignedBuffer(byteCount: count * Self.unit)
        let target = AlignedBuffer(byteCount: count * Self.unit)
        source.memory.copyBytes(from: random.bytes(count * Self.unit))
        let places = (0..<count).shuffled(using: &random)
        func transfers(_ operation: Transfer.Operation, _ buffer: AlignedBuffer) -> [Transfer] {
            places.map { place in
                let part = UnsafeMutableRawBufferPointer(
                    rebasing: buffer.memory[place * Self.unit..<(place + 1) * Self.unit])
                return Transfer(operation, at: UInt64(3 * place * Self.unit), memory: part)
            }
        }
        try file.perform(transfers(.write, source))
        try file.perform(transfers(.read, target))
        #expect(source.memory.elementsEqual(target.memory))
        // Reads and writes in one batch, each at a place of its own.
        try file.perform(
            transfers(.read, target) + [
                Transfer(
                    .write, at: UInt64(Self.unit),
                    memory: UnsafeMutableRawBufferPointer(rebasing: source.memory[..<Self.unit]))
            ])
        #expect(source.memory.elementsEqual(target.memory))
        try file.perform([])
    }

    @Test("any sequence of calls leaves what a plain array would hold", arguments: Backend.allCases)
    func model(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let file = try bench.file()
        var random = SeededRandom("file model \(backend)")
        var model: [UInt8] = []
        let unit = bench.backend.isDirect ? Self.unit : 1
        let span = 40 * Self.unit
        for step in 0..<400 {
            let offset = random.below(span / unit) * unit
            let count = (1 + random.below(12 * Self.unit / unit)) * unit
            func grow() { model += [UInt8](repeating: 0, count: max(0, offset + count - model.count)) }
            func clear() {
                let end = min(offset + count, model.count)
                if offset < end {
                    model.replaceSubrange(offset..<end, with: [UInt8](repeating: 0, count: end - offset))
                }
            }
            switch random.below(10) {
            case 0...3:
                let bytes = random.bytes(count)
                try file.put(bytes, at: UInt64(offset))
                grow()
                model.replaceSubrange(offset..<offset + count, with: bytes)
            case 4: if try file.punch(offset: UInt64(offset), count: UInt64(count)) { clear() }
            case 5: if try file.zero(offset: UInt64(offset), count: UInt64(count)) { clear() }
            case 6: if try file.reserve(offset: UInt64(offset), count: UInt64(count)) { grow() }
            case 7 where random.oneIn(4):
                try file.truncate(to: UInt64(offset))
                model =
                    model.count > offset
                    ? Array(model[..<offset]) : model + [UInt8](repeating: 0, count: offset - model.count)
            case 8: try file.synchronize()
            default:
                let read = try file.take(at: UInt64(offset), count: count)
                let inFile = offset < model.count ? model[offset..<min(model.count, offset + count)] : []
                #expect(read.prefix(inFile.count).elementsEqual(inFile), "step \(step)")
                #expect(read.dropFirst(inFile.count).allSatisfy { $0 == 0 }, "step \(step)")
            }
            #expect(try file.size() == UInt64(model.count), "step \(step)")
        }
        // Everything that is not zero lies in what counts as data.
        var (position, dataBytes): (UInt64, Set<Int>) = (0, [])
        while let run = try file.nextData(from: position) {
            #expect(run.offset >= position && run.count > 0 && run.offset + run.count <= UInt64(model.count))
            dataBytes.formUnion(Int(run.offset)..<Int(run.offset + run.count))
            position = run.offset + run.count
        }
        #expect(model.indices.allSatisfy { model[$0] == 0 || dataBytes.contains($0) })
    }

    @Test("reserved space counts, reads as zeros and is told from written", arguments: Backend.allCases)
    func reservations(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let file = try bench.file()
        let unit = UInt64(Self.unit)
        guard try file.reserve(offset: 0, count: 16 * unit) else { return }
        #expect(try file.size() == 16 * unit)
        #expect(try file.allocatedBytes() >= 16 * unit)
        #expect(try file.nextData(from: 0) == nil)
        try file.put([UInt8](repeating: 1, count: 2 * Self.unit), at: 4 * unit)
        try file.synchronize()
        let whole = ByteRange(offset: 0, count: 16 * unit)
        guard let unwritten = try file.unwrittenRanges(in: whole) else { return }
        #expect(unwritten == [ByteRange(offset: 0, count: 4 * unit), ByteRange(offset: 6 * unit, count: 10 * unit)])
        #expect(
            try file.unwrittenRanges(in: ByteRange(offset: unit, count: unit)) == [ByteRange(offset: unit, count: unit)]
        )
        let data = try #require(try file.nextData(from: 0))
        #expect(data == (4 * unit, 2 * unit))
        guard try file.punch(offset: 8 * unit, count: 8 * unit) else { return }
        #expect(try file.allocatedBytes() < 16 * unit)
        #expect(
            try file.unwrittenRanges(in: whole) == [
                ByteRange(offset: 0, count: 4 * unit), ByteRange(offset: 6 * unit, count: 2 * unit),
            ])
    }

    @Test("threads may use one file at a time", arguments: Backend.allCases)
    func threads(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let file = try bench.file()
        let threads = try (0..<4).map { number in
            try OwnThread(name: "writer") {
                for round in 0..<20 {
                    let place = UInt64((round * 4 + number) * 2 * Self.unit)
                    let bytes = [UInt8](repeating: UInt8(round * 4 + number), count: 2 * Self.unit)
                    #expect(throws: Never.self) {
                        try file.put(bytes, at: place)
                        #expect(try file.take(at: place, count: bytes.count) == bytes)
                    }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(
            try file.take(at: UInt64(79 * 2 * Self.unit), count: 2 * Self.unit)
                == [UInt8](repeating: 79, count: 2 * Self.unit))
    }

    @Test("direct files refuse what is not aligned", arguments: [Backend.linuxDirect, .simulatedDirect])
    func alignment(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let file = try bench.file()
        guard file.alignment > 1 else { return }
        let memory = AlignedBuffer(byteCount: 3 * Self.unit).memory
        let half = file.alignment / 2
        for transfer in [
            Transfer(.write, at: UInt64(half), memory: UnsafeMutableRawBufferPointer(rebasing: memory[..<Self.unit])),
            Transfer(.write, at: 0, memory: UnsafeMutableRawBufferPointer(rebasing: memory[..<(Self.unit + half)])),
        ] {
            #expect(throws: SystemError.self) { try file.perform([transfer]) }
        }
    }

    @Test("a batch reads what lies in the file and zeros beyond its end", arguments: Backend.allCases)
    func batchOverTheEnd(_ backend: Backend) throws {
        let bench = try Bench(backend)
        let file = try bench.file()
        try file.put([UInt8](repeating: 7, count: 4 * Self.unit), at: 0)
        try file.truncate(to: UInt64(2 * Self.unit + 100))
        let buffer = AlignedBuffer(byteCount: 8 * Self.unit)
        buffer.memory.initializeMemory(as: UInt8.self, repeating: 0xaa)
        try file.perform(
            (0..<4).map { part in
                let memory = UnsafeMutableRawBufferPointer(
                    rebasing: buffer.memory[part * 2 * Self.unit..<(part + 1) * 2 * Self.unit])
                return Transfer(.read, at: UInt64(part * 2 * Self.unit), memory: memory)
            })
        let inFile = 2 * Self.unit + 100
        #expect(buffer.memory[..<inFile].allSatisfy { $0 == 7 })
        #expect(buffer.memory[inFile...].allSatisfy { $0 == 0 })
    }

    @Test("the failure of one transfer is the batch's", arguments: Backend.allCases.filter(\.isLinux))
    func batchFails(_ backend: Backend) throws {
        let bench = try Bench(backend)
        _ = try bench.file()
        let file = try bench.fileSystem.open(bench.path("file"), OpenMode(writable: false, direct: backend.isDirect))
        let buffer = AlignedBuffer(byteCount: 4 * Self.unit)
        let transfers = (0..<4).map { part in
            let memory = UnsafeMutableRawBufferPointer(
                rebasing: buffer.memory[part * Self.unit..<(part + 1) * Self.unit])
            return Transfer(part == 2 ? .write : .read, at: UInt64(part * Self.unit), memory: memory)
        }
        #expect(throws: SystemError(errno: .badFileDescriptor, operation: "write", subject: bench.path("file"))) {
            try file.perform(transfers)
        }
        try file.perform([transfers[0], transfers[1], transfers[3]])
    }

    @Test("more threads than rings at once do their batches all the same")
    func manyThreads() throws {
        let bench = try Bench(.linuxDirect)
        let file = try bench.file()
        let count = 16
        let threads = try (0..<24).map { number in
            try OwnThread(name: "batches") {
                let buffer = AlignedBuffer(byteCount: count * Self.unit)
                let base = number * count * Self.unit
                func batch(_ operation: Transfer.Operation) -> [Transfer] {
                    (0..<count).map { part in
                        let memory = UnsafeMutableRawBufferPointer(
                            rebasing: buffer.memory[part * Self.unit..<(part + 1) * Self.unit])
                        return Transfer(operation, at: UInt64(base + part * Self.unit), memory: memory)
                    }
                }
                #expect(throws: Never.self) {
                    for round in 0..<10 {
                        let mark = UInt8(number * 10 + round)
                        buffer.memory.initializeMemory(as: UInt8.self, repeating: mark)
                        try file.perform(batch(.write))
                        buffer.memory.initializeMemory(as: UInt8.self, repeating: 0)
                        try file.perform(batch(.read))
                        #expect(buffer.memory.allSatisfy { $0 == mark })
                    }
                }
            }
        }
        for thread in threads { thread.join() }
    }

    @Test("buffers are zero, apart from each other, and used again")
    func buffers() {
        var random = SeededRandom("buffers")
        var kept: [(AlignedBuffer, UInt8)] = []
        for round in 0..<2000 {
            let size = [100, 4096, 20_000, 65_536, 200_000, 1 << 20][random.below(6)]
            let buffer = AlignedBuffer(byteCount: size)
            #expect(buffer.memory.count == size)
            #expect(UInt(bitPattern: buffer.memory.baseAddress) % 4096 == 0)
            #expect(buffer.memory[0] == 0 && buffer.memory[size / 2] == 0 && buffer.memory[size - 1] == 0)
            let mark = UInt8(truncatingIfNeeded: round | 1)
            buffer.memory[0] = mark
            buffer.memory[size - 1] = mark
            kept.append((buffer, mark))
            if kept.count > 24 {
                let (old, mark) = kept.remove(at: random.below(kept.count))
                #expect(old.memory[0] == mark && old.memory[old.memory.count - 1] == mark)
            }
        }
    }
}
