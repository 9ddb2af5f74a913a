import Backup
import BackupStore
import BlockIO
import DiskImage
import Glibc
import TestSupport
import Testing

/// Restores beside each other, and beside things that are not theirs.
@Suite struct RestoreBesideTests {
    private static func prepared() throws -> (world: StoreWorld, point: RestorePoint, content: [UInt8]) {
        let world = try StoreWorld(backups: 1)
        try world.fs.createFolder("/restored")
        let last = try #require(world.kept.last)
        return (world, last.point, last.content)
    }

    private static func job(_ point: RestorePoint, _ target: RestoreTarget) -> RestoreJob {
        var job = RestoreJob(point: point, target: target)
        job.workers = 1
        return job
    }

    @Test("of two restores to one place the second is refused, and the first is right")
    func twice() throws {
        let (world, point, content) = try Self.prepared()
        let store = try world.open()
        defer { store.close() }
        let target = RestoreTarget.raw(file: "/restored/it")
        var refused = 0
        _ = try Self.job(point, target).run(store: store, in: world.fs) { _, _ in
            let error = #expect(throws: BackupError.self) {
                _ = try Self.job(point, target).run(store: store, in: world.fs)
            }
            #expect(error?.code == .busy)
            refused += 1
            return true
        }
        #expect(refused > 0)
        #expect(isSame(try world.fs.contents(of: "/restored/it", limit: 1 << 30), content))
        #expect(try world.fs.list("/restored") == ["it"])
    }

    @Test("a target that somebody makes meanwhile stays, and the restore fails") func takenMeanwhile() throws {
        let (world, point, _) = try Self.prepared()
        let store = try world.open()
        defer { store.close() }
        let error = #expect(throws: BackupError.self) {
            _ = try Self.job(point, .raw(file: "/restored/it")).run(store: store, in: world.fs) { _, _ in
                if (try? world.fs.exists("/restored/it")) == false {
                    _ = try? world.fs.open("/restored/it", OpenMode(writable: true, creation: .exclusive))
                }
                return true
            }
        }
        #expect(error?.code == .exists)
        #expect(try world.fs.fileSize("/restored/it") == 0)
        #expect(try world.fs.list("/restored") == ["it"])
    }

    @Test("what is not of a restore stays, whatever its name is") func foreign() throws {
        let (world, point, content) = try Self.prepared()
        let store = try world.open()
        defer { store.close() }
        let fs = world.fs
        let name = "/restored/it.restoring"
        try fs.createFolder(name)
        _ = try fs.open(name + "/root.hds", OpenMode(writable: true, creation: .exclusive))
        for (suffix, file) in [("0123456789abcdef", "notes"), ("0123456789abcdee", "root.hds")] {
            try fs.createFolder("\(name)-\(suffix)")
            _ = try fs.open("\(name)-\(suffix)/\(file)", OpenMode(writable: true, creation: .exclusive))
        }
        // A restore's, into which somebody has put something.
        try fs.createFolder("\(name)-0123456789abcded")
        for file in ["lock", "content"] {
            if file == "content" { try fs.createFolder("\(name)-0123456789abcded/content") }
            let path = "\(name)-0123456789abcded/" + (file == "content" ? "content/mine" : file)
            _ = try fs.open(path, OpenMode(writable: true, creation: .exclusive))
        }
        let before = try fs.list("/restored")
        _ = try Self.job(point, .raw(file: "/restored/it")).run(store: store, in: fs)
        #expect(isSame(try fs.contents(of: "/restored/it", limit: 1 << 30), content))
        #expect(try fs.list("/restored") == ["it"] + before)
        #expect(try fs.exists("\(name)-0123456789abcded/content/mine"))
    }

    @Test("a link in what looks like a killed restore is not followed") func link() throws {
        let (world, point, content) = try Self.prepared()
        let store = try world.open()
        defer { store.close() }
        let folder = try TemporaryFolder()
        let fs = LinuxFileSystem()
        let left = folder.file("it.restoring-0123456789abcdef")
        for path in [folder.file("other"), left] { try fs.createFolder(path) }
        for path in [folder.file("other/root.hds"), left + "/lock"] {
            _ = try fs.open(path, OpenMode(writable: true, creation: .exclusive))
        }
        try #require(symlink(folder.file("other"), left + "/content") == 0)
        _ = try Self.job(point, .raw(file: folder.file("it"))).run(store: store, in: fs)
        #expect(isSame(try fs.contents(of: folder.file("it"), limit: 1 << 30), content))
        #expect(try fs.exists(folder.file("other/root.hds")))
    }

    @Test("a place in a store, or no folder to be in, is refused") func places() throws {
        let (world, point, _) = try Self.prepared()
        let store = try world.open()
        defer { store.close() }
        let code = { (path: String) -> BackupError.Code? in
            do throws(BackupError) { _ = try Self.job(point, .raw(file: path)).run(store: store, in: world.fs) } catch {
                return error.code
            }
            return nil
        }
        #expect(code(StoreWorld.path + "/packs/it") == .invalid)
        #expect(code(StoreWorld.path) == .invalid)
        #expect(code("/nowhere/it") == .disk(.notFound))
    }
}
