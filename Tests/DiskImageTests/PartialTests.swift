import BlockIO
import Geometry
import ImageFormat
import LinuxSystem
import TestSupport
import Testing

@testable import DiskImage

/// What is not whole has no final name, and nothing goes that we did not make.
@Suite struct PartialTests {
    private let fs = LinuxFileSystem()
    private static let size: UInt64 = 4 << 20

    private func makeSource(_ folder: TemporaryFolder) throws -> String {
        try makeRaw(folder.file("raw"), byteCount: Self.size, [(0, pattern(3 << 20, seed: 1))])
        return folder.file("raw")
    }

    private func partials(_ folder: TemporaryFolder) throws -> [String] {
        try fs.list(folder.path).filter { $0.contains(".godwit-partial.") }
    }

    @Test("while an export or import runs there is nothing under the final name") func noFinalName() throws {
        let folder = try TemporaryFolder()
        let raw = try makeSource(folder)
        var looks = 0
        _ = try importImage(from: raw, to: folder.file("disk"), in: fs) { _, _ in
            looks += 1
            let isThere = (try? fs.isTaken(folder.file("disk"))) ?? true
            return !isThere
        }
        #expect(try fs.list(folder.file("disk")) == ["DiskDescriptor.xml", "root.hds"])
        _ = try exportImage(from: folder.file("disk"), to: folder.file("out"), in: fs) { _, _ in
            looks += 1
            let isThere = (try? fs.isTaken(folder.file("out"))) ?? true
            return !isThere
        }
        #expect(looks > 2)
        #expect(try readFile(folder.file("out")) == readFile(raw))
        #expect(try fs.list(folder.path) == ["disk", "out", "raw"])
    }

    @Test("what a killed run left goes with the next one; what is locked or another's stays") func clearing() throws {
        let folder = try TemporaryFolder()
        let raw = try makeSource(folder)
        let disk = folder.file("disk")
        try createDisk(at: disk, options: CreateOptions(byteCount: Self.size), in: fs)
        let guid = { (digit: Int) in "{\(digit)2222222-1111-1111-1111-111111111111}" }
        func make(_ path: String) throws {
            try fs.open(path, OpenMode(writable: true, creation: .exclusive)).writeBytes([7], at: 0)
        }
        // Of exports to `out`.
        let (dead, alive) = (folder.file("out.godwit-partial.\(guid(1))"), folder.file("out.godwit-partial.\(guid(2))"))
        let others = ["out.godwit-partial", "out.godwit-partial.x", "other.godwit-partial.\(guid(3))"]
        for path in [dead, alive] + others.map({ folder.file($0) }) { try make(path) }
        try expectTool("ln", "-s", raw, folder.file("out.godwit-partial.\(guid(4))"))
        let lock = try #require(try fs.lock(alive, wait: false))
        _ = try exportImage(from: disk, to: folder.file("out"), in: fs)
        #expect(try !fs.exists(dead) && fs.exists(alive))
        for name in others { #expect(try fs.exists(folder.file(name)), "\(name)") }
        #expect(try fs.exists(raw))
        withExtendedLifetime(lock) {}

        // Of imports to `new`.
        for digit in [5, 6, 7] {
            let path = folder.file("new.godwit-partial.\(guid(digit))")
            try fs.createFolder(path)
            try make("\(path)/root.hds")
        }
        try make(folder.file("new.godwit-partial.\(guid(7))/precious"))
        let owner = try #require(try fs.lock(folder.file("new.godwit-partial.\(guid(6))/godwit.lock"), wait: false))
        _ = try importImage(from: raw, to: folder.file("new"), in: fs)
        #expect(try !fs.exists(folder.file("new.godwit-partial.\(guid(5))")))
        #expect(try fs.exists(folder.file("new.godwit-partial.\(guid(6))/root.hds")))
        #expect(try fs.exists(folder.file("new.godwit-partial.\(guid(7))/precious")))
        withExtendedLifetime(owner) {}
    }

    @Test("a folder that was there is filled under a name of its own, and one that was killed is cleared")
    func existingFolder() throws {
        let folder = try TemporaryFolder()
        let raw = try makeSource(folder)
        let disk = folder.file("disk")
        try fs.createFolder(disk)
        let left = "root.hds.{22222222-1111-1111-1111-111111111111}"
        for (name, text) in [("mine", "1"), (left, "2"), ("godwit.leftovers", left + "\n")] {
            try fs.open("\(disk)/\(name)", OpenMode(writable: true, creation: .exclusive))
                .writeBytes([UInt8](text.utf8), at: 0)
        }
        let stopped = #expect(throws: DiskError.self) {
            try importImage(from: raw, to: disk, in: fs) { _, _ in
                #expect((try? fs.exists("\(disk)/root.hds")) == false)
                #expect((try? importImage(from: raw, to: disk, in: fs)) == nil)
                return false
            }
        }
        #expect(stopped?.code == .busy)
        #expect(try fs.list(disk) == ["mine"])
        _ = try importImage(from: raw, to: disk, in: fs)
        #expect(try fs.list(disk) == ["DiskDescriptor.xml", "mine", "root.hds"])
        #expect(try checkDisk(at: disk, in: fs).isSound)
    }

    @Test("a name that is taken is refused before anything is read, also by a link that leads nowhere") func taken()
        throws
    {
        let folder = try TemporaryFolder()
        let raw = try makeSource(folder)
        try createDisk(at: folder.file("disk"), options: CreateOptions(byteCount: Self.size), in: fs)
        try expectTool("ln", "-s", folder.file("nowhere"), folder.file("link"))
        let never: TransferProgress = { _, _ in
            Issue.record("it began")
            return false
        }
        var error = #expect(throws: DiskError.self) {
            try importImage(from: raw, to: folder.file("link"), in: fs, progress: never)
        }
        #expect(error?.code == .exists)
        error = #expect(throws: DiskError.self) {
            try exportImage(from: folder.file("disk"), to: folder.file("link"), in: fs, progress: never)
        }
        #expect(error?.code == .exists)
        error = #expect(throws: DiskError.self) {
            try importImage(from: raw, to: folder.file("no/such/folder"), in: fs, progress: never)
        }
        #expect(error?.code == .notFound && error?.message.contains("folder above") == true)
        #expect(try !fs.isTaken(folder.file("nowhere")))
    }

    @Test("what another took meanwhile is not replaced") func takenMeanwhile() throws {
        let folder = try TemporaryFolder()
        let raw = try makeSource(folder)
        try createDisk(at: folder.file("disk"), options: CreateOptions(byteCount: Self.size), in: fs)
        for target in ["out", "new"] {
            let path = folder.file(target)
            let take: TransferProgress = { _, _ in
                _ = try? fs.open(path, OpenMode(writable: true, creation: .ifMissing)).writeBytes([1], at: 0)
                return true
            }
            let error = #expect(throws: DiskError.self) {
                if target == "out" {
                    _ = try exportImage(from: folder.file("disk"), to: path, in: fs, progress: take)
                } else {
                    _ = try importImage(from: raw, to: path, in: fs, progress: take)
                }
            }
            #expect(error?.code == .exists)
            #expect(try readFile(path) == [1])
        }
        #expect(try partials(folder) == [])
    }

    @Test("a cut while a disk is exported leaves no file or the whole one") func exportCut() throws {
        let state = SimulatedFileSystem()
        try createDisk(at: "/disk", options: CreateOptions(byteCount: 4 << 15, clusterSize: .smallest), in: state)
        let disk = try Disk.open("/disk", in: state)
        let data = pattern(3 << 15, seed: 4)
        try data.withUnsafeBytes { try disk.write(at: 0, from: $0) }
        try disk.close()
        var number = 1
        var isDone = false
        while !isDone {
            let fs = state.duplicate()
            fs.setPlan(.stop(atChange: number))
            isDone = (try? exportImage(from: "/disk", to: "/out", in: fs)) != nil
            for survival in [Survival.nothing, .everything, .random(seed: UInt64(number))] {
                let after = fs.afterPowerCut(survival)
                guard try after.exists("/out") else {
                    #expect(!isDone, "\(survival)")
                    continue
                }
                let file = try after.open("/out", .read)
                #expect(try file.size() == 4 << 15, "cut at \(number), \(survival)")
                #expect(try file.readBytes(at: 0, count: 3 << 15) == data, "cut at \(number), \(survival)")
            }
            number += 1
        }
    }
}
