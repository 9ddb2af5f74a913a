import BlockIO
import Geometry
import ImageFormat
import LinuxSystem
import TestSupport
import Testing

@testable import DiskImage

/// A disk's folder that somebody else filled: nothing outside of it is read, written or removed.
@Suite struct HostileFolderTests {
    private let fs = LinuxFileSystem()
    private let guid = "{22222222-1111-1111-1111-111111111111}"

    private func makeDisk(_ folder: TemporaryFolder) throws -> String {
        let disk = folder.file("disk")
        try createDisk(at: disk, options: CreateOptions(byteCount: 4 << 20), in: fs)
        return disk
    }

    private func write(_ path: String, _ text: String) throws {
        try fs.open(path, OpenMode(writable: true, creation: .exclusive)).writeBytes([UInt8](text.utf8), at: 0)
    }

    @Test("a link that takes an image's place after the look at it is not followed")
    func linkAfterTheLook() throws {
        let folder = try TemporaryFolder()
        let disk = try makeDisk(folder)
        let (image, elsewhere) = ("\(disk)/root.hds", folder.file("elsewhere"))
        try fs.rename(image, to: elsewhere)
        try expectTool("ln", "-s", elsewhere, image)
        #expect(throws: DiskError.self) { try DeltaFile.open(image, in: fs, writable: true, direct: false) }
        _ = try DeltaFile.open(elsewhere, in: fs, writable: true, direct: false)
    }

    @Test("only files of the folder that are named as ours are left over") func leftovers() throws {
        let folder = try TemporaryFolder()
        let disk = try makeDisk(folder)
        let outside = folder.file("root.hds.\(guid)")
        let stays = [folder.file("victim"), outside, "\(disk)/precious", "\(disk)/godwit-marks.json"]
        for path in stays { try write(path, "precious") }
        try fs.createFolder("\(disk)/root.hds.{33333333-1111-1111-1111-111111111111}")
        let ours = "\(disk)/root.hds.\(guid)"
        try write(ours, "left")
        let names = [
            folder.file("victim"), "../victim", "../root.hds.\(guid)", outside, "precious", "godwit-marks.json", "..",
            "", "root.hds.{33333333-1111-1111-1111-111111111111}", "root.hds.\(guid)",
        ]
        try write("\(disk)/godwit.leftovers", names.joined(separator: "\n"))
        try Disk.open(disk, in: fs).close()
        for path in stays { #expect(try readFile(path) == [UInt8]("precious".utf8), "\(path)") }
        #expect(try !fs.exists(ours))
        #expect(try !fs.exists("\(disk)/godwit.leftovers"))
    }

    @Test(
        "a descriptor that leads out of the folder is refused by whoever reads it",
        arguments: ["../outside.hds", "sub/../../outside.hds", "/etc/passwd", "link.hds", "..", "godwit.lock"])
    func outside(name: String) throws {
        let folder = try TemporaryFolder()
        let disk = try makeDisk(folder)
        try fs.createFolder("\(disk)/sub")
        try fs.rename("\(disk)/root.hds", to: folder.file("outside.hds"))
        try expectTool("ln", "-s", "../outside.hds", "\(disk)/link.hds")
        let descriptor = "\(disk)/DiskDescriptor.xml"
        let text = String(decoding: try readFile(descriptor), as: UTF8.self).replacing("root.hds", with: name)
        try fs.replaceContents(of: descriptor, with: [UInt8](text.utf8))
        func expectRefused(_ what: String, _ body: () throws -> Void) {
            let error = #expect(throws: DiskError.self, "\(what)") { try body() }
            #expect(error?.code == .unsupported, "\(what): \(String(describing: error))")
        }
        expectRefused("open") { _ = try Disk.open(disk, in: fs) }
        expectRefused("open for reading") { _ = try Disk.open(disk, in: fs, options: .readOnly) }
        expectRefused("info") { _ = try diskInfo(at: disk, in: fs) }
        expectRefused("check") { _ = try checkDisk(at: disk, in: fs) }
        expectRefused("export") { _ = try exportImage(from: disk, to: folder.file("out"), in: fs) }
        expectRefused("stack") { _ = try HeldDisk.take(disk, in: fs, readOnly: true).stack() }
        #expect(try !fs.exists(folder.file("out")))
    }

    @Test("a device of the host with the name of an image is none") func device() throws {
        let folder = try TemporaryFolder()
        let disk = try makeDisk(folder)
        try fs.remove("\(disk)/root.hds")
        try expectTool("mknod", "\(disk)/root.hds", "b", "7", "250")
        for readOnly in [false, true] {
            var options = DiskOptions.standard
            options.readOnly = readOnly
            let error = #expect(throws: DiskError.self) { _ = try Disk.open(disk, in: fs, options: options) }
            #expect(error?.code == .unsupported)
        }
    }

    @Test("the absolute name of a file in the folder is as good as its name") func absolute() throws {
        let folder = try TemporaryFolder()
        let disk = try makeDisk(folder)
        let descriptor = "\(disk)/DiskDescriptor.xml"
        let text = String(decoding: try readFile(descriptor), as: UTF8.self)
            .replacing(">root.hds<", with: ">\(disk)/root.hds<")
        try fs.replaceContents(of: descriptor, with: [UInt8](text.utf8))
        try Disk.open(disk, in: fs).close()
    }

    @Test("what is written never goes through somebody's link") func links() throws {
        let folder = try TemporaryFolder()
        let disk = try makeDisk(folder)
        let victim = folder.file("victim")
        try write(victim, "precious")
        let place = DiskFolder(resolvedPath: disk, fs: fs)
        let descriptor = try place.load()
        try expectTool("ln", "-s", victim, "\(disk)/DiskDescriptor.xml.tmp")
        #expect(throws: DiskError.self) { try place.store(descriptor) }
        #expect(throws: DiskError.self) { try place.stage(descriptor) }
        try expectTool("ln", "-s", folder.file("made"), "\(disk)/godwit.lock")
        #expect(throws: DiskError.self) { try place.lockOwner() }
        #expect(try readFile(victim) == [UInt8]("precious".utf8))
        #expect(try !fs.exists(folder.file("made")))
        // The staging file of an earlier change goes, the link and not what it leads to.
        try fs.remove("\(disk)/godwit.lock")
        try Disk.open(disk, in: fs).close()
        #expect(try readFile(victim) == [UInt8]("precious".utf8))
    }

    @Test("a pipe in the place of a file is refused at once", .timeLimit(.minutes(5))) func pipes() throws {
        let folder = try TemporaryFolder()
        let disk = try makeDisk(folder)
        try fs.remove("\(disk)/root.hds")
        try expectTool("mkfifo", "\(disk)/root.hds")
        #expect(throws: DiskError.self) { try Disk.open(disk, in: fs) }
        #expect(throws: DiskError.self) { try diskInfo(at: disk, in: fs) }
        #expect(throws: DiskError.self) { try checkDisk(at: "\(disk)/root.hds", in: fs) }
        try fs.remove("\(disk)/DiskDescriptor.xml")
        try expectTool("mkfifo", "\(disk)/DiskDescriptor.xml")
        #expect(throws: DiskError.self) { try Disk.open(disk, in: fs) }
    }

    @Test("whoever changes the descriptor holds the lock that ploop's tools take") func descriptorLock() throws {
        let folder = try TemporaryFolder()
        let place = DiskFolder(resolvedPath: try makeDisk(folder), fs: fs)
        let lock = "\(place.path)/DiskDescriptor.xml.lck"
        var isHeld = false
        try place.updateDescriptor { _ throws(ImageError) in
            do { isHeld = try fs.lock(lock, wait: false) == nil } catch { Issue.record("\(error)") }
        }
        #expect(isHeld)
        #expect(try fs.lock(lock, wait: false) != nil)
    }

    @Test("who could read a disk can read it after a snapshot", .enabled(if: isRoot)) func attributes() throws {
        let folder = try TemporaryFolder()
        let disk = try makeDisk(folder)
        for name in ["DiskDescriptor.xml", "root.hds"] {
            try expectTool("chown", "1:2", "\(disk)/\(name)")
            try expectTool("chmod", "640", "\(disk)/\(name)")
        }
        let open = try Disk.open(disk, in: fs)
        let guid = try open.commitSnapshot(try open.prepareSnapshot()).guid
        try open.close()
        try switchSnapshot(of: disk, to: guid, in: fs)
        for name in try fs.list(disk) where name.hasPrefix("root.hds") || name == "DiskDescriptor.xml" {
            #expect(try expectTool("stat", "-c", "%u:%g %a", "\(disk)/\(name)") == "1:2 640\n", "\(name)")
        }
    }
}
