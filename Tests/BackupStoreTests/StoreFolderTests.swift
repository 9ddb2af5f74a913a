import BlockIO
import Glibc
import TestSupport
import Testing

@testable import BackupStore

@Suite struct StoreFolderTests {
    @Test(
        "a store whose folder is a symbolic link is refused, and nothing is touched where it leads",
        arguments: ["packs", "index", "points", "tmp", "aside"], [true, false])
    func links(name: String, writable: Bool) throws {
        let folder = try TemporaryFolder()
        let fs = LinuxFileSystem()
        let path = folder.file("store")
        try LocalStore.create(at: path, uuid: "u", chunkBytes: 4096, in: fs)
        let outside = folder.file("outside")
        try fs.createFolder(outside)
        // What a dead writer could have left.
        let stray = "\(outside)/0123456789abcdef.1"
        try fs.open(stray, OpenMode(writable: true, creation: .exclusive)).writeBytes([1], at: 0)
        if name != "aside" { try fs.removeFolder("\(path)/\(name)") }
        try #require(symlink(outside, "\(path)/\(name)") == 0)
        let error = #expect(throws: StoreError.self) {
            _ = try LocalStore(opening: path, writable: writable, in: fs)
        }
        #expect(error?.code == .refused && error?.message.contains(name) == true)
        #expect(try fs.list(outside) == ["0123456789abcdef.1"])
        // The store itself may be reached through one.
        try #require(unlink("\(path)/\(name)") == 0)
        if name != "aside" { try fs.createFolder("\(path)/\(name)") }
        try #require(symlink(path, folder.file("way")) == 0)
        try LocalStore(opening: folder.file("way"), writable: writable, in: fs).close()
    }

    /// As when the disk that it lies on is changed under its mount point.
    @Test("no index is put into a store that has the place of the one that was opened")
    func exchanged() throws {
        var content = try FilledStore()
        let (fs, path) = (content.fs, FilledStore.path)
        _ = try content.put([[1, 2, 3]], indexed: false)
        try fs.rename(path, to: path + ".gone")
        try LocalStore.create(at: path, uuid: "v", chunkBytes: 4096, in: fs)
        #expect { try content.store.flushRecent() } throws: {
            let error = $0 as? StoreError
            return error?.code == .io && error?.message.contains("is another one") == true
        }
        for name in ["index", "packs", "points"] { #expect(try fs.list("\(path)/\(name)").isEmpty) }
        #expect(try LocalStore(opening: path, in: fs).damage() == nil)
    }

    @Test("a folder of packs that is a link is refused") func packFolder() throws {
        let folder = try TemporaryFolder()
        let fs = LinuxFileSystem()
        let path = folder.file("store")
        try LocalStore.create(at: path, uuid: "u", chunkBytes: 4096, in: fs)
        try fs.createFolder(folder.file("outside"))
        try #require(symlink(folder.file("outside"), "\(path)/packs/ab") == 0)
        #expect(throws: StoreError.self) { _ = try LocalStore(opening: path, in: fs) }
    }
}
