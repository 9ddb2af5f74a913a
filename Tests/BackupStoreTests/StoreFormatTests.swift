import ChunkTree
import Codecs
import TestSupport
import Testing

@testable import BackupStore

/// The files of a store as bytes: every cut and every flipped bit of each.
@Suite struct StoreFormatTests {
    /// Calls `body` with each cut and each flipped bit of `bytes`; it returns whether that was refused.
    private func sweep(_ bytes: [UInt8], _ name: String, _ body: ([UInt8]) throws -> Bool) rethrows {
        for count in 0..<bytes.count {
            guard try body(Array(bytes.prefix(count))) else {
                Issue.record("\(name) cut to \(count) of \(bytes.count) bytes is taken")
                return
            }
        }
        var altered = bytes
        for bit in 0..<bytes.count * 8 {
            altered[bit / 8] ^= 1 << UInt8(bit % 8)
            guard try body(altered) else {
                Issue.record("\(name) with bit \(bit % 8) of byte \(bit / 8) flipped is taken")
                return
            }
            altered[bit / 8] ^= 1 << UInt8(bit % 8)
        }
        for more in [[0], [10], Array("sum\n".utf8), bytes] as [[UInt8]] {
            guard try body(bytes + more) else {
                Issue.record("\(name) with \(more.count) bytes more is taken")
                return
            }
        }
    }

    private func isRefused<R>(_ body: () throws(StoreError) -> R) -> Bool {
        do throws(StoreError) { _ = try body() } catch { return error.code == .corrupt || error.code == .unsupported }
        return false
    }

    private func isCorrupt<R>(_ body: () throws(FieldError) -> R) -> Bool {
        do throws(FieldError) { _ = try body() } catch { return !error.message.isEmpty }
        return false
    }

    private static let point = RestorePoint(
        RestorePoint.Content(
            disk: "disk 1", name: "ein % Name\nmit ä", time: 1_700_000_000_000_000_000,
            root: TreeRoot(top: Digest.hash([1]), shape: TreeShape(byteCount: 10 << 20, chunkBytes: 65536)),
            parent: "20231114T221320Z-01234567", snapshot: "{5fbaabe3}", statistics: ["bytes-read": 5]))

    @Test("every cut and every flipped bit of a description is refused") func description() throws {
        let written = StoreDescription(uuid: "01234567-89ab", chunkBytes: 65536)
        #expect(try StoreDescription(parsing: written.encoded(), of: "x") == written)
        sweep(written.encoded(), "a description") { bytes in
            isRefused { () throws(StoreError) in try StoreDescription(parsing: bytes, of: "x") }
        }
    }

    @Test("every cut and every flipped bit of a point is refused") func point() throws {
        let point = Self.point
        #expect(try RestorePoint(parsing: point.encoded(), id: point.id) == point)
        sweep(point.encoded(), "a point") { bytes in
            isRefused { () throws(StoreError) in try RestorePoint(parsing: bytes, id: point.id) }
        }
        #expect(isRefused { () throws(StoreError) in try RestorePoint(parsing: point.encoded(), id: "other") })
    }

    /// A text with its checksum set right.
    private func summed(_ lines: String) -> [UInt8] {
        let body = Array(lines.utf8)
        return body + Array("sum \(Digest.hash(body))\n".utf8)
    }

    @Test(
        "texts that are not in their one form are refused, with a right checksum too",
        arguments: [
            "", "\n", "godwit-x 1", "godwit-x 1\na 1\na 2\n", "godwit-x 1\n\n", "godwit-x 1\na\n", "godwit-x 1\n b\n",
            "godwit-x 1\na %4\n", "godwit-x 1\na %zz\n", "godwit-x 1\na %41\n", "godwit-x 1\na %c3%A4\n",
            "godwit-x 1\na %C3\n", "godwit-x 2\na 1\n", "godwit-y 1\na 1\n", "godwit-x 1\r\na 1\n",
            "godwit-x 1\na \t\n",
        ])
    func texts(lines: String) {
        #expect(
            isRefused { () throws(StoreError) in
                try RecordText(parsing: summed(lines), heading: "godwit-x 1", in: "x")
            })
    }

    @Test("values of any text come back") func values() throws {
        for value in ["", " ", "a b", "%", "%%41", "\n", "ä€𝄞", "\u{0}\u{7f}", "sum 0"] {
            var text = RecordText(heading: "godwit-x 1")
            text.set("key", value)
            let parsed = try RecordText(parsing: text.encoded(), heading: "godwit-x 1", in: "x")
            #expect(try parsed.value("key") == value)
        }
    }

    @Test(
        "descriptions that cannot be are refused, with a right checksum too",
        arguments: [
            ("u", "65537", "sha256", ""), ("u", "2048", "sha256", ""), ("u", "2097152", "sha256", ""),
            ("u", "18446744073709551616", "sha256", ""), ("u", "-1", "sha256", ""), ("", "65536", "sha256", ""),
            ("u", "65536", "sha1", ""), ("u", "65536", "sha256", "encryption"), ("u", "0", "sha256", ""),
        ])
    func descriptions(uuid: String, chunk: String, hash: String, needs: String) {
        let bytes = summed("godwit-store 1\nuuid \(uuid)\nchunk-bytes \(chunk)\nhash \(hash)\nneeds \(needs)\n")
        #expect(isRefused { () throws(StoreError) in try StoreDescription(parsing: bytes, of: "x") })
    }

    // MARK: Packs

    /// A directory of three frames, and the pack's end.
    private func directory() -> (directory: PackDirectory, end: UInt32) {
        var directory = PackDirectory()
        var offset = UInt32(PackDirectory.headerBytes)
        for number in 0..<3 as Range<UInt32> {
            let objects = (0...number).map {
                PackFrame.Object(id: Digest.hash([UInt8(number), UInt8($0)]), length: 4096)
            }
            let plain = UInt32(objects.count) * 4096
            let stored = number == 1 ? plain : plain / 2
            directory.frames.append(
                PackFrame(
                    offset: offset, storedBytes: stored, plainBytes: plain, checksum: 7 + number,
                    isCompressed: number != 1, isNodes: number == 2, objects: objects))
            offset += stored
        }
        return (directory, offset)
    }

    @Test("every cut and every flipped bit of a pack's header, directory or trailer is refused") func packs() throws {
        let (directory, end) = directory()
        let ending = directory.ending(at: end)
        let packBytes = UInt64(end) + UInt64(ending.bytes.count)
        let body = Array(ending.bytes.dropLast(PackDirectory.trailerBytes))
        let trailer = Array(ending.bytes.suffix(PackDirectory.trailerBytes))
        func parse(
            _ header: [UInt8], _ body: [UInt8], _ trailer: [UInt8], _ packBytes: UInt64
        ) throws(FieldError) -> PackDirectory {
            try PackDirectory.parse(
                header: header, directory: body, trailer: trailer, packBytes: packBytes, name: ending.name)
        }
        #expect(try parse(PackDirectory.header, body, trailer, packBytes) == directory)
        sweep(PackDirectory.header, "a header") { bytes in
            isCorrupt { () throws(FieldError) in try parse(bytes, body, trailer, packBytes) }
        }
        sweep(body, "a directory") { bytes in
            isCorrupt { () throws(FieldError) in try parse(PackDirectory.header, bytes, trailer, packBytes) }
        }
        sweep(trailer, "a trailer") { bytes in
            isCorrupt { () throws(FieldError) in try parse(PackDirectory.header, body, bytes, packBytes) }
        }
        for wrong in [0, 1, packBytes - 1, packBytes + 1, .max] {
            #expect(isCorrupt { () throws(FieldError) in try parse(PackDirectory.header, body, trailer, wrong) })
        }
    }

    @Test("directories that contradict themselves are refused", arguments: 0..<12)
    func directories(number: Int) {
        var (directory, end) = directory()
        switch number {
        case 0: directory.frames[0].offset += 1
        case 1: directory.frames[1].offset = 0
        case 2: directory.frames[2].storedBytes = .max
        case 3: directory.frames[1].storedBytes -= 1
        case 4: directory.frames[0].plainBytes = 0
        case 5: directory.frames[0].plainBytes = UInt32(StoreLimits.frameMax) + 1
        case 6: directory.frames[0].objects[0].length = 0
        case 7: directory.frames[2].objects[1].length = .max
        case 8: directory.frames[2].objects[1].id = .zero
        case 9: directory.frames[1].objects = []
        case 10: directory.frames = []
        default: end -= 1
        }
        let bytes = directory.encoded()
        #expect(isCorrupt { () throws(FieldError) in try PackDirectory(parsing: bytes, end: end) })
    }

    // MARK: Index

    private func entries(_ count: Int) -> [IndexEntry] {
        (0..<count).map { number in
            let place = Location(
                pack: .zero, frameOffset: 16 + UInt32(number), storedBytes: 10, plainBytes: 4096,
                isCompressed: true, isNode: number % 3 == 0, offset: 0, length: 4096)
            return IndexEntry(id: Digest.hash([UInt8(number)]), pack: 0, at: place)
        }.sorted { $0.id < $1.id }
    }

    @Test("every cut and every flipped bit of an index page is refused") func pages() throws {
        let all = entries(IndexPage.entriesMax)
        let page = IndexPage.encoded(all[...])
        let checked = try CheckedPage(checking: page)
        for (place, entry) in all.enumerated() {
            #expect(checked.search(entry.id) == place)
            #expect(try checked.entry(place) == entry)
        }
        #expect(checked.search(Digest.hash([200])) == nil && checked.search(.zero) == nil)
        sweep(page, "a page") { bytes in isCorrupt { () throws(FieldError) in try CheckedPage(checking: bytes) } }
    }

    @Test("every cut and every flipped bit of an index trailer is refused") func trailers() throws {
        let trailer = IndexTrailer(entryCount: 100, packCount: 3, packChecksum: 5)
        let fileBytes: UInt64 = 2 * 4096 + 3 * 32 + 64
        #expect(try IndexTrailer(parsing: trailer.encoded(), fileBytes: fileBytes) == trailer)
        sweep(trailer.encoded(), "a trailer") { bytes in
            isCorrupt { () throws(FieldError) in try IndexTrailer(parsing: bytes, fileBytes: fileBytes) }
        }
        for wrong in [0, 64, fileBytes - 1, fileBytes + 1, .max] {
            #expect(
                isCorrupt { () throws(FieldError) in try IndexTrailer(parsing: trailer.encoded(), fileBytes: wrong) })
        }
    }

    @Test(
        "trailers with numbers that cannot be are refused, with a right checksum too",
        arguments: [(0, 1), (1, 0), (1 << 48, 1), (.max, 1), (.max - 72, .max), (1, .max)] as [(UInt64, UInt32)])
    func trailerNumbers(entries: UInt64, packs: UInt32) {
        let trailer = IndexTrailer(entryCount: entries, packCount: packs, packChecksum: 0).encoded()
        for fileBytes in [64, 4096 + 32 + 64, .max] as [UInt64] {
            #expect(
                isCorrupt { () throws(FieldError) in try IndexTrailer(parsing: trailer, fileBytes: fileBytes) })
        }
    }

    @Test("entries that name places that cannot be are refused", arguments: 0..<9)
    func entry(number: Int) throws {
        var entry = entries(1)[0]
        switch number {
        case 0: entry.id = .zero
        case 1: entry.frameOffset = 15
        case 2: entry.frameOffset = .max
        case 3: entry.storedBytes = 0
        case 4: entry.storedBytes = UInt32(StoreLimits.readMax) + 1
        case 5: entry.plainBytes = UInt32(StoreLimits.frameMax) + 1
        case 6: entry.offset = 4096
        case 7: entry.offset = .max
        default: entry.length = 0
        }
        let page = try CheckedPage(checking: IndexPage.encoded([entry]))
        #expect(isCorrupt { () throws(FieldError) in try page.entry(0) })
    }

    // MARK: Names

    @Test(
        "only names of objects are names",
        arguments: [
            "", ".", "..", "/etc/passwd", "../../etc/passwd", String(repeating: "a", count: 63),
            String(repeating: "a", count: 65), String(repeating: "A", count: 64), String(repeating: "g", count: 64),
            String(repeating: "a", count: 62) + "/.", String(repeating: "a", count: 63) + "\u{0}",
            "20231114T221320Z-0123456", "20231114T221320Z-012345678", "20231114t221320Z-01234567",
            "20231114T221320Z-0123456G", "2023111٣T221320Z-01234567", "20231114T221320Z/01234567",
            " 0231114T221320Z-01234567",
        ])
    func names(name: String) {
        for kind in ObjectKind.allCases { #expect(!ObjectName.isValid(name, as: kind), "\(kind)") }
    }

    @Test("date(1) agrees on the dates in points' names", .enabled(if: hasTool("date"))) func dates() throws {
        var random = SeededRandom("dates in names")
        let fixed: [UInt64] = [0, 951_782_399, 951_782_400, 1_709_164_800, 4_107_542_400, 253_402_300_799]
        let seconds = fixed + (0..<30).map { _ in random.below(UInt64(253_402_300_800)) }
        let input = seconds.map { "@\($0)\n" }.joined()
        let text = try expectTool("date", "-u", "-f", "-", "+%Y%m%dT%H%M%SZ", input: Array(input.utf8))
        let theirs = text.split(separator: "\n").map(String.init)
        for (second, date) in zip(seconds, theirs) where second < UInt64.max / 1_000_000_000 {
            #expect(UTCTime.compact(nanoseconds: second * 1_000_000_000) == date)
        }
        #expect(ObjectName.isValid(UTCTime.compact(nanoseconds: .max) + "-01234567", as: .point))
    }
}
