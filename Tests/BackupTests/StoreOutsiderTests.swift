import Backup
import BackupStore
import BlockIO
import Foundation
import LinuxSystem
import TestSupport
import Testing

/// A reader of stores made after godwit-store(5), with nothing of ours: digests by sha256sum, frames by zstd.
private struct OutsideReader {
    struct Broken: Error, CustomStringConvertible {
        var description: String
    }
    let folder: String
    private(set) var objects: [String: [UInt8]] = [:]

    static func digest(_ prefix: String, _ bytes: [UInt8]) throws -> String {
        String(try expectTool("sha256sum", input: Array(prefix.utf8) + bytes).prefix(64))
    }

    static func number(_ bytes: ArraySlice<UInt8>) -> Int { bytes.reversed().reduce(0) { $0 << 8 | Int($1) } }
    static func hex(_ bytes: ArraySlice<UInt8>) -> String {
        bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }

    func file(_ name: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: URL(fileURLWithPath: folder + "/" + name)))
    }
    func names(_ folder: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: self.folder + "/" + folder).sorted()
    }
    private func require(_ isTrue: Bool, _ what: String) throws {
        guard isTrue else { throw Broken(description: what) }
    }

    /// The keys and values of a record.
    func record(_ name: String, heading: String) throws -> [String: String] {
        let bytes = try file(name)
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        let sum = try Self.digest("", Array(bytes.dropLast(69)))
        try require(lines.first == Substring(heading) && lines.last == "sum \(sum)", "record \(name)")
        var values: [String: String] = [:]
        for line in lines.dropFirst() {
            let parts = line.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false)
            values[String(parts[0])] = parts.count > 1 ? String(parts[1]) : ""
        }
        return values
    }

    mutating func readPacks() throws {
        for part in try names("packs") {
            for name in try names("packs/" + part) { try readPack(name, try file("packs/\(part)/\(name)")) }
        }
    }

    private mutating func readPack(_ name: String, _ bytes: [UInt8]) throws {
        let trailer = bytes.count - 32
        let start = Self.number(bytes[trailer..<trailer + 8])
        let count = Self.number(bytes[trailer + 8..<trailer + 12])
        try require(start + count == trailer && Array(bytes.suffix(8)) == Array("GODWITPE".utf8), "end of \(name)")
        let named = try Self.digest("godwit pack 1\n", Array(bytes[..<16]) + Array(bytes[start..<trailer]))
        try require(named == name && Array(bytes.prefix(8)) == Array("GODWITPK".utf8), "name of \(name)")
        var at = start
        while at < trailer {
            let offset = Self.number(bytes[at..<at + 4])
            let stored = Array(bytes[offset..<offset + Self.number(bytes[at + 4..<at + 8])])
            let plain = bytes[at + 18] == 1 ? try runTool("zstd", "-dcq", input: stored).output : stored
            try require(plain.count == Self.number(bytes[at + 8..<at + 12]), "a frame of \(name)")
            let prefix = bytes[at + 19] == 1 ? "godwit node 1\n" : "godwit chunk 1\n"
            let objectCount = Self.number(bytes[at + 16..<at + 18])
            var place = 0
            at += 20
            for _ in 0..<objectCount {
                let id = Self.hex(bytes[at..<at + 32])
                let length = Self.number(bytes[at + 32..<at + 36])
                let object = Array(plain[place..<place + length])
                try require(try Self.digest(prefix, object) == id, "object \(id) of \(name)")
                objects[id] = object
                place += length
                at += 36
            }
            try require(place == plain.count, "lengths of \(name)")
        }
    }

    /// The chunks below a node, by their number.
    func chunks(_ id: String, level: Int, first: Int = 0) throws -> [Int: [UInt8]] {
        if id == String(repeating: "0", count: 64) { return [:] }
        guard let object = objects[id] else { throw Broken(description: "no object \(id)") }
        if level == 0 { return [first: object] }
        try require(object[0] == UInt8(level), "level of \(id)")
        var found: [Int: [UInt8]] = [:]
        var at = 33
        let width = (1..<level).reduce(1) { width, _ in width * 256 }
        for child in 0..<256 where object[1 + child / 8] >> UInt8(child % 8) & 1 == 1 {
            found.merge(try chunks(Self.hex(object[at..<at + 32]), level: level - 1, first: first + child * width)) {
                $1
            }
            at += 32
        }
        return found
    }
}

@Suite(.enabled(if: hasTool("sha256sum") && hasTool("zstd") && hasTool("cmp"), "needs sha256sum, zstd and cmp"))
struct StoreOutsiderTests {
    @Test("a reader made after the manual page, with others' tools, finds each point's content") func reader() throws {
        var bench = try Bench(byteCount: 1_200_000, clusterBytes: 32 << 10, chunkBytes: 4096)
        var random = SeededRandom("an outside reader")
        let text = (0..<1500).flatMap { Array("line \($0)\n".utf8) }
        bench.disk.write(text, at: 8192)
        bench.disk.write(random.bytes(9000), at: 1_100_000)
        var contents: [(point: RestorePoint, bytes: [UInt8])] = []
        contents.append((try bench.backup().point, bench.disk.content))
        bench.disk.write(random.bytes(700), at: 1_199_300)
        bench.disk.write([UInt8](repeating: 0, count: 4096), at: 8192)
        contents.append((try bench.backup().point, bench.disk.content))

        var reader = OutsideReader(folder: bench.folder.file("store"))
        let description = try reader.record("godwit-store", heading: "godwit-store 1")
        #expect(description["chunk-bytes"] == "4096" && description["hash"] == "sha256")
        for name in try reader.names("index") {
            #expect(try OutsideReader.digest("godwit index 1\n", try reader.file("index/" + name)) == name)
        }
        try reader.readPacks()
        for (point, expected) in contents {
            let record = try reader.record("points/" + point.id, heading: "godwit-point 1")
            #expect(point.id.hasSuffix(try OutsideReader.digest("", try reader.file("points/" + point.id)).prefix(8)))
            #expect(record["bytes"] == "1200000")
            let top = try #require(record["top"])
            // 293 chunks are more than one node has.
            var bytes = [UInt8](repeating: 0, count: 293 * 4096)
            for (number, chunk) in try reader.chunks(top, level: 2) {
                bytes.replaceSubrange(number * 4096..<(number + 1) * 4096, with: chunk)
            }
            let (ours, theirs) = (bench.folder.file("expected"), bench.folder.file("found"))
            try Data(expected).write(to: URL(fileURLWithPath: ours))
            try Data(bytes.prefix(1_200_000)).write(to: URL(fileURLWithPath: theirs))
            try expectTool("cmp", ours, theirs)
            // And ours restores the same, with holes where there are zeros.
            let restored = bench.folder.file("restored")
            _ = try RestoreJob(point: point, target: .raw(file: restored)).run(store: bench.store, in: bench.fs)
            try expectTool("cmp", ours, restored)
            #expect(try bench.fs.open(restored, .read).allocatedBytes() < 200_000)
            try bench.fs.remove(restored)
        }
    }
}
